#!/usr/bin/env bash
# Builds the image: the wheel, the locked wheels, then Apptainer. Tells time and size.
#
#   container/build.sh [OUTPUT]          default hpc_embed.sif
#
# Environment:
#   LOCK=lock-cuda.txt     the lock: lock-cuda.txt or lock-cpu.txt, or the path of another
#   BASE, BOOTSTRAP        another base: BOOTSTRAP=localimage BASE=/path/to/rootfs; for a release pin the default
#                          by digest: BASE=python:3.11-slim-bookworm@sha256:…
#   SANDBOX=1              a folder instead of a SIF
#   APPTAINER_BUILD        how to call the builder [apptainer build]
#   PYTHON                 the Python that collects the wheels [python3]
#   WHEELS                 where the wheels go [build/wheels]
set -euo pipefail
cd "$(dirname "$0")/.."
output=$(readlink -m "${1:-hpc_embed.sif}")
python=${PYTHON:-python3}
lock=${LOCK:-lock-cuda.txt}
[ -e "$lock" ] || lock=container/$lock
wheels=$(readlink -m "${WHEELS:-build/wheels}")
read -ra builder <<<"${APPTAINER_BUILD:-apptainer build}"
started=$SECONDS

mkdir -p "$wheels"
rm -f "$wheels"/hpc_embed-*.whl
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$wheels" .
# for the image's Python, whatever the host's; each file is checked against the lock
"$python" -m pip download --quiet --disable-pip-version-check --require-hashes --requirement "$lock" --dest "$wheels" \
  --no-deps --only-binary=:all: --implementation cp --python-version 3.11 \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --platform manylinux_2_12_x86_64 --platform manylinux2010_x86_64 \
  --platform manylinux_2_5_x86_64 --platform manylinux1_x86_64
cp "$lock" "$wheels/"

version=$("$python" -c 'import re, pathlib; print(re.search(r"\"(.+)\"", pathlib.Path("hpc_embed/__init__.py").read_text().split("__version__")[1]).group(1))')
arguments=(--build-arg "VERSION=$version" --build-arg "LOCK=$(basename "$lock")")
[ -z "${BOOTSTRAP:-}" ] || arguments+=(--build-arg "BOOTSTRAP=$BOOTSTRAP")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
[ -z "${SANDBOX:-}" ] || arguments+=(--sandbox)
"${builder[@]}" --force --bind "$wheels:/mnt" "${arguments[@]}" "$output" container/Apptainer.def
echo "$output: $(du -sh "$output" | cut -f1), built in $((SECONDS - started)) s"
