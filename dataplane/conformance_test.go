package dataplane

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/dataplane/tun"
	"github.com/vpngw/vpngw/ipsec"
	"github.com/vpngw/vpngw/ipsec/ipsectest"
)

// running starts Run of a gateway for the length of a test.
func running(t *testing.T) *gateway {
	g := newGateway(t)
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wait.Wait()
	})
	return g
}

func TestConformance(t *testing.T) {
	end := func(t *testing.T) ipsectest.End {
		g := running(t)
		return ipsectest.End{
			Backend: g, Outer: g.outer,
			Send: func(packet []byte) { g.shared.SendPacket(packet) },
			Receive: func(wait time.Duration) []byte {
				select {
				case frame := <-g.shared.Received():
					return frame[tun.HeaderLen:]
				case <-time.After(wait):
					return nil
				}
			},
		}
	}
	ipsectest.Run(t, func(t *testing.T) ipsec.Backend { return running(t) }, ipsectest.Options{
		Pair: func(t *testing.T) (a, b ipsectest.End) { return end(t), end(t) },
	})
}
