//go:build e2e

package e2e

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/cmd/vpnctl/declare"
)

// A stock client with the exported profile, and the script that its Debian package
// has for that, installs the server's DNS servers and domain: a host behind the
// server is found by its short name. Afterwards all is as before.
func TestClientDNS(t *testing.T) {
	t.Parallel()
	resolvers := []string{"10.10.0.10", "192.0.2.53"}
	w := newClientWorld(t, 1, func(s *declare.Server) {
		usual(s)
		s.DNSServers, s.DNSDomain = resolvers, "corp.example.org"
	})
	if w.CloudAddresses[0].String() != resolvers[0] {
		t.Fatalf("the host behind the gateway has %s", w.CloudAddresses[0])
	}
	intranet := netip.MustParseAddr("10.10.0.77")
	var server *net.UDPConn
	w.check(w.CloudHost.Inside(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.CloudAddresses[0], 53)))
		return err
	}))
	t.Cleanup(func() { _ = server.Close() })
	go answerName(server, "intranet.corp.example.org", intranet)

	c := must(w.Sites[0].Router.StartOpenVPNResolving("alice", w.profile, "alice", aliceFirst))(t)
	w.clients["alice"] = c
	w.check(c.WaitUp(w.ctx, 1))
	etc := must(c.Etc())(t)
	t.Cleanup(func() { _ = etc.Close() })
	installed := []string{"nameserver " + resolvers[0], "nameserver " + resolvers[1], "search corp.example.org"}
	content := string(must(etc.ReadFile("resolv.conf"))(t))
	if !hasAll(content, installed...) || strings.Index(content, resolvers[0]) > strings.Index(content, resolvers[1]) {
		t.Errorf("/etc/resolv.conf has not %q: %s", installed, content)
	}
	if found := must(c.Run(w.ctx, "getent", "ahostsv4", "intranet"))(t); !strings.Contains(found, intranet.String()) {
		t.Errorf("intranet is %q", found)
	}
	w.check(c.Stop())
	if content := string(must(etc.ReadFile("resolv.conf"))(t)); strings.Contains(content, resolvers[0]) || strings.Contains(content, "corp.example.org") {
		t.Errorf("/etc/resolv.conf is left as %s", content)
	}
	w.expectNothingInClear()
}

// answerName is a DNS server that knows one name (RFC 1035, section 4.1), until its
// socket is closed.
func answerName(socket *net.UDPConn, name string, address netip.Addr) {
	var question []byte
	for label := range strings.SplitSeq(name, ".") {
		question = append(append(question, byte(len(label))), label...)
	}
	question = append(question, 0, 0, 1, 0, 1) // type A, class IN
	const header = 12
	for b := make([]byte, 512); ; {
		n, from, err := socket.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		end := header + len(question)
		if n < end || !bytes.EqualFold(b[header:end], question) {
			continue
		}
		// A response with recursion available, one question and one answer, whose
		// name is that of the question.
		answer := append(append([]byte{}, b[:2]...), 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0)
		answer = append(answer, b[header:end]...)
		answer = append(answer, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		_, _ = socket.WriteToUDPAddrPort(append(answer, address.AsSlice()...), from)
	}
}
