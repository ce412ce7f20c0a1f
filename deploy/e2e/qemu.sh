#!/usr/bin/env bash
# qemu.sh - runs a command under Debian's kernel 6.12 in QEMU, for what the kernel
# of user-mode Linux lacks: XFRM interfaces. This machine's file system is its root.
# The CPU is emulated, some 50 times slower: never measure a time there.
#
#   qemu.sh setup                 fetches the kernel and makes the boot image
#   qemu.sh [-m MEM] [-t SECONDS] CMD [ARGS...]
#       -m MEM      memory of the guest (default 1G)
#       -t SECONDS  limit for boot and command together (default 600)
#   qemu.sh [-m MEM] [-t SECONDS] test DIRECTORY [ARGS...]
#       builds the tests of a directory that need kernel ESP, with the tag
#       kernelesp, and runs those called TestKernel… in a guest; the arguments,
#       such as -test.run, are the test program's
#
# The command runs as root in the current directory, without input. Its output,
# both streams as one, and its exit code are those of this script; 124 means past
# the limit, 125 that the guest did not start or died. What the command writes
# outside /run, /dev/shm and the temporary directory stays on this machine.
# VPNGW_QEMU_DIR (default /var/cache/vpngw-qemu) keeps kernel and image.
# Debian packages: qemu-system-x86 busybox-static kmod cpio xz-utils.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

usage() { sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 125; }
fail() { echo "qemu.sh: $*" >&2; exit 125; }

cache=${VPNGW_QEMU_DIR:-/var/cache/vpngw-qemu}
modules='9p 9pnet_virtio virtio_pci xfrm_user xfrm_interface esp4 esp6 ip_vti authenc authencesn
 cbc ctr gcm seqiv echainiv aesni_intel chacha20poly1305 chacha_generic poly1305_generic des_generic
 sha256_generic sha512_generic md5 xfrm4_tunnel xfrm6_tunnel tun veth nf_tables nft_nat
 nft_chain_nat nft_masq nft_ct udp_tunnel cls_matchall act_police sch_ingress'

work=$(mktemp -d "${TMPDIR:-/tmp}/vpngw-qemu.XXXXXX")
trap 'rm -rf "$work"' EXIT

setup() {
  for c in qemu-system-x86_64 busybox modprobe depmod cpio xz; do
    command -v "$c" >/dev/null || fail "$c is missing (see the packages above)"
  done
  mkdir -p "$cache"
  kernel=$(apt-cache search '^linux-image-6\.12\.[0-9]+\+deb12-amd64$' | awk '{print $1}' | sort -V | tail -1)
  [ -n "$kernel" ] || fail "there is no package of a kernel 6.12 (apt-get update?)"
  mkdir "$work/download"
  chown _apt "$work/download" 2>/dev/null || true
  chmod 755 "$work"
  (cd "$work/download" && apt-get download -qq -o Acquire::Retries=3 "$kernel" >/dev/null) || fail "cannot fetch $kernel"
  dpkg-deb -x "$work"/download/"$kernel"_*.deb "$work/kernel"
  release=${kernel#linux-image-}
  depmod -b "$work/kernel" "$release"
  image=$work/image
  mkdir -p "$image"/{bin,proc,sys,dev,guest,modules}
  cp "$(command -v busybox)" "$image/bin/busybox"
  for m in $modules; do
    modprobe -d "$work/kernel" -S "$release" --show-depends "$m" 2>/dev/null | awk '/^insmod/ {print $2}' || true
  done | awk '!seen[$0]++' >"$work/files"
  while read -r file; do
    name=$(basename "$file" .xz)
    case $file in
      *.xz) xz -dc "$file" >"$image/modules/$name" ;;
      *) cp "$file" "$image/modules/$name" ;;
    esac
    echo "$name" >>"$image/modules/order"
  done <"$work/files"
  cat >"$image/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read m; do $b insmod /modules/$m 2>/dev/null; done </modules/order
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose host /guest || $b poweroff -f
$b mount -t proc proc /guest/proc
$b mount -t sysfs sys /guest/sys
$b mount -t devtmpfs dev /guest/dev
$b mount -t tmpfs run /guest/run
$b mkdir -p /guest/dev/pts /guest/dev/shm /guest/run/netns /guest/run/lock /guest/run/tmp
$b mount -t devpts pts /guest/dev/pts
$b mount -t tmpfs shm /guest/dev/shm
job=$($b sed 's/.*vpngw_job=\([^ ]*\).*/\1/' /proc/cmdline)
exec $b chroot /guest /bin/bash "$job"
INIT
  chmod 755 "$image/init"
  (cd "$image" && find . | cpio -o -H newc 2>/dev/null | gzip -1 >"$work/initrd")
  cp "$work/kernel/boot/vmlinuz-$release" "$cache/vmlinuz"
  echo "$modules" >"$cache/modules"
  mv "$work/initrd" "$cache/initrd" # last: it says that all is there
}

memory=1G limit=600
while getopts m:t: option; do
  case $option in
    m) memory=$OPTARG ;;
    t) limit=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
if [ "$1" = setup ]; then
  setup
  exit 0
fi
[ -s "$cache/initrd" ] && [ "$(cat "$cache/modules" 2>/dev/null)" = "$modules" ] || setup

if [ "$1" = test ]; then
  [ $# -gt 1 ] || usage
  cd "$2"
  shift 2
  go test -c -tags kernelesp -o "$work/scenarios" .
  set -- "$work/scenarios" -test.v -test.run '^TestKernel' -test.timeout "${limit}s" "$@"
fi

{
  for v in PATH HOME; do [ -z "${!v-}" ] || printf 'export %s=%q\n' "$v" "${!v}"; done
  echo 'export TMPDIR=/run/tmp'
  printf 'ip link set lo up; cd %q\n' "$PWD"
  printf '%q ' "$@"
  printf '</dev/null >%q 2>&1\n' "$work/output"
  printf 'echo $? >%q; sync; echo o >/proc/sysrq-trigger; sleep 10\n' "$work/status"
} >"$work/job"
: >"$work/output"
tail -f "$work/output" &
follower=$!
begin=$SECONDS
# One processor: with two, what one has translated can still hold a breakpoint that
# the other set while it changed the kernel's code and has removed, and the kernel panics.
timeout -k 5 "$limit" qemu-system-x86_64 -machine q35,accel=tcg -cpu max -smp 1 -m "$memory" -nographic -no-reboot \
  -kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
  -fsdev local,id=host,path=/,security_model=passthrough,multidevs=remap -device virtio-9p-pci,fsdev=host,mount_tag=host \
  -append "console=ttyS0 panic=-1 quiet mitigations=off vpngw_job=$work/job" </dev/null >"$work/console" 2>&1 &
guest=$!
trap 'kill "$guest" "$follower" 2>/dev/null; wait || true; rm -rf "$work"; exit 125' TERM INT HUP
wait "$guest" || true
trap - TERM INT HUP
sleep 0.5 # what the guest wrote last
kill "$follower" 2>/dev/null || true
wait "$follower" 2>/dev/null || true
[ ! -s "$work/status" ] || exit "$(cat "$work/status")"
if [ $((SECONDS - begin)) -ge "$limit" ]; then
  echo "qemu.sh: past the limit of $limit s" >&2
  exit 124
fi
tail -40 "$work/console" >&2
fail "the guest died"
