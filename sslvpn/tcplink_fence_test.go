package sslvpn

import (
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
)

// TestFencedLink ends a connection in either direction, without another octet,
// once its local address may not be used.
func TestFencedLink(t *testing.T) {
	for _, direction := range []string{"in", "out"} {
		t.Run(direction, func(t *testing.T) {
			l, far := tcpPair(t, new(drops))
			var fenced atomic.Bool
			l.fence(func(local netip.Addr) bool { return local != netip.MustParseAddr("127.0.0.1") || !fenced.Load() })
			packets := make(chan []byte, 10)
			ended := make(chan error, 1)
			go func() {
				ended <- l.run(func(packet []byte) error {
					packets <- append([]byte{}, packet...)
					return nil
				}, func([][]byte) error { return nil })
			}()
			hello := []byte{7 << 3, 1, 2, 3}
			if _, err := far.Write(frameOf(hello)); err != nil {
				t.Fatal(err)
			}
			<-packets
			if err := l.sendControl(hello); err != nil {
				t.Fatal(err)
			}
			readFrame(t, far)

			fenced.Store(true)
			if direction == "in" {
				if _, err := far.Write(frameOf(hello)); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; !errors.Is(err, errFenced) || len(packets) > 0 {
					t.Errorf("ended with %v and %d packets", err, len(packets))
				}
				return
			}
			if err := l.sendControl(hello); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(far); err != nil || len(rest) > 0 {
				t.Errorf("%d octets were sent, and then %v", len(rest), err)
			}
			<-ended
		})
	}
}
