//go:build e2e

package interop

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// ike-scan asks the daemon in all of its modes, from the addresses of peers and
// from one that no connection knows. The daemon answers what the protocols want
// and no more, is not kept from serving, and forgets what was begun: the tunnels
// come up afterwards.
func TestIKEScan(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	array := []cell{
		{Number: 1, Mode: v2, Initiator: byGateway, Cipher: "aes-256", Hash: "sha1", Group: "group2", PFS: noPFS, ESPCipher: "aes-128", ESPHash: "sha2-256"},
		{Number: 2, Mode: v1Main, Initiator: byPeer, Cipher: "3des", Hash: "md5", Group: "group2", PFS: noPFS, ESPCipher: "aes-256", ESPHash: "sha1"},
		{Number: 3, Mode: v1Aggressive, Initiator: byPeer, Cipher: "3des", Hash: "sha1", Group: "group2", PFS: noPFS, ESPCipher: "aes-256-gcm-16", ESPHash: noHash},
	}
	stranger := cell{Number: 9, Initiator: byPeer}
	for i := range array {
		array[i].Path, array[i].Style = "direct", "policy"
	}
	w := newWorld(ctx, t, netlab.DaemonOptions{})
	m := &matrix{world: w, failed: map[int]string{}, ids: map[int]string{}}
	w.translate(array)
	from := map[string]*router{"stranger": w.connect("router9", []cell{stranger})}
	for i, name := range []string{"v2 peer", "main peer", "aggressive peer"} {
		from[name] = w.connect(fmt.Sprintf("router%d", i+1), array[i:i+1])
	}
	m.declare(array)

	const (
		silence      = "0 returned handshake; 0 returned notify"
		noProposal   = `Notify message 14 \(NO-PROPOSAL-CHOSEN\)`
		ofMain       = "5,1,1,2" // 3DES, MD5, PSK, group 2
		ofAggressive = "5,2,1,2" // 3DES, SHA-1, PSK, group 2
		// A notify is no more than a peer of a wrong proposal is told.
		silenceOrNotify = "0 returned handshake"
	)
	for _, test := range []struct {
		from, args string
		want       string // of ike-scan's output; without it any answer will do
	}{
		{"main peer", "--trans=" + ofMain, `Main Mode Handshake returned[\s\S]*Enc=3DES Hash=MD5 Auth=PSK Group=2:modp1024`},
		{"main peer", "--trans=7/256,2,1,2", noProposal},
		{"main peer", "", `Main Mode Handshake returned`}, // it offers all of the old ones
		{"main peer", "--aggressive --id=cell-2 --trans=" + ofMain, silenceOrNotify},
		{"stranger", "--trans=" + ofMain, silenceOrNotify},
		{"stranger", "--ikev2", silenceOrNotify},
		{"aggressive peer", "--aggressive --id=cell-3.test --idtype=2 --trans=" + ofAggressive, `Aggressive Mode Handshake returned[\s\S]*Hash=SHA1`},
		{"aggressive peer", "--aggressive --id=cell-4.test --idtype=2 --trans=" + ofAggressive, silenceOrNotify},
		{"v2 peer", "--ikev2 --dhgroup=2", `IKEv2 SA_INIT Handshake returned[\s\S]*Encr=AES_CBC,KeyLength=256 Integ=HMAC_SHA1_96 Prf=HMAC_SHA1 DH_Group=2:modp1024`},
		{"v2 peer", "--ikev2 --dhgroup=14", `INVALID_KE_PAYLOAD`},
		{"main peer", "--headerver=0x30 --trans=" + ofMain, `INVALID_MAJOR_VERSION`},
		{"main peer", "--headerlen=+4", silence},
		{"main peer", "--headerlen=-4", silence},
		{"main peer", "--headerver=0x20", silence},
		{"main peer", "--mbz=255", ""},
		{"main peer", "--doi=2", silence},
		{"main peer", "--situation=2", silence},
		{"main peer", "--protocol=3", silence},
		{"main peer", "--transid=2", noProposal},
		{"main peer", "--spisize=8 --trans=" + ofMain, ""},
		{"main peer", "--hdrflags=1", silence},
		{"main peer", "--hdrmsgid=5", silence},
		{"main peer", "--exchange=5", silence},
		{"main peer", "--exchange=32", silence},
		{"main peer", "--exchange=34", silence},
		{"main peer", "--exchange=243", silence},
		{"main peer", "--nextpayload=10", silence},
		{"main peer", "--rcookie=0102030405060708", silence},
		{"main peer", "--auth=3", noProposal},
		{"main peer", "--auth=65001", noProposal},
		{"main peer", "--vendor=4048b7d56ebce88525e7de7f00d6c2d3 --certreq=04 --trans=" + ofMain, ""},
		{"aggressive peer", "--aggressive --id=cell-3.test --idtype=2 --noncelen=4 --trans=" + ofAggressive, silenceOrNotify},
		{"aggressive peer", "--aggressive --id=cell-3.test --idtype=2 --noncelen=500 --trans=" + ofAggressive, silenceOrNotify},
		{"v2 peer", "--nat-t", silenceOrNotify},
		{"main peer", "--nat-t --trans=" + ofMain, ""},
	} {
		args := []string{"ike-scan", "--nodns", "--multiline", "--sport=0", "--retry=4", "--timeout=2000", "--backoff=1"}
		if strings.HasPrefix(test.want, silenceOrNotify) {
			args = append(args, "--retry=2", "--timeout=150") // there is nothing to wait for
		}
		args = append(append(args, strings.Fields(test.args)...), gatewayDirect.String())
		out, err := from[test.from].Run(ctx, args...)
		if err != nil {
			t.Errorf("%s: %s: %v", test.from, test.args, err)
		}
		if !regexp.MustCompile(test.want).MatchString(out) {
			t.Errorf("%s: ike-scan %s: want %q, have:\n%s", test.from, test.args, test.want, out)
		}
	}

	for i, name := range []string{"v2 peer", "main peer", "aggressive peer"} {
		m.add(from[name], &strongSwan{})
		m.check(m.peers[i].initiate(ctx, array[i]))
	}
	m.waitUp(array)
	for _, c := range array {
		if defect, failed := m.failed[c.Number]; failed {
			t.Errorf("after the scans %s is %s", c, defect)
		}
	}
	m.expectNothingInClear()
}
