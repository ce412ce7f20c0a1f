#!/usr/bin/env bash
# Installs the Debian packages that `make run` and `make test` use and that are
# not there yet. Needs root only when something is missing.
set -euo pipefail

packages=(
  # the peer: stock strongSwan
  charon-systemd strongswan-swanctl libstrongswan-standard-plugins
  libstrongswan-extra-plugins libcharon-extra-plugins
  # the stock client of client-to-cloud
  openvpn
  # namespaces, NAT, captures, load
  iproute2 nftables conntrack iputils-ping iperf3 tcpdump tshark procps ca-certificates
  # a kernel with ESP, for hosts whose own has none
  user-mode-linux kmod
  # the other store
  etcd-server
  # the race detector
  gcc libc6-dev
  # what is generated is compared by what is tracked
  git
)

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" = "install ok installed" ] || missing+=("$p")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing: ${missing[*]}"
if [ "$(id -u)" != 0 ]; then
  echo "deps: needs root; run: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Debian would start services of some of these at once. Tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq -o Acquire::Retries=3
apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends "${missing[@]}" >/dev/null
