#!/usr/bin/env bash
# Puts a real Apptainer and a small Debian to build on into a private, cached folder; nothing of the host changes.
#
#   .ci/install-apptainer.sh [FOLDER]      default ~/.cache/hpc-embed/apptainer
#
# Apptainer comes from Debian's packages of a newer release, together with the C library that they need. As root
# on Debian; elsewhere it says so, and the tests of the image are skipped.
set -euo pipefail
prefix=$(readlink -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/hpc-embed/apptainer}")
needed=(patchelf squashfs-tools squashfuse uidmap mmdebstrap)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null || [ ! -e "$keyring" ] || [ "$(uname -m)" != x86_64 ]; then
  echo "not installing Apptainer: needs root on Debian, x86_64; tests of the image are skipped"
  exit 0
fi

missing=()
for package in "${needed[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "installing Debian packages for the tests of the image: ${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
fi

mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep --invert-match security | head -1)

install_apptainer() {
  echo "installing Apptainer into $prefix"
  rm -rf "$prefix/root"
  local root=$prefix/root packages=$prefix/packages lists=$prefix/lists
  mkdir -p "$root/libraries" "$packages/partial" "$lists/partial" "$root/var/lib/apptainer/mnt/session"
  printf "deb [signed-by=$keyring] $mirror %s main\n" trixie sid >"$prefix/sources.list"
  local options=(-o "Dir::Etc::sourcelist=$prefix/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$lists"
    -o "Dir::Cache::archives=$packages" -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root
    -o Acquire::Languages=none)
  apt-get "${options[@]}" -qq update
  (cd "$packages" && apt-get "${options[@]}" -qq download apptainer libc6/trixie libseccomp2/trixie libsqlite3-0/trixie)
  dpkg-deb -x "$packages"/apptainer_*.deb "$root"
  local library
  for library in libc6 libseccomp2 libsqlite3-0; do dpkg-deb -x "$packages/${library}"_*.deb "$root/libraries"; done
  local libraries=$root/libraries/usr/lib/x86_64-linux-gnu program
  for program in usr/bin/apptainer usr/lib/x86_64-linux-gnu/apptainer/bin/starter; do
    patchelf --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" "$root/$program"
  done
  # where the relocated command and its starter look for their configuration
  ln -sfn ../etc "$root/usr/etc"
  ln -sfn ../var "$root/usr/var"
  ln -sfn ../../etc "$root/usr/lib/etc"
  ln -sfn ../../var "$root/usr/lib/var"
  rm -rf "$packages" "$lists"
}

make_base() {
  echo "making a base for the image in $prefix/base"
  rm -rf "$prefix/base" "$prefix/base.owned"
  mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,python3-pip,python3-dev,g++,ca-certificates \
    bookworm "$prefix/base.owned" "$mirror"
  # one owner for all files, as a build without privileges needs it
  cp --recursive --no-preserve=ownership "$prefix/base.owned" "$prefix/base.tmp"
  rm -rf "$prefix/base.owned" "$prefix"/base.tmp/dev/* # device nodes cannot be copied without privileges
  mv "$prefix/base.tmp" "$prefix/base"
}

mkdir -p "$prefix"
"$prefix/root/usr/bin/apptainer" --version >/dev/null 2>&1 || install_apptainer
[ -x "$prefix/base/usr/bin/c++" ] || make_base
"$prefix/root/usr/bin/apptainer" --version
