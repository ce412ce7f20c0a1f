package sslvpn

import (
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/dataplane/tun"
)

// TestRekey installs a second key while packets under the first still come:
// both open; sealing moves on when the client has used the new one.
func TestRekey(t *testing.T) {
	p, dev := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	var heard []uint8
	c.onKey = func(id uint8) { heard = append(heard, id) }
	k := dataKeys{AES256GCM, sequence(3, 32), sequence(90, 32), sequence(5, 8), sequence(6, 8), false}
	if err := c.installKey(1, k); err != nil {
		t.Fatal(err)
	}
	second := farKey(t, 1, k)
	sealsWith := func() uint8 {
		if err := c.sendPing(); err != nil {
			t.Fatal(err)
		}
		return c.link.take()[0][0] & 7
	}
	late := mustSeal(t, c.key, ipUDP("10.8.0.5", host, 3))
	c.sends(t, ipUDP("10.8.0.5", host, 1))
	if id := sealsWith(); id != 0 {
		t.Errorf("seals with %d before the client has used the new key", id)
	}
	c.receive([][]byte{mustSeal(t, second, ipUDP("10.8.0.5", host, 2))})
	if id := sealsWith(); id != 1 {
		t.Errorf("seals with %d", id)
	}
	c.receive([][]byte{late})
	if id := sealsWith(); id != 1 {
		t.Errorf("an old packet has moved sealing back to %d", id)
	}
	for range 3 {
		if received(dev) == nil {
			t.Errorf("lost a packet: %v", p.drops.snapshot())
		}
	}
	c.retireKey(0)
	if n := c.sends(t, ipUDP("10.8.0.5", host, 1)); n != 0 || p.drops.snapshot()["unknown_key"] != 1 {
		t.Errorf("%d opened under a retired key: %v", n, p.drops.snapshot())
	}
	if !slices.Equal(heard, []uint8{0, 1}) {
		t.Errorf("keys heard of: %v", heard)
	}
	c.retireKey(1)
	if err := c.sendPing(); err == nil || !strings.Contains(err.Error(), "no_key") {
		t.Errorf("without keys: %v", err)
	}
	newOutbound(p).process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", 40)...))
	if p.drops.snapshot()["no_key"] != 1 {
		t.Errorf("%v", p.drops.snapshot())
	}
}

func TestActivateKey(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5")
	if err := c.installKey(1, dataKeys{AES128GCM, sequence(3, 16), sequence(90, 16), sequence(5, 8), sequence(6, 8), false}); err != nil {
		t.Fatal(err)
	}
	c.activateKey(5) // there is none
	c.activateKey(1)
	if err := c.sendPing(); err != nil {
		t.Fatal(err)
	}
	if id := c.link.take()[0][0] & 7; id != 1 {
		t.Errorf("seals with %d", id)
	}
}

func TestKeysWearOut(t *testing.T) {
	p, _ := newTestPlane(t, planeOptions{})
	c := p.testPeer(t, "10.8.0.5", "10.1.0.0/16")
	asked := 0
	c.onRekey = func() { asked++ }
	c.sealing.seal.packetID = rekeyPacketID
	o := newOutbound(p)
	for range 3 {
		o.process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", 40)...))
	}
	if asked != 1 {
		t.Errorf("asked %d times for new keys", asked)
	}
	c.sealing.seal.packetID = lastPacketID
	o.process(append(make([]byte, tun.HeaderLen), ipUDP(host, "10.8.0.5", 40)...))
	if p.drops.snapshot()["exhausted"] != 1 {
		t.Errorf("%v", p.drops.snapshot())
	}
	c.key.seal.blocks = 0
	c.keys[0].open.blocks = rekeyBlocks
	c.sends(t, ipUDP("10.8.0.5", host, 1), ipUDP("10.8.0.5", host, 1))
	if asked != 2 {
		t.Errorf("asked %d times for new keys", asked)
	}
}
