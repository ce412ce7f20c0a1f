//go:build e2e

package interop

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// libreswan is the peer of netlab.
type libreswan struct {
	daemon *netlab.Libreswan
	// impatient makes it give up soon what is not answered.
	impatient bool
}

// everyCell is the name that stands for all connections of a pluto.
const everyCell = "every-cell"

// The words of libreswan's configuration.
var (
	lswCiphers = map[string]string{
		"3des": "3des", "aes-128": "aes128", "aes-192": "aes192", "aes-256": "aes256",
		"aes-128-gcm-16": "aes_gcm128", "aes-256-gcm-16": "aes_gcm256",
	}
	lswHashes = map[string]string{"md5": "md5", "sha1": "sha1", "sha2-256": "sha2_256", "sha2-384": "sha2_384", "sha2-512": "sha2_512"}
	lswGroups = map[string]string{
		"group1": "dh1", "group2": "dh2", "group5": "dh5", "group14": "dh14", "group15": "dh15",
		"group16": "dh16", "group19": "dh19", "group20": "dh20", "group21": "dh21",
	}
)

func (l *libreswan) start(ctx context.Context, r *router) error {
	var config, secrets strings.Builder
	config.WriteString("config setup\n  ikev1-policy=accept\n  uniqueids=no\n  ddos-mode=unlimited\n")
	var names []string
	for _, c := range r.cells {
		names = append(names, c.name())
		config.WriteString(l.connection(c))
		fmt.Fprintf(&secrets, "%s %s : PSK %q\n", lswID(c), c.gateway(), c.psk())
	}
	if err := r.vti(ctx); err != nil {
		return err
	}
	var err error
	l.daemon, err = r.StartLibreswan(ctx, r.name, config.String(), secrets.String(), names...)
	return err
}

func lswID(c cell) string {
	if c.named() {
		return "@" + c.id()
	}
	return c.id()
}

func (l *libreswan) connection(c cell) string {
	var b strings.Builder
	fmt.Fprintf(&b, "conn %s\n  auto=ignore\n  authby=secret\n  type=tunnel\n  rekey=no\n", c.name())
	set := func(key, value string) { fmt.Fprintf(&b, "  %s=%s\n", key, value) }
	set("connalias", everyCell)
	if l.impatient {
		set("retransmit-interval", "250ms")
		set("retransmit-timeout", "3s")
		set("initial-contact", "yes")
	}
	set("left", c.local().String())
	set("leftid", lswID(c))
	set("leftupdown", "%disabled")
	set("right", c.gateway().String())
	set("rightid", c.gateway().String())
	set("ikev2", yesNo(!c.v1()))
	if c.Mode == v1Aggressive {
		set("aggressive", "yes")
	}
	set("ike", lswCiphers[c.Cipher]+"-"+lswHashes[c.Hash]+"-"+lswGroups[c.Group])
	esp := lswCiphers[c.ESPCipher]
	if c.ESPHash != noHash {
		esp += "-" + lswHashes[c.ESPHash]
	}
	set("pfs", yesNo(c.PFS != noPFS))
	if c.PFS != noPFS {
		esp += ";" + lswGroups[c.PFS]
	}
	set("esp", esp)
	if c.Style == "policy" {
		set("leftsubnet", c.subnet().String())
		set("rightsubnet", cloudSubnets[0].String())
		return b.String()
	}
	set("leftsubnet", anywhere.String())
	set("rightsubnet", anywhere.String())
	set("mark", fmt.Sprintf("%d/0xffffffff", c.Number))
	set("vti-interface", fmt.Sprintf("vti%d", c.Number))
	set("vti-routing", "no")
	return b.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (l *libreswan) initiate(ctx context.Context, c cell) error {
	_, err := l.daemon.Whack(ctx, "--initiate", "--asynchronous", "--name", c.name())
	return err
}

func (l *libreswan) rekeyChild(ctx context.Context, c cell) error {
	_, err := l.daemon.Whack(ctx, "--rekey-ipsec", "--asynchronous", "--name", c.name())
	return err
}

// The lines of whack --status, --trafficstatus and the log.
var (
	lswState   = regexp.MustCompile(`(?m)^000 #(\d+): "([^"]+)":\d+ STATE_(\S+) \((IKE SA established|established IKE SA|IPsec SA established|established Child SA)\)`)
	lswNewest  = regexp.MustCompile(`(?m)^000 "([^"]+)": +(IKEv1|IKEv2|ESP) algorithm newest: ([^-\s]+)-([^-\s]+?)(?:-([^-\s]+))?(?:; pfsgroup=(\S+))?\s*$`)
	lswTraffic = regexp.MustCompile(`(?m)"([^"]+)", type=ESP, .*inBytes=(\d+), outBytes=(\d+),`)
	lswChild   = regexp.MustCompile(`(?m)"([^"]+)" #(\d+): .*\{(ESP|ESPinUDP)=>\S+ <\S+ xfrm=[^-\s]+-[^-\s]+?(?:-(\S+))? `)
	lswBegun   = regexp.MustCompile(`(?m)"([^"]+)" #(\d+): (initiator|responder) established IKE SA;`)
)

// The words of libreswan's lists.
var (
	lswListedCiphers = map[string]string{
		"3DES_CBC_192": "3des", "AES_CBC_128": "aes-128", "AES_CBC_192": "aes-192", "AES_CBC_256": "aes-256",
		"AES_GCM_16_128": "aes-128-gcm-16", "AES_GCM_16_256": "aes-256-gcm-16",
	}
	lswListedHashes = map[string]string{
		"NONE": noHash, "HMAC_MD5": "md5", "HMAC_SHA1": "sha1", "HMAC_SHA2_256": "sha2-256", "HMAC_SHA2_384": "sha2-384", "HMAC_SHA2_512": "sha2-512",
		"HMAC_MD5_96": "md5", "HMAC_SHA1_96": "sha1", "HMAC_SHA2_256_128": "sha2-256", "HMAC_SHA2_384_192": "sha2-384", "HMAC_SHA2_512_256": "sha2-512",
	}
	lswListedGroups = map[string]string{
		"": noPFS, "<N/A>": noPFS, "MODP1536": "group5", "MODP2048": "group14", "MODP3072": "group15", "MODP4096": "group16",
		"DH19": "group19", "DH20": "group20", "DH21": "group21",
	}
)

func (l *libreswan) tunnels(ctx context.Context) (map[string]view, error) {
	status, err := l.daemon.Whack(ctx, "--status")
	if err != nil {
		return nil, err
	}
	traffic, err := l.daemon.Whack(ctx, "--trafficstatus")
	if err != nil {
		return nil, err
	}
	return lswViews(status, traffic, l.daemon.Log()), nil
}

// lswViews puts together what pluto tells of its SAs in its status, its counters
// and its log.
func lswViews(status, traffic, log string) map[string]view {
	type numbered struct{ name, number string }
	begun, children := map[numbered]string{}, map[numbered][2]string{}
	for _, m := range lswBegun.FindAllStringSubmatch(log, -1) {
		begun[numbered{m[1], m[2]}] = m[3]
	}
	for _, m := range lswChild.FindAllStringSubmatch(log, -1) {
		children[numbered{m[1], m[2]}] = [2]string{m[3], m[4]}
	}
	all := map[string]view{}
	for _, m := range lswState.FindAllStringSubmatch(status, -1) {
		v, state, n := all[m[2]], m[3], numbered{m[2], m[1]}
		if strings.Contains(m[4], "IKE SA") {
			v.ikeSAs++
			v.initiator = byGateway
			// MAIN_I4, AGGR_I2; of IKEv2 the state is the same for both.
			if strings.Contains(state, "_I") && !strings.HasPrefix(state, "V2") || begun[n] == "initiator" {
				v.initiator = byPeer
			}
		} else {
			v.childSAs++
			v.child = n.number
			v.encapsulated = children[n][0] == "ESPinUDP"
			v.pfs = lswListedGroups[children[n][1]]
		}
		all[m[2]] = v
	}
	for _, m := range lswNewest.FindAllStringSubmatch(status, -1) {
		v, up := all[m[1]]
		switch {
		case !up:
			continue
		case m[2] == "ESP":
			v.espCipher, v.espHash = lswListedCiphers[m[3]], lswListedHashes[m[4]]
			if group, ok := lswListedGroups[m[6]]; ok && v.pfs == noPFS {
				v.pfs = group // of IKEv1, where the log leaves it out
			}
		default:
			v.cipher, v.hash, v.group = lswListedCiphers[m[3]], lswListedHashes[m[4]], lswListedGroups[m[5]]
		}
		all[m[1]] = v
	}
	for _, m := range lswTraffic.FindAllStringSubmatch(traffic, -1) {
		if v, up := all[m[1]]; up {
			v.in.packets, v.out.packets = notCounted, notCounted
			v.in.octets, _ = strconv.ParseUint(m[2], 10, 64)
			v.out.octets, _ = strconv.ParseUint(m[3], 10, 64)
			all[m[1]] = v
		}
	}
	return all
}

func (l *libreswan) version(ctx context.Context) (string, error) {
	version, err := netlab.LibreswanVersion(ctx)
	return "libreswan " + version, err
}

func (l *libreswan) log() string { return l.daemon.Log() }
