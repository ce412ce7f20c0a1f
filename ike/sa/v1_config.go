package sa

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

// IKEv1 reports whether the connection speaks version 1 of IKE.
func (c *Connection) IKEv1() bool { return c.Version == 1 }

// ofVersion returns the connections of one version of IKE.
func ofVersion(list []*Connection, v1 bool) []*Connection {
	return slices.DeleteFunc(slices.Clone(list), func(c *Connection) bool { return c.IKEv1() != v1 })
}

// validVersion checks what only one version of IKE has.
func (c *Connection) validVersion() error {
	switch {
	case c.Version > 2:
		return fmt.Errorf("version: there is no IKE of version %d", c.Version)
	case c.PPK != nil && c.IKEv1():
		return errors.New("PPK: is of IKEv2 only")
	case c.Aggressive && !c.IKEv1():
		return errors.New("aggressive mode: is of IKEv1 only")
	case !c.IKEv1():
		return nil
	}
	return inIKEv1(c.Proposals)
}

// inIKEv1 checks that IKEv1 has a number for each transform.
func inIKEv1(list []ipsec.Proposal) error {
	for _, p := range list {
		for _, t := range p.Transforms {
			aeadIKE := p.Protocol == ipsec.ProtocolIKE && t.IsAEAD()
			chacha := t.Type == ipsec.TransformEncryption && t.ID == ipsec.EncryptionChaCha20Poly1305
			curve := t.Type == ipsec.TransformGroup && t.ID == ipsec.GroupCurve25519
			if aeadIKE || chacha || curve || t.Type.IsAdditional() {
				return fmt.Errorf("%s proposals: %s is not defined for IKEv1", p.Protocol, t)
			}
		}
	}
	return nil
}

// validVersion checks what only one version of IKE has. A quick mode knows but
// one pair of selectors: several are several children.
func (c *Child) validVersion(version uint8) error {
	if version != 1 {
		return nil
	}
	if c.Template {
		return inIKEv1(c.Proposals)
	}
	if len(c.Local) != 1 || len(c.Remote) != 1 {
		return fmt.Errorf("selectors: %d and %d, IKEv1 takes one a side", len(c.Local), len(c.Remote))
	}
	for _, ts := range []ipsec.TrafficSelector{c.Local[0], c.Remote[0]} {
		if _, err := isakmp.SelectorID(ts); err != nil {
			return err
		}
	}
	return inIKEv1(c.Proposals)
}
