package udp

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// keeper is a SocketStore that keeps duplicates.
type keeper struct {
	t    *testing.T
	kept map[string]*os.File
}

func (k *keeper) Keep(name string, fd int) error {
	if k.kept[name] != nil {
		k.t.Errorf("%s is kept twice", name)
	}
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		k.kept[name] = os.NewFile(uintptr(duplicate), name)
	}
	return err
}

func (k *keeper) Drop(name string) error {
	if k.kept[name] == nil {
		k.t.Errorf("%s is not kept", name)
		return nil
	}
	err := k.kept[name].Close()
	delete(k.kept, name)
	return err
}

// pass returns duplicates of what is kept, as the next process gets them.
func (k *keeper) pass() (files []*os.File) {
	k.t.Helper()
	for name, f := range k.kept {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			k.t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(fd), name))
	}
	return files
}

// inode tells a socket from others, in whatever process.
func inode(t *testing.T, fd uintptr) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Fstat(int(fd), &s); err != nil {
		t.Fatal(err)
	}
	return s.Ino
}

// The sockets that the kernel takes ESP from outlive the process, are those of the next
// one, and go when no SA needs them.
func TestDecapsulationIsKept(t *testing.T) {
	k := &keeper{t: t, kept: map[string]*os.File{}}
	local := netip.AddrPortFrom(nextAddr(), testNATT)
	one, two := netip.AddrPortFrom(nextAddr(), 4500), netip.AddrPortFrom(nextAddr(), 61000)
	open := func(inherited []*os.File) *Mux {
		return New(Options{
			Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), NoRawESP: true, IKEPort: testIKE, NATTPort: testNATT,
			Decapsulation: true, Store: k, Inherited: inherited,
		})
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	first := open(nil)
	check(first.SetAddresses([]netip.Addr{local.Addr()}))
	check(first.Decapsulate(local, one, true))
	check(first.Decapsulate(local, two, true))
	check(first.Decapsulate(local, one, true)) // which it is
	if len(k.kept) != 2 {
		t.Fatalf("kept are %v, want two", k.kept)
	}
	var was uint64
	check(first.decapsulated[pathKey{local, one}].conn.Control(func(fd uintptr) { was = inode(t, fd) }))
	check(first.Close())
	if len(k.kept) != 2 {
		t.Fatalf("after the end of the process kept are %v", k.kept)
	}

	// Not all that comes is ours.
	strange, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	check(err)
	null, err := os.Open(os.DevNull)
	check(err)
	second := open(append(k.pass(), os.NewFile(uintptr(strange), "strange"), null))
	check(second.Decapsulate(local, one, true))
	second.DropInherited()
	if len(k.kept) != 1 || len(second.inherited) != 1 {
		t.Errorf("kept are %v, unused %v: want that of the path which is wanted", k.kept, second.inherited)
	}
	check(second.SetAddresses([]netip.Addr{local.Addr()}))
	var is uint64
	check(second.decapsulated[pathKey{local, one}].conn.Control(func(fd uintptr) { is = inode(t, fd) }))
	if is != was {
		t.Error("the path got another socket")
	}
	// What is not ESP is received there as ever.
	heard := make(chan netip.AddrPort, 1)
	second.OnIKE(func(_, remote netip.AddrPort, _ []byte) {
		select {
		case heard <- remote:
		default:
		}
	})
	peer, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(one), net.UDPAddrFromAddrPort(local))
	check(err)
	defer peer.Close()
	_, err = peer.Write(make([]byte, 40)) // a non-ESP marker and a header's worth
	check(err)
	select {
	case remote := <-heard:
		if remote != one {
			t.Errorf("heard of %s, want %s", remote, one)
		}
	case <-time.After(patience):
		t.Error("an inherited socket receives nothing")
	}
	check(second.Decapsulate(local, one, false))
	check(second.Decapsulate(local, two, true))
	if len(k.kept) != 1 {
		t.Errorf("kept are %v, want that of the second path", k.kept)
	}
	check(second.SetAddresses(nil))
	if len(k.kept) != 0 {
		t.Errorf("an address is not served, and kept are %v", k.kept)
	}
	check(second.Close())
}
