package sslvpn

import (
	"net/netip"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// push sends the settings.
func (s *session) push() {
	s.pushing.Lock()
	defer s.pushing.Unlock()
	s.mu.Lock()
	p, c := s.params, s.client.Load()
	s.params.pushed = time.Now()
	s.mu.Unlock()
	told := s.ep.config().pushed(c, &p, s.stream)
	s.told = &told
	for _, m := range told.Messages() {
		s.send(m)
	}
	s.pushChangeLocked() // the settings may have changed meanwhile
}

// pushChange tells a client that takes it how its settings have changed since it
// was told.
func (s *session) pushChange() {
	s.pushing.Lock()
	defer s.pushing.Unlock()
	s.pushChangeLocked()
}

// pushChangeLocked is pushChange for who holds pushing.
func (s *session) pushChangeLocked() {
	if s.told == nil {
		return
	}
	s.mu.Lock()
	p, c, established := s.params, s.client.Load(), s.phase == phaseEstablished
	s.mu.Unlock()
	if !established || !p.info.Proto.Has(wire.ProtoPushUpdate) {
		return
	}
	now := s.ep.config().pushed(c, &p, s.stream)
	if !p.info.UpdatesDNS() {
		now.DNS, now.Domain = s.told.DNS, s.told.Domain
	}
	for _, m := range now.Update(s.told) {
		s.send(m)
	}
	s.told = &now
}

// pushed returns the settings of a client under an agreement.
func (cfg *settings) pushed(c *client, p *parameters, stream bool) wire.Push {
	info := &p.info
	push := wire.Push{
		Routes: cfg.Routes, DNS: cfg.DNS, Domain: cfg.Domain, DNSOption: info.Proto.Has(wire.ProtoDNS),
		Local: c.virtualIP, Peer: peerOf(c.virtualIP),
		Ping: int(pingInterval / time.Second), PingRestart: int(pingRestart / time.Second),
		PeerID: c.id, ExitNotify: !stream, AuthToken: p.token,
	}
	if cfg.Topology == TopologySubnet {
		push.Network = cfg.Pool
	}
	if cfg.Pool6.IsValid() {
		push.Local6 = netip.PrefixFrom(c.address6.addr(), cfg.Pool6.Bits())
		push.Gateway6 = cfg.Pool6.Addr().Next()
	}
	if info.Negotiates() {
		push.Cipher = string(p.cipher)
	}
	switch {
	case info.Proto.Has(wire.ProtoExitNotify):
		push.Flags = []string{wire.FlagExitNotify}
		if p.exporter {
			push.Flags = append(push.Flags, wire.FlagTLSExporter)
		}
		if p.epoch {
			push.Flags = append(push.Flags, wire.FlagEpochData)
		}
	case p.exporter:
		push.KeyDerivation = wire.FlagTLSExporter
	}
	if info.MTU > 0 {
		push.TunMTU = min(tunMTU, max(info.MTU, 576))
	}
	switch {
	case p.framing == framingCompLZO:
		push.CompLZO = true
	case p.stubV2:
		push.Compress = "stub-v2"
	}
	return push
}
