#!/usr/bin/env bash
# Installs the Debian packages that the tests use, where it may: as root, on a system with apt-get.
# Elsewhere it says so, and the tests that need them are skipped with their reason.
set -euo pipefail
packages=(
  mmseqs2-examples # 20,000 real proteins
  slurmctld slurmd slurm-client slurmdbd munge mariadb-server iproute2 # a real Slurm
  zsh fish # completion is tried in them
  fuse3 # a disk of our own, which forgets what was not synced
)
# the attention kernel is built with the package, and torch.compile is tried in a test
command -v cc >/dev/null && command -v c++ >/dev/null || packages+=(gcc g++ libc6-dev)

missing=()
for package in "${packages[@]}"; do
  dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
elif [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installing ${missing[*]}: needs root on Debian or Ubuntu; tests that need them are skipped"
  exit 0
fi
echo "installing Debian packages for the tests: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# policy-rc.d: the packages must not start their daemons, the tests start their own
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
