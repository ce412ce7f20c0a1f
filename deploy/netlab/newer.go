package netlab

// newerDebianRoot is where deploy/newer-debian.sh unpacks programs of a newer Debian
// and the libraries they need.
const newerDebianRoot = "/var/cache/vpngw-newer-debian"

// NewerDebian makes of a command one that finds those programs and libraries before
// the host's: OpenVPN 2.7 and strongSwan 6. They are laid over /usr where this
// process alone sees it, so that what they start finds all else as on the host. /etc
// is the host's.
func NewerDebian(args ...string) []string {
	const overlay = `mount -t overlay -o "lowerdir=$0/usr:/usr" none /usr && exec "$@"`
	return append([]string{"unshare", "--mount", "sh", "-c", overlay, newerDebianRoot}, args...)
}
