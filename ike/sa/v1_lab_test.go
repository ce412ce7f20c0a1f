package sa

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// initiateV1 begins with the first connection.
func (e *end) initiateV1() *MachineV1 {
	m, out := InitiateV1(e.lab.now, e.env, e.conns[0])
	e.machines = append(e.machines, m)
	e.perform(out)
	return m
}

// receiveV1 does what a server does with a datagram of IKEv1.
func (e *end) receiveV1(d Datagram) {
	h, err := isakmp.ParseHeader(d.Bytes)
	if err != nil {
		e.note("dropped: %v", err)
		return
	}
	for _, m := range slices.Clone(e.machines) {
		if m, ok := m.(*Machine); ok && slices.Contains(m.SPIs(), h.InitiatorSPI) {
			e.perform(m.Handle(e.lab.now, d))
			return
		}
		m, ok := m.(*MachineV1)
		if !ok {
			continue
		}
		if slices.ContainsFunc(m.sas, func(s *ISAKMPSA) bool { return s.owns(&h) }) {
			// The server is asked while the machine is in its step, as with Handover.
			e.env.Handover = func(c *Connection, s *ISAKMPSA) bool { return e.handover(m, c, s) }
			out := m.Handle(e.lab.now, d)
			e.env.Handover = nil
			e.perform(out)
			for _, f := range e.adopted {
				f()
			}
			e.adopted = nil
			return
		}
	}
	if h.ResponderSPI != 0 {
		e.note("dropped: nobody's")
		return
	}
	m, out, err := RespondV1(e.lab.now, e.env, d)
	if err != nil {
		e.note("dropped: %v", err)
		return
	}
	if m != nil {
		e.machines = append(e.machines, m)
	}
	e.perform(out)
}

func (e *end) handover(from *MachineV1, c *Connection, s *ISAKMPSA) bool {
	for _, m := range e.machines {
		if m, ok := m.(*MachineV1); ok && m != from && m.Connection() == c.Name {
			e.adopted = append(e.adopted, func() { e.perform(m.Do(e.lab.now, Adopt{s})) })
			return true
		}
	}
	return false
}

// printV1 describes a datagram of IKEv1 in one line. What is encrypted is read
// with the keys of the machines, for which the whole exchange is looked through.
func (l *lab) printV1(b []byte) string {
	m, err := isakmp.Parse(b)
	if err != nil {
		return err.Error()
	}
	text := m.Exchange.String()
	if m.Encrypted {
		return fmt.Sprintf("%s, %d octets encrypted", text, len(m.Ciphertext()))
	}
	names := []string{text}
	for _, p := range m.Payloads {
		switch p := p.(type) {
		case *isakmp.VendorID:
			continue
		case *isakmp.Notify:
			names = append(names, p.String())
		case *isakmp.Fragment:
			names = append(names, fmt.Sprintf("fragment %d", p.Number))
		default:
			names = append(names, p.Type().String())
		}
	}
	return strings.Join(names, " ")
}

func proposalV1(group uint16) ipsec.Proposal {
	return ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
		ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(group),
	}}
}

// connV1 is connA in IKEv1.
func connV1(edit ...func(*Connection)) *Connection {
	c := connA()
	c.Version = 1
	c.Proposals = []ipsec.Proposal{proposalV1(ipsec.GroupECP256)}
	c.Children[0].Proposals = []ipsec.Proposal{espProposal(ipsec.GroupECP256)}
	for _, e := range edit {
		e(c)
	}
	return c
}

// useV1 gives both ends a connection of IKEv1.
func (l *lab) useV1(edit ...func(*Connection)) {
	a := connV1(edit...)
	l.a.conns, l.b.conns = []*Connection{a}, []*Connection{mirror(a, "ba")}
}
