package xfrm

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// deviceKind is what the kernel has for route-based tunnels.
type deviceKind uint8

const (
	kindNone deviceKind = iota
	kindXFRM
	kindVTI
)

// String returns the kernel's name of the kind of link.
func (k deviceKind) String() string {
	switch k {
	case kindXFRM:
		return "xfrm"
	case kindVTI:
		return "vti"
	case kindNone:
	}
	return "none"
}

const (
	// alias marks devices of ours (IFLA_IFALIAS).
	alias = "vpngw ipsec"
	// maxNameLen is the octets of an interface name (IFNAMSIZ without its end).
	maxNameLen = 15
	// defaultMTU is for a device that is given none: what an outer path of 1,500
	// octets takes with the largest overhead, of IPv6, UDP and AES-CBC with
	// HMAC-SHA2-512. The kernel knows smaller path MTUs and answers by them.
	defaultMTU = 1376
)

// SetInterfaces implements ipsec.Backend. With a device that goes, SAs and
// policies of an earlier process go that belong to it.
func (b *Backend) SetInterfaces(want []ipsec.Interface) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("set interfaces: %w", errClosed)
	}
	checked, errs := checkInterfaces(want)
	b.countBandwidth() // before devices go
	// Those that go make room for their names first.
	for ifID, have := range b.devices {
		if wanted, ok := checked[ifID]; ok && wanted.Name == have.Name {
			continue
		}
		if err := b.removeDevice(have); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: remove: %w", have.Name, err))
			continue
		}
		delete(b.devices, ifID)
		delete(b.limited, ifID)
		b.log.Info("interface removed", "interface", have.Name, "if_id", ifID)
	}
	for ifID, i := range checked {
		have, ok := b.devices[ifID]
		if ok && have.Name != i.Name {
			continue // which could not be removed
		}
		if err := b.makeDevice(i); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", i.Name, err))
			continue
		}
		if !ok {
			b.log.Info("interface made", "interface", i.Name, "if_id", ifID, "kind", b.kind)
		}
		b.devices[ifID] = i
		if b.abilities.Bandwidth != nil {
			continue
		}
		if err := b.limit(i); err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", i.Name, err))
		}
	}
	if err := b.clampSegmentSize(); err != nil {
		b.log.Warn("the segment size of TCP is not lowered to what fits the tunnels", "error", err)
	}
	return errors.Join(errs...)
}

// checkInterfaces returns those that can be made, by IfID.
func checkInterfaces(want []ipsec.Interface) (map[uint32]ipsec.Interface, []error) {
	var errs []error
	checked, names := map[uint32]ipsec.Interface{}, map[string]bool{}
	for _, i := range want {
		_, twice := checked[i.IfID]
		switch {
		case i.Name == "" || len(i.Name) > maxNameLen:
			errs = append(errs, fmt.Errorf("interface %q: the name must have 1 to %d octets", i.Name, maxNameLen))
		case i.IfID == 0:
			errs = append(errs, fmt.Errorf("interface %s: IfID must not be zero", i.Name))
		case names[i.Name]:
			errs = append(errs, fmt.Errorf("interface %s: the name is used twice", i.Name))
		case twice:
			errs = append(errs, fmt.Errorf("interface %s: IfID %d is used twice", i.Name, i.IfID))
		default:
			names[i.Name], checked[i.IfID] = true, i
		}
	}
	return checked, errs
}

// makeDevice makes a device, or sees to it that the one there is right.
func (b *Backend) makeDevice(i ipsec.Interface) error {
	if b.kind == kindNone {
		return fmt.Errorf("the kernel has neither XFRM interfaces nor VTI: %w", ipsec.ErrUnsupported)
	}
	mtu := cmp.Or(i.MTU, defaultMTU)
	link, err := b.links.LinkByName(i.Name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		if err := b.links.LinkAdd(b.linkOf(i.Name, i.IfID, mtu)); err != nil {
			return fmt.Errorf("make the %s device: %w", b.kind, err)
		}
		delete(b.limited, i.IfID)
		link, err = b.links.LinkByName(i.Name)
	}
	if err != nil {
		return err
	}
	// One without the alias is that of a process that ended while it made it.
	if ifID, ok := ifIDOfLink(link); !ok || ifID != i.IfID {
		return fmt.Errorf("there is another device of this name, of kind %s", link.Type())
	}
	have := link.Attrs()
	if have.Alias != alias {
		err = b.links.LinkSetAlias(link, alias)
	}
	if err == nil && have.MTU != mtu {
		err = b.links.LinkSetMTU(link, mtu)
	}
	if err == nil && b.kind == kindVTI {
		err = b.trustVTI(i.Name)
	}
	if err == nil && have.Flags&net.FlagUp == 0 {
		err = b.links.LinkSetUp(link)
	}
	return err
}

// linkOf describes a new device. A VTI device needs outer addresses, no two the
// same: until an SA says where the peer is, it has one of the reserved 240.0.0.0/4
// (RFC 1112, section 4), where nothing is ever sent.
func (b *Backend) linkOf(name string, ifID uint32, mtu int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if b.kind == kindXFRM {
		return &netlink.Xfrmi{LinkAttrs: attrs, Ifid: ifID}
	}
	nowhere := net.IPv4(240|byte(ifID>>24)&0x0f, byte(ifID>>16), byte(ifID>>8), byte(ifID))
	return &netlink.Vti{LinkAttrs: attrs, IKey: ifID, OKey: ifID, Local: net.IPv4zero, Remote: nowhere}
}

// ifIDOfLink returns the IfID of a device that could be ours.
func ifIDOfLink(link netlink.Link) (ifID uint32, ok bool) {
	switch l := link.(type) {
	case *netlink.Xfrmi:
		return l.Ifid, true
	case *netlink.Vti:
		return l.IKey, l.IKey == l.OKey
	}
	return 0, false
}

// aimVTI gives a VTI device the outer addresses of its tunnel.
func (b *Backend) aimVTI(ifID uint32, local, remote netip.Addr) error {
	i, ok := b.devices[ifID]
	if !ok {
		return fmt.Errorf("interface %d: %w", ifID, ipsec.ErrNotFound)
	}
	link, err := b.links.LinkByName(i.Name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", i.Name, err)
	}
	have, ok := link.(*netlink.Vti)
	if !ok {
		return fmt.Errorf("interface %s: is of kind %s", i.Name, link.Type())
	}
	if have.Local.Equal(local.AsSlice()) && have.Remote.Equal(remote.AsSlice()) {
		return nil
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = i.Name, have.MTU // with its index, too, the kernel takes the name for a new one
	next := &netlink.Vti{LinkAttrs: attrs, IKey: ifID, OKey: ifID, Local: local.AsSlice(), Remote: remote.AsSlice()}
	err = b.links.LinkModify(next)
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("interface %s: VTI takes one tunnel between %s and %s: %w", i.Name, local, remote, ipsec.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("interface %s: outer addresses: %w", i.Name, err)
	}
	return nil
}

// trustVTI lets the kernel forward what a VTI device has received without
// another look at the policies, which it could not find: they have the device's
// mark, and the packet bears it no more. The device itself has looked.
func (b *Backend) trustVTI(name string) error {
	return b.inNamespace(func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			path := "/proc/sys/net/" + family + "/conf/" + name + "/disable_policy"
			if err := os.WriteFile(path, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

// removeDevice removes a device, and what an earlier process has left on it.
func (b *Backend) removeDevice(i ipsec.Interface) error {
	link, err := b.links.LinkByName(i.Name)
	if err == nil {
		err = b.links.LinkDel(link)
	}
	if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
		return err
	}
	var errs []error
	for id, a := range b.sas {
		if a.adopted && a.record.IfID == i.IfID {
			errs = append(errs, b.remove(id, a))
		}
	}
	for key := range b.inherited {
		if key.ifID == i.IfID {
			errs = append(errs, b.disinherit(key))
		}
	}
	return errors.Join(errs...)
}

// adoptDevices finds the devices that an earlier process has left.
func (b *Backend) adoptDevices() error {
	links, err := b.links.LinkList()
	if err != nil {
		return fmt.Errorf("read the devices: %w", err)
	}
	for _, link := range links {
		ifID, ok := ifIDOfLink(link)
		if !ok || ifID == 0 || link.Attrs().Alias != alias || !strings.HasPrefix(link.Type(), b.kind.String()) {
			continue
		}
		b.devices[ifID] = ipsec.Interface{IfID: ifID, Name: link.Attrs().Name, MTU: link.Attrs().MTU}
		b.clamped[ifID] = 0
	}
	return nil
}

// inNamespace calls a function in the network namespace of the Backend. Only where
// that is another than the process's it needs CAP_SYS_ADMIN.
func (b *Backend) inNamespace(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if b.isHere() {
			defer runtime.UnlockOSThread()
			done <- f()
			return
		}
		// The thread ends with the goroutine, which does not unlock it.
		if err := unix.Setns(int(b.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// isHere reports whether the calling thread is in the network namespace of the Backend.
func (b *Backend) isHere() bool {
	var here, there unix.Stat_t
	return unix.Stat("/proc/thread-self/ns/net", &here) == nil && unix.Fstat(int(b.namespace.Fd()), &there) == nil &&
		here.Dev == there.Dev && here.Ino == there.Ino
}
