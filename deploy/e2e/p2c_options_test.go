//go:build e2e

package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
	"github.com/vpngw/vpngw/control/certtest"
	"github.com/vpngw/vpngw/deploy/netlab"
)

// export returns a fresh profile.
func (w *clientWorld) export() string {
	w.t.Helper()
	return must(w.api.ClientProfile(w.ctx, w.server))(w.t)
}

// change changes the server and waits until it runs so.
func (w *clientWorld) change(members client.Object) {
	w.t.Helper()
	_, err := w.api.Update(w.ctx, client.Servers, w.server, members)
	w.check(err)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		list, err := w.api.List(ctx, client.ServersOf(w.gateway))
		return err == nil && len(list) == 1 && list[0].Status() == "ACTIVE", err
	}))
}

// connect starts our own client at a site. input is what a person types.
func (w *clientWorld) connect(site int, name, profile, user, password, input string) *netlab.Process {
	w.t.Helper()
	dir := w.t.TempDir()
	file, login := filepath.Join(dir, "client.ovpn"), filepath.Join(dir, "login")
	w.check(os.WriteFile(file, []byte(profile), 0o600))
	w.check(os.WriteFile(login, []byte(user+"\n"+password+"\n"), 0o600))
	program := must(filepath.Abs(vpnctl))(w.t)
	return must(w.Sites[site].Router.Start(name, nil, "bash", "-c",
		`exec "$0" connect "$1" --login "$2" <<<"$3"`, program, file, login, input))(w.t)
}

var remoteLines = regexp.MustCompile(`(?m)^remote .*\n`)

// onlyRemote keeps those servers of a profile whose line ends in words, as who
// knows the network may.
func onlyRemote(profile, words string) string {
	return remoteLines.ReplaceAllStringFunc(profile, func(line string) string {
		if strings.HasSuffix(line, words+"\n") {
			return line
		}
		return ""
	})
}

// Clients choose among transports with keys for the control channel, shared and
// their own, while a browser reaches another server on the same port.
func TestClientTransports(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t, 2, func(s *declare.Server) {
		usual(s)
		s.SSLOptions = &declare.SSLOptions{UDPPorts: []int{1194, 5353}, ControlChannelWrap: "tls-crypt-v2"}
	})
	here, there := w.Sites[0].Router, w.Sites[1].Router
	first, second := w.CloudAddresses[0], w.CloudAddresses[1]

	// As exported: UDP comes first.
	alice := w.dial(0, "alice", w.profile, "alice", aliceFirst)
	other := w.export()
	if keys := strings.SplitAfter(w.profile, "<tls-crypt-v2>"); len(keys) != 2 || strings.HasSuffix(other, keys[1]) {
		t.Error("two profiles have one key")
	}
	robert := w.dial(1, "robert", onlyRemote(other, "5353 udp"), "robert", bobPassword)
	w.check(alice.WaitUp(w.ctx, 1))
	w.check(robert.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, first)
	w.reach(there, netip.Addr{}, second)
	for c, port := range map[*netlab.OpenVPN]int{alice: 1194, robert: 5353} {
		if want := fmt.Sprintf("UDPv4 link remote: [AF_INET]%s:%d", w.Public[0], port); !strings.Contains(c.Log(), want) {
			t.Errorf("a client did not write %q", want)
		}
	}
	for _, reverse := range []bool{false, true} {
		report, err := netlab.RunIPerf(w.ctx, here, w.CloudHost, first, netlab.IPerf{Duration: 2 * time.Second, Reverse: reverse})
		w.check(err)
		t.Logf("iperf3 over UDP, from the cloud %t: %v", reverse, report)
	}

	// On UDP a client says that it leaves, and is gone at once.
	w.check(alice.Stop())
	w.waitRecord(`"event":"disconnected"`, `"client_user_name":"alice"`, "the client has left")
	if list := w.waitConnections(1, ""); list[0].User != "robert" {
		t.Errorf("who is left: %+v", list)
	}

	// A profile that is lost is revoked by the id it has: its session ends, and
	// nobody comes back by it.
	key := regexp.MustCompile(`(?m)^# client key ([0-9a-f]{32})$`).FindStringSubmatch(other)
	if key == nil || w.waitConnections(1, "")[0].ClientKey != key[1] {
		t.Fatalf("the profile has key %q, connections %+v", key, w.connections())
	}
	w.change(client.Object{"ssl_options": client.Object{"revoked_client_keys": []string{key[1]}}})
	w.waitRecord(`"event":"disconnected"`, `"client_user_name":"robert"`, key[1], "the key of its profile was revoked")
	w.waitConnections(0, "")
	w.check(robert.Stop())
	robert = w.dial(1, "robert-again", onlyRemote(other, "5353 udp"), "robert", bobPassword)
	w.waitDropped("client_key_revoked")
	w.check(robert.Stop())
	w.waitConnections(0, "")

	// On TCP, too, with the other server beside it.
	backend := netip.AddrPortFrom(first, 8443)
	w.startWeb(backend)
	w.change(client.Object{"ssl_options": client.Object{"port_share": backend.String()}})
	alice = w.dial(0, "alice-tcp", onlyRemote(w.profile, " 443"), "alice", aliceFirst)
	w.check(alice.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, first)
	page := must(there.Input(w.ctx, "GET / HTTP/1.0\r\n\r\n", "openssl", "s_client", "-quiet", "-ign_eof",
		"-connect", netip.AddrPortFrom(w.Public[0], 443).String()))(t)
	if !strings.Contains(page, "HTTP/1.0 200") {
		t.Errorf("the page is %q", page)
	}
	w.reach(here, netip.Addr{}, first)
	w.check(alice.Stop())

	// With another wrap the profiles of before are of no use: nobody answers.
	w.change(client.Object{"ssl_options": client.Object{"control_channel_wrap": "tls-crypt", "port_share": "disable"}})
	stale := w.dial(1, "stale", onlyRemote(w.profile, "1194 udp"), "alice", aliceFirst)
	w.waitDropped("tls_crypt")
	if strings.Contains(stale.Log(), "TLS: Initial packet from") {
		t.Error("a client with a key of before was answered")
	}
	w.check(stale.Stop())
	fresh := w.export()
	alice = w.dial(0, "alice-shared-key", onlyRemote(fresh, "1194 udp"), "alice", aliceFirst)
	w.check(alice.WaitUp(w.ctx, 1))
	w.reach(here, netip.Addr{}, first)
	own := w.connect(1, "own", fresh, "robert", bobPassword, "")
	w.waitConnections(2, "")
	w.reach(there, netip.Addr{}, second)
	w.check(own.Stop())
	w.expectNothingInClear()
}

// waitDropped waits until the server has dropped a packet for a reason.
func (w *clientWorld) waitDropped(reason string) {
	w.t.Helper()
	dropped := fmt.Sprintf("vpngw_client_dropped_packets_total{reason=%q,server=%q}", reason, w.server)
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		n := w.figure(dropped)
		return n != "" && n != "0", nil
	}))
}

// startWeb starts a server of HTTPS in the cloud.
func (w *clientWorld) startWeb(at netip.AddrPort) {
	w.t.Helper()
	certificate, key := certtest.New(w.t, "web", validNow).Server(w.t, "www", validNow).Files(w.t)
	web := must(w.CloudHost.Start("web", nil, "openssl", "s_server", "-quiet", "-www", "-accept", at.String(), "-cert", certificate, "-key", key))(w.t)
	w.t.Cleanup(func() { _ = web.Stop() })
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	defer cancel()
	w.check(netlab.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		conn, err := w.Gateway.DialContext(ctx, "tcp", at.String())
		if err != nil {
			return false, nil
		}
		return true, conn.Close()
	}))
}

// codeAt returns the code of an authenticator app (RFC 6238) for a time.
func codeAt(t *testing.T, secret string, at time.Time) string {
	t.Helper()
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil {
		t.Fatal(err)
	}
	mac := hmac.New(sha1.New, key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(at.Unix()/30)))
	sum := mac.Sum(nil)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[19]&15:])&0x7fffffff%1000000)
}

// nextCode waits until a code is valid that could not have been shown before a
// time, and returns it: that of the next half minute, for a slow login.
func (w *clientWorld) nextCode(secret string, since time.Time) string {
	w.t.Helper()
	w.check(netlab.Poll(w.ctx, 100*time.Millisecond, func() (bool, error) { return time.Now().Unix()/30 > since.Unix()/30, nil }))
	return codeAt(w.t, secret, time.Now().Add(30*time.Second))
}

// With certificates, passwords and codes of an authenticator app, each is needed.
// Who is in comes back without any of it, after a crash of the daemon, too.
func TestClientSecondFactor(t *testing.T) {
	t.Parallel()
	ca, foreign := certtest.New(t, "Staff CA", validNow), certtest.New(t, "Foreign CA", validNow)
	w := newClientWorld(t, 2, func(s *declare.Server) {
		usual(s)
		s.ClientAuthType, s.SecondFactor = "CERT_AND_LOCAL_PASSWORD", "totp"
		s.ClientCAs = []declare.ClientCA{{Name: "staff", Content: ca.PEM()}}
	})
	started := time.Now()
	here, there := w.Sites[0].Router, w.Sites[1].Router
	users := client.UsersOf(w.server)
	alice, robert := must(w.api.Find(w.ctx, users, "alice"))(t).ID(), must(w.api.Find(w.ctx, users, "robert"))(t).ID()
	secret := must(w.api.EnrollUser(w.ctx, w.server, alice))(t).Secret
	roberts := must(w.api.EnrollUser(w.ctx, w.server, robert))(t).Secret
	if shown := must(w.api.Get(w.ctx, users, alice))(t); shown.Text("totp_enrolled_at") == "" || strings.Contains(fmt.Sprint(shown), secret) {
		t.Errorf("the user is shown as %v", shown)
	}
	profile := withCertificate(t, w.profile, ca, "laptop-7")

	stranger := must(there.StartOpenVPNAsking(w.ctx, "stranger", withCertificate(t, w.profile, foreign, "laptop-8"),
		netlab.OpenVPNLogin{User: "alice", Password: aliceFirst, Code: "000000"}))(t)
	w.clients["stranger"] = stranger
	w.check(stranger.WaitLog(w.ctx, "Received fatal SSL alert: unknown CA"))
	w.check(stranger.Stop())
	code := w.nextCode(secret, started)
	asked := must(here.StartOpenVPNAsking(w.ctx, "alice", profile,
		netlab.OpenVPNLogin{User: "alice", Password: aliceFirst, Code: codeAt(t, secret, time.Now().Add(-10*time.Minute))},
		netlab.OpenVPNLogin{User: "alice", Password: "Jabberwocky-1", Code: code},
		netlab.OpenVPNLogin{User: "alice", Password: aliceFirst, Code: code},
	))(t)
	w.clients["alice"] = asked
	w.check(asked.WaitUp(w.ctx, 1))
	w.waitRecord(`"event":"authentication_failed"`, `"client_user_name":"alice"`, `"reason":"wrong one-time code"`)
	w.waitRecord(`"event":"authentication_failed"`, `"client_user_name":"alice"`, `"reason":"wrong password"`)
	w.reach(here, netip.Addr{}, w.CloudAddresses[0])

	again := must(there.StartOpenVPNAsking(w.ctx, "again", profile, netlab.OpenVPNLogin{User: "alice", Password: aliceFirst, Code: code}))(t)
	w.clients["again"] = again
	w.check(again.WaitLog(w.ctx, "the one-time code was used before"))
	w.check(again.Stop())
	w.waitRecord(`"event":"authentication_failed"`, "used before")

	own := w.connect(1, "own", profile, "robert", bobPassword, w.nextCode(roberts, started))
	w.waitConnections(2, "")
	w.reach(there, netip.Addr{}, w.CloudAddresses[1])

	w.check(w.daemon.Kill())
	w.check(w.daemon.Start(w.ctx))
	w.check(asked.WaitUp(w.ctx, 2)) // there is no other answer for it
	w.waitConnections(2, "")
	w.reach(here, netip.Addr{}, w.CloudAddresses[0])
	w.reach(there, netip.Addr{}, w.CloudAddresses[1])
	w.check(own.Stop())

	w.check(w.api.UnenrollUser(w.ctx, w.server, alice))
	w.waitRecord(`"event":"disconnected"`, `"client_user_name":"alice"`, "the second factor was changed")
	for name, text := range map[string]string{"secret": secret, "code": code, "password": aliceFirst} {
		if log, err := w.daemon.ConnectionLog(); err != nil || strings.Contains(log, text) || strings.Contains(w.daemon.Log(), text) {
			t.Errorf("the %s is in a log (%v)", name, err)
		}
	}
	w.expectNothingInClear()
}
