//go:build netns

package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// fraProtocol is the attribute FRA_PROTOCOL of linux/fib_rules.h.
const fraProtocol = 21

// notifications is a socket that hears what changes in a namespace.
type notifications struct{ fd int }

func subscribe(t *testing.T) notifications {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	var groups uint32
	for _, group := range []int{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
		unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	} {
		groups |= 1 << (group - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		t.Fatal(err)
	}
	return notifications{fd}
}

// of returns, decoded, what has been heard since the last call and is a change
// that a Manager with this state could have made. The kernel has its own to
// tell at any time, such as that a device has its carrier.
func (n notifications) of(t *testing.T, s State) (changes []string) {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		size, _, err := unix.Recvfrom(n.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return changes
		}
		if err != nil {
			t.Fatalf("receive notifications: %v", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:size])
		if err != nil {
			t.Fatalf("decode notifications: %v", err)
		}
		for _, m := range messages {
			if text := concerning(m, s); text != "" {
				changes = append(changes, text)
			}
		}
	}
}

// concerning decodes a notification. It returns "" for one that a Manager with
// this state cannot have caused.
func concerning(m syscall.NetlinkMessage, s State) string {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		// A Manager changes nothing of a device but whether it is up.
		flags, changed := binary.NativeEndian.Uint32(m.Data[8:]), binary.NativeEndian.Uint32(m.Data[12:])
		if changed&unix.IFF_UP != 0 {
			return fmt.Sprintf("device %d: up %t", binary.NativeEndian.Uint32(m.Data[4:]), flags&unix.IFF_UP != 0)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		var a netip.Addr
		for _, kind := range []uint16{unix.IFA_ADDRESS, unix.IFA_LOCAL} {
			if raw := attribute(m, kind); raw != nil {
				a, _ = netip.AddrFromSlice(raw)
			}
		}
		if slices.ContainsFunc(s.Addresses, func(ours Address) bool { return ours.Prefix.Addr() == a }) {
			return fmt.Sprintf("address %s/%d on device %d: message %d", a, m.Data[1], binary.NativeEndian.Uint32(m.Data[4:]), m.Header.Type)
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if m.Data[5] == Protocol {
			dst, _ := netip.AddrFromSlice(attribute(m, unix.RTA_DST))
			return fmt.Sprintf("route %s/%d, table %d, type %d: message %d", dst, m.Data[1], attribute(m, unix.RTA_TABLE), m.Data[7], m.Header.Type)
		}
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		if proto := attribute(m, fraProtocol); len(proto) == 1 && proto[0] == Protocol {
			return fmt.Sprintf("rule, family %d, priority %d: message %d", m.Data[0], attribute(m, unix.FRA_PRIORITY), m.Header.Type)
		}
	default:
		return fmt.Sprintf("message %d: %x", m.Header.Type, m.Data)
	}
	return ""
}

// attribute is the value of an attribute, nil when the message has none.
func attribute(m syscall.NetlinkMessage, kind uint16) []byte {
	if m.Header.Type == unix.RTM_NEWRULE || m.Header.Type == unix.RTM_DELRULE {
		m.Header.Type = unix.RTM_NEWROUTE // a rule's header is laid out as a route's
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return nil
	}
	for _, a := range attrs {
		if a.Attr.Type == kind {
			return a.Value
		}
	}
	return nil
}
