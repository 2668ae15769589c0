#!/usr/bin/env bash
# Puts real trained weights into a private, cached folder: AntiBERTy, a BERT of antibodies, from its package (MIT, 97 MB).
#
#   .ci/install-antiberty.sh [FOLDER]      default ~/.cache/hpc-embed/antiberty
#
# The package is unpacked and not installed, and none of it is run. Without a package index this says so, and the tests
# that need it are skipped.
set -euo pipefail
folder=$(readlink -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hpc-embed/antiberty}")
package='antiberty==0.1.3 --hash=sha256:30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a'
[ ! -d "$folder" ] || exit 0

mkdir -p "$(dirname "$folder")"
scratch=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
python=${PYTHON:-python3}
if ! "$python" -m pip --version >/dev/null 2>&1; then
  "$python" -m venv "$scratch/venv"
  python=$scratch/venv/bin/python
fi
echo "$package" >"$scratch/wanted.txt"
if ! "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
  --dest "$scratch" --requirement "$scratch/wanted.txt"; then
  echo "not fetching AntiBERTy: no package index in reach; tests on real trained weights are skipped"
  exit 0
fi
echo "unpacking AntiBERTy into $folder"
"$python" -m zipfile --extract "$scratch"/antiberty-*.whl "$scratch/package"
chmod 755 "$scratch/package"
mv --no-target-directory "$scratch/package" "$folder"
