//go:build e2e

package interop

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// libreswan is the peer of netlab.
type libreswan struct {
	daemon *netlab.Libreswan
}

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
	if _, err := l.daemon.Whack(ctx, "--rekey-ipsec", "--asynchronous", "--name", c.name()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	done := regexp.MustCompile(`"` + c.name() + `" #\d+: initiator rekeyed Child SA`)
	err := netlab.Poll(ctx, 100*time.Millisecond, func() (bool, error) { return done.MatchString(l.daemon.Log()), nil })
	if err != nil {
		return fmt.Errorf("not rekeyed: %w", err)
	}
	return nil
}

func (l *libreswan) tunnels(ctx context.Context) (map[string]view, error) {
	out, err := l.daemon.Whack(ctx, "--status")
	if err != nil {
		return nil, err
	}
	traffic, err := l.daemon.Whack(ctx, "--trafficstatus")
	fmt.Println(out, traffic)
	return nil, err
}

func (l *libreswan) log() string { return l.daemon.Log() }
