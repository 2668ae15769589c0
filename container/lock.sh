#!/usr/bin/env bash
# Writes the locks anew from pyproject.toml and constraints.txt; needs uv.
#
#   container/lock.sh
#
# lock-cuda.txt takes torch from PyPI. lock-cpu.txt takes torch's CPU build, which PyPI does not have: name where
# it is in UV_FIND_LINKS, or PyTorch's CPU index in UV_INDEX.
set -euo pipefail
cd "$(dirname "$0")/.."
common=(--quiet --generate-hashes --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28
  --constraint constraints.txt --extra torch --custom-compile-command container/lock.sh
  --no-emit-index-url --no-emit-find-links)
torch=$(grep '^torch==' constraints.txt)

uv pip compile "${common[@]}" pyproject.toml --output-file container/lock-cuda.txt
uv pip compile "${common[@]}" --override <(echo "$torch+cpu") pyproject.toml --output-file container/lock-cpu.txt
