#!/usr/bin/env bash
# Installs the Debian packages that `make run` and `make test` use and that are
# not there yet. Needs root only when something is missing.
set -euo pipefail

packages=(
  # the peer: stock strongSwan
  charon-systemd strongswan-swanctl libstrongswan-standard-plugins
  libstrongswan-extra-plugins libcharon-extra-plugins
  # the stock client of client-to-cloud, and what runs that of OpenVPN 3
  openvpn dbus-daemon
  # namespaces, NAT, captures, load
  iproute2 nftables conntrack iputils-ping iperf3 tcpdump tshark procps ca-certificates
  # a kernel with ESP, for hosts whose own has none, and NAT in it
  user-mode-linux kmod iptables
  # a newer kernel, with XFRM interfaces, and what runs it
  qemu-system-x86 busybox-static cpio xz-utils
  # what libreswan needs, which is unpacked below
  libldns3 libevent-core-2.1-7 libevent-pthreads-2.1-7 libnss3-tools libunbound8 libcap-ng0
  libaudit1 libcurl3-nss libldap-2.5-0 libselinux1
  # questions of all sorts to an IKE daemon
  ike-scan
  # the other store
  etcd-server
  # certificates and checks of SM2, SM3 and SM4 that are not ours
  openssl
  # the race detector
  gcc libc6-dev
  # what is generated is compared by what is tracked
  git
)

# The other peer, whose package and strongSwan's exclude each other, and what would
# take this host's /etc/resolv.conf over: both are unpacked beside the system.
libreswan=/var/cache/vpngw-libreswan
openresolv=/var/cache/vpngw-openresolv

missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${Status}' "$p" 2>/dev/null)" = "install ok installed" ] || missing+=("$p")
done
kernel=${VPNGW_QEMU_DIR:-/var/cache/vpngw-qemu}/initrd
beside=()
[ -x $libreswan/usr/libexec/ipsec/pluto ] || beside+=($libreswan)
[ -x $openresolv/sbin/resolvconf ] || beside+=($openresolv)
here=$(dirname "$0")
newer=
if "$here"/newer-debian.sh missing; then newer='programs of a newer Debian'; fi
if [ ${#missing[@]} -eq 0 ] && [ ${#beside[@]} -eq 0 ] && [ -s "$kernel" ] && [ -z "$newer" ]; then exit 0; fi

echo "installing: ${missing[*]} ${beside[*]##*/vpngw-} $([ -s "$kernel" ] || echo linux-image-6.12) $newer"
if [ "$(id -u)" != 0 ]; then
  echo "deps: needs root" >&2
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
[ ${#missing[@]} -eq 0 ] ||
  apt-get install -y -qq -o Acquire::Retries=3 --no-install-recommends "${missing[@]}" >/dev/null
for target in "${beside[@]}"; do
  package=${target##*/vpngw-}
  work=$(mktemp -d)
  chown _apt "$work"
  (cd "$work" && apt-get download -qq -o Acquire::Retries=3 "$package" >/dev/null)
  dpkg -x "$work/${package}"_*.deb "$target.new"
  rm -rf "$work" "$target"
  mv "$target.new" "$target"
done
[ -s "$kernel" ] || "$here"/e2e/qemu.sh setup
[ -z "$newer" ] || "$here"/newer-debian.sh setup
