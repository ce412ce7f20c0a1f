package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ProtocolFloating marks floating addresses (IFA_PROTO), which are not part of
// a State.
const ProtocolFloating = 176

// announceFor is how long a new floating address is announced again whenever
// SetFloating is called: the host that had it before may have answered for it a
// little longer.
const announceFor = 10 * time.Second

// floating is an address of SetFloating that is set.
type floating struct{ since time.Time }

// SetFloating gives this host exactly these floating addresses, IPv4 ones, for
// a lifetime, in whole seconds rounded up; calling it again renews it. After
// that the kernel removes them by itself, within about a second: a process that
// is stopped or gone leaves none behind. It announces new ones to the
// neighbours (RFC 5227, section 3), and leaves alone an address that somebody
// else has set on the device. It takes over those of an earlier process.
//
// It goes on past what fails, and returns why by address.
func (m *Manager) SetFloating(want []Address, lifetime time.Duration) (failed map[netip.Addr]error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	failed = map[netip.Addr]error{}
	fail := func(a Address, step string, err error) {
		failed[a.Prefix.Addr()] = fmt.Errorf("floating address %s: %s: %w", a, step, err)
	}
	links, have, err := m.readFloating()
	if err != nil {
		for _, a := range want {
			fail(a, "look", err)
		}
		return failed
	}
	for a, protocol := range have {
		_, added := m.floating[a]
		if (protocol == ProtocolFloating || added) && !slices.Contains(want, a) {
			req := m.addressRequest(unix.RTM_DELADDR, 0, links[a.Link], a, ProtocolFloating)
			if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !gone(err) {
				fail(a, "delete", err)
			}
		}
	}
	maps.DeleteFunc(m.floating, func(a Address, _ floating) bool { return !slices.Contains(want, a) })
	for _, a := range want {
		protocol, there := have[a]
		_, added := m.floating[a]
		if there && protocol != ProtocolFloating && !added {
			continue
		}
		link, ok := links[a.Link]
		switch {
		case !ok:
			fail(a, "add", errors.New("the device does not exist"))
			continue
		case !a.Prefix.Addr().Is4():
			fail(a, "add", errors.New("only IPv4 addresses float"))
			continue
		}
		if err := m.keepFloating(link, a, lifetime); err != nil {
			fail(a, "add", err)
			continue
		}
		f, known := m.floating[a]
		if !known || !there {
			f.since = time.Now()
			m.floating[a] = f
		}
		if time.Since(f.since) < announceFor {
			if err := announce(link, a.Prefix.Addr()); err != nil {
				fail(a, "announce", err)
			}
		}
	}
	return failed
}

func (m *Manager) readFloating() (map[string]netlink.Link, map[Address]uint8, error) {
	all, err := retryDump(m.handle.LinkList)
	if err != nil {
		return nil, nil, err
	}
	links, names := map[string]netlink.Link{}, map[int]string{}
	for _, l := range all {
		links[l.Attrs().Name] = l
		names[l.Attrs().Index] = l.Attrs().Name
	}
	have, err := retryDump(func() (map[Address]uint8, error) { return m.dumpAddresses(names) })
	return links, have, err
}

// keepFloating adds an address or starts its lifetime anew.
func (m *Manager) keepFloating(link netlink.Link, a Address, lifetime time.Duration) error {
	seconds := uint32((lifetime + time.Second - 1) / time.Second)
	req := m.addressRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, link, a, ProtocolFloating)
	// struct ifa_cacheinfo: preferred and valid lifetime, in seconds, and two
	// times that only the kernel sets. One that is not preferred is not chosen
	// as a source by what else runs on the host.
	info := make([]byte, 16)
	binary.NativeEndian.PutUint32(info[4:], seconds)
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, info))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// announce tells the neighbours on a device that an address is here: an ARP
// announcement as a request, and as an answer, for those who heed only one.
func announce(link netlink.Link, a netip.Addr) error {
	hardware := link.Attrs().HardwareAddr
	if len(hardware) != 6 {
		return nil // it has no neighbours to tell
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // What was sent is sent.
	to := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)),
		Ifindex:  link.Attrs().Index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	for _, operation := range []uint16{arpRequest, arpReply} {
		if err := unix.Sendto(fd, announcement(operation, hardware, a), 0, to); err != nil {
			return err
		}
	}
	return nil
}

// ARP operations.
const (
	arpRequest = 1
	arpReply   = 2
)

// announcement returns an ARP packet (RFC 826) whose sender and target are one.
func announcement(operation uint16, hardware []byte, a netip.Addr) []byte {
	packet := binary.BigEndian.AppendUint16(nil, unix.ARPHRD_ETHER)
	packet = binary.BigEndian.AppendUint16(packet, unix.ETH_P_IP)
	packet = append(packet, 6, 4)
	packet = binary.BigEndian.AppendUint16(packet, operation)
	packet = append(append(packet, hardware...), a.AsSlice()...)
	target := make([]byte, 6)
	if operation == arpReply {
		copy(target, hardware)
	}
	return append(append(packet, target...), a.AsSlice()...)
}
