package xfrm

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/ipsec"
)

// A descriptor that was closed with the Backend may be another's by now.
func TestReleaseAfterClose(t *testing.T) {
	for name, end := range map[string]func(*Backend){
		"close":   func(b *Backend) { _ = b.Close() },
		"timeout": func(b *Backend) { b.tick(time.Now().Add(2 * earlyLife)) },
	} {
		t.Run(name, func(t *testing.T) {
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			kept, other := pipe[0], pipe[1]
			defer unix.Close(other)
			id := ipsec.SAID{Dst: netip.MustParseAddr("203.0.113.1"), SPI: 0x1001}
			b := newBackend(Options{})
			b.early[id] = &early{since: time.Now(), sockets: []int{kept}}
			end(b)
			if err := unix.Dup3(other, kept, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(kept)
			b.Release(id)
			if _, err := unix.FcntlInt(uintptr(kept), unix.F_GETFD, 0); err != nil {
				t.Errorf("the other's descriptor: %v", err)
			}
		})
	}
}
