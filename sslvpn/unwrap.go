package sslvpn

import (
	"fmt"
	"time"

	"github.com/vpngw/vpngw/sslvpn/wire"
)

// wrapping is how an endpoint protects its control packets beside TLS: not at
// all, with a key that all clients have (tls-crypt), or with one for each client
// (tls-crypt-v2).
type wrapping struct {
	shared      *wire.TLSCrypt
	keys        *wire.TLSCryptV2
	revokedKeys map[wire.ClientKeyID]bool
}

func newWrapping(e *Endpoint) (w wrapping, err error) {
	if e.TLSCryptKey != nil {
		w.shared, err = wire.NewTLSCrypt(e.TLSCryptKey, true)
	}
	if e.TLSCryptV2Key != nil {
		if w.keys, err = wire.NewTLSCryptV2(e.TLSCryptV2Key); err != nil {
			return w, err
		}
	}
	for _, s := range e.RevokedClientKeys {
		id, err := wire.ParseClientKeyID(s)
		if err != nil {
			return w, fmt.Errorf("revoked %w", err)
		}
		if w.revokedKeys == nil {
			w.revokedKeys = make(map[wire.ClientKeyID]bool)
		}
		w.revokedKeys[id] = true
	}
	return w, err
}

// controlPacket is a control packet as it came, its opcode without regard to a
// wrapped key.
type controlPacket struct {
	wire.Control
	wrap      *wire.TLSCrypt   // of the client; nil: packets go plain
	clientKey wire.ClientKeyID // what it came with; the zero value: nothing
	keyAgain  bool             // the client can send its wrapped key again
}

// bareOpcode has what packets with a wrapped key are without it.
var bareOpcode = map[wire.Opcode]wire.Opcode{
	wire.HardResetClientV3: wire.HardResetClientV2,
	wire.ControlWKCV1:      wire.ControlV1,
}

// parse reads a control packet. of is the wrapping of the session that it is
// for, nil where there is none yet.
func (ep *endpoint) parse(packet []byte, of *wire.TLSCrypt) (c controlPacket, why controlDrop) {
	w := &ep.config().wrapping
	c.wrap = w.shared
	var bare wire.Opcode // of a packet that came with a wrapped key
	if w.keys != nil && len(packet) > 0 {
		c.wrap = of
		var wrapped []byte
		var err error
		op, _ := wire.SplitOpcode(packet[0])
		if bare = bareOpcode[op]; bare != 0 {
			if packet, wrapped, err = wire.CutWrappedKey(packet); err != nil {
				return c, dropMalformed
			}
			if of == nil { // else it is said again, and changes nothing
				if c.wrap, err = w.keys.Open(wrapped); err != nil {
					return c, dropWrap
				}
				if c.clientKey = wire.ClientKeyIDOf(wrapped); w.revokedKeys[c.clientKey] {
					return c, dropRevoked
				}
			}
		}
		if c.wrap == nil {
			return c, dropWrap
		}
	}
	if c.wrap != nil {
		plain, err := c.wrap.Open(packet)
		if err != nil {
			return c, dropWrap
		}
		c.keyAgain = bare == wire.HardResetClientV2 && wire.ResendsKey(packet)
		packet = plain
		if bare != 0 {
			_, keyID := wire.SplitOpcode(packet[0])
			packet[0] = bare.Octet(keyID)
		}
	}
	var err error
	if c.Control, err = wire.ParseControl(packet); err != nil {
		return c, dropMalformed
	}
	return c, ""
}

// format returns a control packet as it goes out. counter and since number the
// packets of a session.
func format(c *wire.Control, wrap *wire.TLSCrypt, counter uint32, since time.Time) []byte {
	packet := c.Append(nil)
	if wrap != nil {
		return wrap.Append(nil, packet, counter, uint32(since.Unix()))
	}
	return packet
}
