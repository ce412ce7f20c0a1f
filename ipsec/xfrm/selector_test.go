package xfrm

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"github.com/vpngw/vpngw/fuzztest"
	"github.com/vpngw/vpngw/ipsec"
)

func prefix(s string) ipsec.TrafficSelector {
	return ipsec.SelectorFromPrefix(netip.MustParsePrefix(s))
}

// Each port of a range is in exactly one block, and no other port is in any.
func TestPortBlocksCoverTheRange(t *testing.T) {
	for _, r := range [][2]uint16{{0, 65535}, {0, 0}, {65535, 65535}, {443, 443}, {1, 65534}, {1000, 2047}, {32768, 40000}, {5, 6}} {
		for port := range 1 << 16 {
			in := 0
			for _, block := range portBlocks(r[0], r[1]) {
				if uint16(port)&block.mask == block.port {
					in++
				}
			}
			want := 0
			if uint16(port) >= r[0] && uint16(port) <= r[1] {
				want = 1
			}
			if in != want {
				t.Fatalf("range %d: port %d is in %d blocks, want %d", r, port, in, want)
			}
		}
	}
}

func TestSelectorsRoundTrip(t *testing.T) {
	with := func(ts ipsec.TrafficSelector, protocol uint8, first, last uint16) ipsec.TrafficSelector {
		ts.Protocol, ts.StartPort, ts.EndPort = protocol, first, last
		return ts
	}
	six := prefix("2001:db8:1::/48")
	for _, pair := range [][2]ipsec.TrafficSelector{
		{prefix("10.1.0.0/16"), prefix("0.0.0.0/0")},
		{six, prefix("2001:db8::1/128")},
		{with(prefix("10.1.0.0/16"), 6, 0, 65535), with(prefix("10.9.0.0/24"), 6, 443, 443)},
		{with(prefix("10.1.0.0/16"), 17, 1024, 2047), with(prefix("10.9.0.0/24"), 17, 0, 65535)},
		{with(prefix("10.1.0.0/16"), 1, 0x0800, 0x08ff), with(prefix("10.9.0.0/24"), 1, 0x0800, 0x08ff)},
		{with(six, 58, 0x8001, 0x8001), with(six, 58, 0x8001, 0x8001)},
	} {
		list, err := selectors(pair[0], pair[1])
		if err != nil || len(list) != 1 {
			t.Errorf("%s to %s: %d entries, %v", pair[0], pair[1], len(list), err)
			continue
		}
		if from, to := selectorsOf(&list[0]); from != pair[0] || to != pair[1] {
			t.Errorf("%s to %s came back as %s to %s", pair[0], pair[1], from, to)
		}
	}
}

func TestSelectorsOfRanges(t *testing.T) {
	from := prefix("10.1.0.0/16")
	from.Start, from.End = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.6") // /32 /31 /31 /32
	to := prefix("10.9.0.0/24")
	to.Protocol, to.StartPort, to.EndPort = 6, 80, 82 // 80/31, 82/32
	list, err := selectors(from, to)
	if err != nil || len(list) != 8 {
		t.Errorf("%d entries, %v; want 8", len(list), err)
	}
	opaque := prefix("10.9.0.0/24")
	opaque.Protocol, opaque.StartPort, opaque.EndPort = 6, 65535, 0
	if _, err := selectors(from, opaque); !errors.Is(err, ipsec.ErrUnsupported) {
		t.Errorf("OPAQUE: %v", err)
	}
	types := prefix("10.9.0.0/24")
	types.Protocol, types.StartPort, types.EndPort = 1, 0x0300, 0x08ff
	if _, err := selectors(prefix("10.1.0.0/16"), types); !errors.Is(err, ipsec.ErrUnsupported) {
		t.Errorf("a range of ICMP types: %v", err)
	}
	wide := prefix("10.1.0.0/16")
	wide.Start, wide.End = netip.MustParseAddr("1.0.0.1"), netip.MustParseAddr("254.255.255.254")
	ports := wide
	ports.StartPort, ports.EndPort, ports.Protocol = 1, 65534, 17
	if _, err := selectors(ports, wide); !errors.Is(err, ipsec.ErrUnsupported) {
		t.Errorf("ranges of too many pieces: %v", err)
	}
}

// The order of policies is that of the data plane in user space: priority, then
// remote addresses, then local ones, then protocol and ports, the narrower first.
func TestPriorities(t *testing.T) {
	policy := func(local, remote string, protocol uint8, priority uint32) ipsec.Policy {
		p := ipsec.Policy{PolicyID: ipsec.PolicyID{Direction: ipsec.Out, Local: prefix(local), Remote: prefix(remote), Priority: priority}, Action: ipsec.Discard}
		p.Local.Protocol, p.Remote.Protocol = protocol, protocol
		return p
	}
	inOrder := []ipsec.Policy{
		policy("0.0.0.0/0", "0.0.0.0/0", 0, ipsec.PriorityProtect-1),
		policy("10.0.0.0/8", "10.9.8.7/32", 0, ipsec.PriorityProtect),
		policy("10.1.0.0/16", "10.9.0.0/16", 6, ipsec.PriorityProtect),
		policy("10.1.0.0/16", "10.9.0.0/16", 0, ipsec.PriorityProtect),
		policy("0.0.0.0/0", "10.9.0.0/16", 6, ipsec.PriorityProtect),
		policy("0.0.0.0/0", "0.0.0.0/0", 0, ipsec.PriorityProtect),
		policy("10.1.2.3/32", "10.9.8.7/32", 6, ipsec.PriorityDiscard),
		policy("2001:db8::/128", "::/0", 6, ipsec.PriorityDiscard),
		policy("::/0", "::/0", 0, ipsec.PriorityDiscard),
		policy("10.1.2.3/32", "10.9.8.7/32", 6, maxPriority),
	}
	last := uint32(0)
	for i, p := range inOrder {
		entries, err := entriesOf(&p)
		if err != nil || len(entries) != 1 {
			t.Fatalf("%s: %d entries, %v", p.PolicyID, len(entries), err)
		}
		for _, priority := range entries {
			if priority <= last && i > 0 {
				t.Errorf("%s has priority %d, after %d", p.PolicyID, priority, last)
			}
			if priority>>rankBits != p.Priority {
				t.Errorf("%s: priority %d came back as %d", p.PolicyID, p.Priority, priority>>rankBits)
			}
			last = priority
		}
	}
}

// What the kernel sends is taken apart without a fault, whatever it is.
func FuzzMessages(f *testing.F) {
	target := fuzztest.New(f)
	message := func(kind uint16, body []byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = binary.NativeEndian.AppendUint16(b, 0)
		return append(append(b, make([]byte, 8)...), body...)
	}
	sa := newRequest(0, 0, make([]byte, nl.SizeofXfrmUsersaInfo))
	sa.attribute(nl.XFRMA_REPLAY_ESN_VAL, make([]byte, replayESNLen))
	sa.attribute(nl.XFRMA_ENCAP, make([]byte, nl.SizeofXfrmEncapTmpl))
	target.Add(message(nl.XFRM_MSG_NEWSA, sa.body))
	target.Add(message(nl.XFRM_MSG_EXPIRE, make([]byte, nl.SizeofXfrmUsersaInfo+8)))
	target.Add(message(nl.XFRM_MSG_MAPPING, make([]byte, mappingLen)))
	acquire := newRequest(0, 0, make([]byte, acquireLen))
	acquire.attribute(nl.XFRMA_TMPL, make([]byte, nl.SizeofXfrmUserTmpl))
	target.Add(message(nl.XFRM_MSG_ACQUIRE, acquire.body))
	target.Add(message(nl.XFRM_MSG_NEWPOLICY, make([]byte, nl.SizeofXfrmUserpolicyInfo)))
	target.Add(message(2, make([]byte, 20)))
	target.Fuzz(func(t *testing.T, datagram []byte) {
		b := &Backend{kind: kindXFRM, events: ipsec.NewEventQueue()}
		_, _ = answer(datagram, 0, 0, nil)
		historyIn(datagram, ipsec.SAID{Dst: netip.AddrFrom4([4]byte{})})
		_ = messages(datagram, func(h header, body []byte) bool {
			b.parseSA(body)
			b.parsePolicy(body)
			b.expired(body)
			b.acquired(body)
			b.mapped(body, nil)
			_ = errorOf(body, h.flags)
			if len(body) >= nl.SizeofXfrmUsersaInfo {
				stateOf(body, ipsec.In)
			}
			return true
		})
	})
}
