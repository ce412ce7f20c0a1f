package netlab

// newerDebianRoot is where deploy/newer-debian.sh unpacks programs of a newer Debian
// and the libraries they need.
const newerDebianRoot = "/var/cache/vpngw-newer-debian"

// newerDebian lays the tree's /usr over that of the host, and a scratch layer over
// /etc, where OpenVPN 2.7 installs DNS servers unasked: in a plain resolv.conf, which
// is no other program's. Whatever is to run follows.
const newerDebian = `set -e
mount -t overlay -o "lowerdir=$0/usr:/usr" none /usr
mount -t tmpfs none /mnt
mkdir /mnt/etc /mnt/work
cp -L /etc/resolv.conf /mnt/etc/ 2>/dev/null || : >/mnt/etc/resolv.conf
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work none /etc
exec "$@"`

// NewerDebian makes of a command one that finds those programs and libraries before
// the host's: OpenVPN 2.7 and 3, and strongSwan 6. This process and those it starts see them
// in /usr, where all else is as on the host, and alone see what they write to /etc.
func NewerDebian(args ...string) []string {
	return append([]string{"unshare", "--mount", "sh", "-c", newerDebian, newerDebianRoot}, args...)
}
