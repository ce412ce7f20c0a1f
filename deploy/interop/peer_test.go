//go:build e2e

package interop

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// peer is the IPsec of another maker on a router.
type peer interface {
	// start starts it with the configuration of all the router's cells, none of
	// which it begins by itself.
	start(ctx context.Context, r *router) error
	// initiate begins a cell and waits until it is up.
	initiate(ctx context.Context, c cell) error
	// rekeyChild begins to renew the keys of a cell's CHILD_SA.
	rekeyChild(ctx context.Context, c cell) error
	// tunnels returns what stands, by the name of the cell.
	tunnels(ctx context.Context) (map[string]view, error)
	// version names the maker's program and its version.
	version(ctx context.Context) (string, error)
	// log is what it tells of itself.
	log() string
}

// kernelVersion returns the first two numbers of the running kernel's version.
func kernelVersion(t *testing.T) string {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.SplitN(string(release), ".", 3)[:2], ".")
}

// view is a cell as the peer sees it.
type view struct {
	ikeSAs, childSAs        int
	ike                     string // what tells an IKE SA from others
	child                   string // what tells a CHILD_SA from others
	initiator               string
	cipher, hash, group     string // of the IKE SA, in the words of the API
	espCipher, espHash, pfs string
	encapsulated, ppk       bool
	in, out                 counters
}

// counters are of inner traffic.
type counters struct{ packets, octets uint64 }

// notCounted stands for packets that the peer does not count.
const notCounted = ^uint64(0)

// strongSwan is the peer of netlab.
type strongSwan struct {
	daemon *netlab.StrongSwan
	// routes tells how a route-based cell is made: with VTI devices where the
	// kernel has ESP; the userspace has one device for all.
	vti bool
	// newer tells that it is strongSwan 6, and not the system's.
	newer bool
}

// The words of strongSwan's configuration and of its lists.
var (
	swanCiphers = map[string]string{
		"3des": "3des", "aes-128": "aes128", "aes-192": "aes192", "aes-256": "aes256",
		"aes-128-gcm-16": "aes128gcm16", "aes-256-gcm-16": "aes256gcm16", "chacha20-poly1305": "chacha20poly1305",
	}
	swanHashes = map[string]string{"md5": "md5", "sha1": "sha1", "sha2-256": "sha256", "sha2-384": "sha384", "sha2-512": "sha512"}
	swanGroups = map[string]string{
		"group1": "modp768", "group2": "modp1024", "group5": "modp1536", "group14": "modp2048", "group15": "modp3072",
		"group16": "modp4096", "group19": "ecp256", "group20": "ecp384", "group21": "ecp521", "group31": "curve25519",
	}
	swanListedCiphers = map[string]string{
		"3DES_CBC": "3des", "AES_CBC-128": "aes-128", "AES_CBC-192": "aes-192", "AES_CBC-256": "aes-256",
		"AES_GCM_16-128": "aes-128-gcm-16", "AES_GCM_16-256": "aes-256-gcm-16", "CHACHA20_POLY1305": "chacha20-poly1305", "CHACHA20_POLY1305-256": "chacha20-poly1305",
	}
	swanListedHashes = map[string]string{
		"":            noHash,
		"HMAC_MD5_96": "md5", "HMAC_SHA1_96": "sha1", "HMAC_SHA2_256_128": "sha2-256", "HMAC_SHA2_384_192": "sha2-384", "HMAC_SHA2_512_256": "sha2-512",
		"PRF_HMAC_MD5": "md5", "PRF_HMAC_SHA1": "sha1", "PRF_HMAC_SHA2_256": "sha2-256", "PRF_HMAC_SHA2_384": "sha2-384", "PRF_HMAC_SHA2_512": "sha2-512",
	}
	swanListedGroups = map[string]string{
		"":         noPFS,
		"MODP_768": "group1", "MODP_1024": "group2", "MODP_1536": "group5", "MODP_2048": "group14", "MODP_3072": "group15",
		"MODP_4096": "group16", "ECP_256": "group19", "ECP_384": "group20", "ECP_521": "group21", "CURVE_25519": "group31",
	}
)
