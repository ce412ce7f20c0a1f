//go:build kernelesp

package xfrm_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
	"github.com/vpngw/vpngw/ipsec/xfrm"
)

// tunnelled is a pair of hosts with a tunnel that is a device on both.
type tunnelled struct {
	*testing.T
	hosts    [2]*host
	ends     [2]ipsectest.End
	backends [2]*xfrm.Backend
}

func newTunnelled(t *testing.T) *tunnelled {
	t.Helper()
	n := &tunnelled{T: t, hosts: [2]*host{newHost(t), newHost(t)}}
	join(n.hosts[0], n.hosts[1])
	for i, h := range n.hosts {
		n.ends[i] = h.kernelEnd(i, netip.AddrPortFrom(outerAddress(i, false), 0), true)
		n.backends[i] = n.ends[i].Backend.(routeBased).Backend
	}
	for from, sender := range n.ends {
		to := n.ends[1-from]
		sa := ipsec.SA{
			SPI: ipsec.SPI(0x2000 + from), Src: sender.Outer.Addr(), Dst: to.Outer.Addr(), ReqID: 7, ReplayWindow: 1024,
			Encryption: ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), EncryptionKey: make([]byte, 20),
		}
		for _, side := range []struct {
			end       ipsectest.End
			direction ipsec.Direction
			local     int
		}{{to, ipsec.In, 1 - from}, {sender, ipsec.Out, from}} {
			sa.Direction = side.direction
			sa.Local, sa.Remote = nil, nil
			for i := range sites[0] {
				local, remote := wholeOf(sites[side.local][i]), wholeOf(sites[1-side.local][i])
				sa.Local, sa.Remote = append(sa.Local, local...), append(sa.Remote, remote...)
				n.check(side.end.Backend.AddPolicy(ipsec.Policy{
					PolicyID: ipsec.PolicyID{Direction: side.direction, Local: local[0], Remote: remote[0], Priority: ipsec.PriorityProtect},
					Action:   ipsec.Protect, ReqID: sa.ReqID,
					TunnelLocal: side.end.Outer.Addr(), TunnelRemote: outerAddress(1-side.local, false),
				}))
			}
			n.check(side.end.Backend.AddSA(sa))
		}
	}
	return n
}

func (n *tunnelled) check(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// device sets the devices of a host: that of the tunnel, and more.
func (n *tunnelled) device(i, mtu int, more ...ipsec.Interface) {
	n.Helper()
	n.check(n.backends[i].SetInterfaces(append(more, ipsec.Interface{IfID: ifID, Name: device, MTU: mtu, Local: n.ends[i].Outer.Addr()})))
}

// limit limits what a host's address carries.
func (n *tunnelled) limit(i, mbps int) {
	n.Helper()
	n.check(n.backends[i].SetBandwidths([]ipsec.Bandwidth{{Name: "an EIP", Addresses: []netip.Addr{n.ends[i].Outer.Addr()}, Mbps: mbps}}))
}

// actions returns number and rate, in Mbit/s, of the actions of a device, outbound first.
func (n *tunnelled) actions(h *host, device string) (list [][2]int) {
	n.Helper()
	h.within(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		for _, parent := range []uint32{netlink.HANDLE_MIN_EGRESS, netlink.HANDLE_MIN_INGRESS} {
			filters, err := netlink.FilterList(link, parent)
			if err != nil {
				return err
			}
			for _, f := range filters {
				m, ok := f.(*netlink.MatchAll)
				if !ok || len(m.Actions) != 1 {
					return fmt.Errorf("filter %v", f)
				}
				action, ok := m.Actions[0].(*netlink.PoliceAction)
				if !ok {
					return fmt.Errorf("action %v", m.Actions[0])
				}
				list = append(list, [2]int{action.Index, int(action.Rate) * 8 / 1e6})
			}
		}
		return nil
	})
	return list
}

// expectRate checks that packets from the first host, twice what a limit of 1 Mbit/s
// allows, arrive at its rate. A machine that is busy with other things can only make
// them fewer: then some other second has to show the rate.
func (n *tunnelled) expectRate() {
	n.Helper()
	const octets, burst, rate = 1300, 72 << 10, 1e6 / 8
	body := udpBody(make([]byte, octets-28))
	packet := ipPacket(netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("10.9.0.5"), unix.IPPROTO_UDP, body)
	begin := time.Now()
	sent, arrived := 0, 0
	last, lastArrived := begin, 0
	var rates []float64
	for time.Since(begin) < 2*time.Minute {
		for due := int(2 * rate * time.Since(begin).Seconds()); sent < due; sent += octets {
			n.ends[0].Send(packet)
		}
		for n.ends[1].Receive(0) != nil {
			arrived += octets
		}
		now := time.Now()
		// What arrived by now cannot be more than was let pass by then.
		if most := rate*now.Sub(begin).Seconds()*1.05 + 2*burst; float64(arrived) > most {
			n.Fatalf("%d octets have passed, want at most %.0f", arrived, most)
		}
		if elapsed := now.Sub(last); elapsed > time.Second {
			had := float64(arrived-lastArrived) / elapsed.Seconds() / rate
			last, lastArrived = now, arrived
			if rates = append(rates, had); len(rates) > 1 && had > 0.75 && had < 1.25 { // the first has the burst in it
				n.Logf("of the limit in each second: %.2f", rates)
				return
			}
		}
		time.Sleep(5 * time.Millisecond) // the sender's interval
	}
	n.Errorf("of the limit in each second: %.2f, and none is within a quarter of it", rates)
}

// What tunnels carry is limited in each direction, together, through edits and by
// the next process.
func TestKernelBandwidth(t *testing.T) {
	t.Parallel()
	n := newTunnelled(t)
	if err := n.backends[0].Abilities().Bandwidth; err != nil {
		t.Fatal(err)
	}
	other := ipsec.Interface{IfID: ifID + 1, Name: "vpngw0000004e", Local: n.ends[0].Outer.Addr()}
	elsewhere := ipsec.Interface{IfID: ifID + 2, Name: "vpngw0000004f", Local: netip.MustParseAddr("192.0.2.9")}
	n.limit(0, 1)
	n.device(0, 0, other, elsewhere)
	n.device(1, 0)
	first := n.actions(n.hosts[0], device)
	if len(first) != 2 || first[0][0] == first[1][0] {
		t.Fatalf("actions %v, want one for each direction", first)
	}
	// expectActions checks that a host's tunnels share the actions made first.
	expectActions := func(when string, mbps int) {
		t.Helper()
		want := [][2]int{{first[0][0], mbps}, {first[1][0], mbps}}
		for _, name := range []string{device, other.Name} {
			if got := n.actions(n.hosts[0], name); !slices.Equal(got, want) {
				t.Errorf("%s: actions of %s %v, want %v", when, name, got, want)
			}
		}
		if got := n.actions(n.hosts[0], elsewhere.Name); len(got) != 0 {
			t.Errorf("%s: actions of a tunnel of another address: %v", when, got)
		}
	}
	expectActions("at first", 1)
	n.expectRate()
	if n.backends[0].Drops()["bandwidth"] == 0 {
		t.Error("what was above the limit is not counted")
	}
	n.limit(0, 2)
	expectActions("another rate", 2)

	// The next process is told of a lower one.
	n.check(n.backends[0].Close())
	n.backends[0] = n.hosts[0].backend()
	expectActions("the process's end", 2)
	n.limit(0, 1)
	n.device(0, 0, other, elsewhere)
	expectActions("the next process", 1)
	if drops := n.backends[0].Drops()["bandwidth"]; drops != 0 {
		t.Errorf("%d packets count as above the limit that were so before", drops)
	}

	n.check(n.backends[0].SetBandwidths(nil))
	if got := n.actions(n.hosts[0], device); len(got) != 0 {
		t.Errorf("actions %v are left", got)
	}
	n.limit(1, 1) // where they come in
	n.expectRate()
	if n.backends[1].Drops()["bandwidth"] == 0 {
		t.Error("what was above the limit is not counted where it comes in")
	}

	// Another bandwidth takes the place of one, and a device made again has it.
	n.check(n.backends[1].SetBandwidths([]ipsec.Bandwidth{{Name: "another", Addresses: []netip.Addr{n.ends[1].Outer.Addr()}, Mbps: 3}}))
	if got := n.actions(n.hosts[1], device); len(got) != 2 || got[0][0] == first[0][0] || got[0][1] != 3 {
		t.Errorf("another bandwidth: actions %v", got)
	}
	n.check(n.backends[1].SetInterfaces(nil))
	n.device(1, 0)
	if got := n.actions(n.hosts[1], device); len(got) != 2 {
		t.Errorf("a device that was made again: actions %v", got)
	}
}
