#!/usr/bin/env bash
# uml.sh - runs a command in a user-mode Linux guest, whose kernel has ESP where
# this machine's may not, with this machine's file system as its root.
#
#   uml.sh [-m MEM] [-t SECONDS] [-k LOG] CMD [ARGS...]
#       -m MEM      memory of the guest (default 1024M)
#       -t SECONDS  limit for boot and command together (default 900)
#       -k LOG      file for the guest kernel's console
#   uml.sh [-m MEM] [-t SECONDS] [-k LOG] test DIRECTORY [ARGS...]
#       builds the tests of a directory that need kernel ESP, with the tags e2e,
#       uml and kernelesp, and runs those called TestUML… and TestKernel… in a
#       guest; the arguments, such as -test.run, are the test program's
#
# The command runs as root in the current directory, without input. Its output
# and exit code are those of this script; 124 means past the limit, 125 that the
# guest did not start or died. What the command writes outside /run, /dev/shm
# and the temporary directory stays on this machine.
# Debian packages: user-mode-linux kmod; gcc libc6-dev on a CPU with AMX.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

usage() { sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//'; exit 125; }
fail() { echo "uml.sh: $*" >&2; exit 125; }

memory=1024M limit=900 console=/dev/null
while getopts m:t:k: option; do
  case $option in
    m) memory=$OPTARG ;;
    t) limit=$OPTARG ;;
    k) console=$OPTARG ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage
kernel=$(command -v linux.uml) || fail "linux.uml is missing (package user-mode-linux)"
command -v modprobe >/dev/null || fail "modprobe is missing (package kmod)"

work=$(mktemp -d "${TMPDIR:-/tmp}/vpngw-uml.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [ "$1" = test ]; then
  [ $# -gt 1 ] || usage
  cd "$2"
  shift 2
  go test -c -tags 'e2e uml kernelesp' -o "$work/scenarios" .
  set -- "$work/scenarios" -test.v -test.run '^Test(UML|Kernel)' -test.timeout "${limit}s" "$@"
fi

# UML hands a process's vector registers to ptrace in a buffer that is too short
# for a CPU with AMX, and gets EFAULT. The shim fills in the rest.
shim=
if grep -qw amx_tile /proc/cpuinfo; then
  shim=$work/xstate.so
  gcc -shared -fPIC -O2 -o "$shim" -x c - <<'C' || fail "a CPU with AMX needs gcc and libc6-dev"
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
enum { getregset = 0x4204, setregset = 0x4205, xstate = 0x202 };
static char whole[1 << 16];
long ptrace(long request, long pid, long address, void *data) {
  struct iovec all = {whole, sizeof whole}, *given = data;
  long word;
  if (request >= 1 && request <= 3) /* the system call stores what libc returns */
    return syscall(SYS_ptrace, request, pid, address, &word) < 0 ? -1 : word;
  if (request == setregset && address == xstate) {
    if (syscall(SYS_ptrace, getregset, pid, address, &all) < 0) return -1;
    if (given->iov_len < all.iov_len) {
      memcpy(whole, given->iov_base, given->iov_len);
      data = &all;
    }
  }
  return syscall(SYS_ptrace, request, pid, address, data);
}
C
fi

# What is not loaded on demand.
modules='ipv6 xfrm_user esp4 esp6 ip_vti tun veth nf_tables'

quote() { printf '%q ' "$@"; }
{
  echo '#!/bin/bash'
  for v in PATH HOME VPNGW_BIN; do [ -z "${!v-}" ] || printf 'export %s=%q\n' "$v" "${!v}"; done
  cat <<'GUEST'
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/tmp
export TMPDIR=/run/tmp
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
mkdir -p /run/modules/lib/modules
ln -s "/usr/lib/uml/modules/$(uname -r)" /run/modules/lib/modules/
# The kernel asks for the modules it finds it needs through this.
printf '#!/bin/sh\nexec modprobe -d /run/modules "$@"\n' >/run/modprobe
chmod 755 /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
stty -F /dev/tty1 -opost
stty -F /dev/tty2 -opost
GUEST
  for m in $modules; do echo "modprobe -d /run/modules -q $m 2>/dev/null"; done
  printf 'cd %q\n' "$PWD"
  # A session of its own: the consoles are for its output only.
  printf 'setsid -w %s </dev/null >/dev/tty1 2>/dev/tty2\n' "$(quote "$@")"
  printf 'echo $? >%q\n' "$work/status"
  echo 'sync; stty -F /dev/tty1 -a >/dev/null; sleep 0.2; echo o >/proc/sysrq-trigger; sleep 10'
} >"$work/init"
chmod 755 "$work/init"

begin=$SECONDS
timeout -k 5 "$limit" env ${shim:+LD_PRELOAD="$shim"} "$kernel" mem="$memory" uml_dir="$work/" umid=guest \
  rootfstype=hostfs rootflags=/ rw quiet random.trust_cpu=on \
  ssl=null con=null con0=null,fd:3 con1=null,fd:1 con2=null,fd:2 init="$work/init" 3>"$console" </dev/null &
guest=$!
trap 'kill "$guest" 2>/dev/null; wait "$guest" || true; rm -rf "$work"; exit 125' TERM INT HUP
wait "$guest" || true
trap - TERM INT HUP
[ ! -s "$work/status" ] || exit "$(cat "$work/status")"
if [ $((SECONDS - begin)) -ge "$limit" ]; then
  echo "uml.sh: past the limit of $limit s" >&2
  exit 124
fi
fail "the guest died (try -k FILE)"
