package sa

import (
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"filippo.io/bigmod"

	"github.com/vpngw/vpngw/ipsec"
)

// randSource is where secrets come from, crypto/rand.Reader but in tests.
type randSource interface{ Read([]byte) (int, error) }

// keyExchange is our half of one Diffie-Hellman exchange, or the initiator's half
// of a key encapsulation.
type keyExchange interface {
	// public returns the value for the KE payload.
	public() []byte
	// shared returns the secret g^ir for the peer's value, after the checks of
	// RFC 6989. When it succeeds it wipes our private value: there is one
	// secret to each.
	shared(peer []byte) ([]byte, error)
	// agree is shared without the wiping: aggressive mode of IKEv1 learns only
	// from the secret whether it was the peer's value.
	agree(peer []byte) ([]byte, error)
	wipe()
}

// group draws a private value of one key exchange method.
type group func(randSource) (keyExchange, error)

// groups lists the key exchange methods by their IANA number. Those below 2048
// bits are weak: they are used only where a connection's proposals name them.
var groups = map[uint16]group{
	ipsec.GroupMODP768:    modpGroup(modp768),
	ipsec.GroupMODP1024:   modpGroup(modp1024),
	ipsec.GroupMODP1536:   modpGroup(modp1536),
	ipsec.GroupMODP2048:   modpGroup(modp2048),
	ipsec.GroupMODP3072:   modpGroup(modp3072),
	ipsec.GroupMODP4096:   modpGroup(modp4096),
	ipsec.GroupECP256:     curveGroup(ecdh.P256(), 32),
	ipsec.GroupECP384:     curveGroup(ecdh.P384(), 48),
	ipsec.GroupECP521:     curveGroup(ecdh.P521(), 66),
	ipsec.GroupCurve25519: curveGroup(ecdh.X25519(), 32),
}

// newKeyExchange draws a private value of a method. Of a KEM it is the
// initiator's half.
func newKeyExchange(id uint16, rand randSource) (keyExchange, error) {
	g, ok := groups[id]
	if !ok {
		g, ok = kems[id]
	}
	if !ok {
		return nil, fmt.Errorf("key exchange: %s is not supported", ipsec.Group(id))
	}
	kex, err := g(rand)
	if err != nil {
		return nil, fmt.Errorf("key exchange: %s: %w", ipsec.Group(id), err)
	}
	return kex, nil
}

var errSpent = errors.New("the private value is used up")

// modpExponent is the length of private values in octets: more than twice the
// strength of the largest group, as RFC 3526, section 8, asks for.
const modpExponent = 48

// modpExchange is a key exchange over the integers modulo a safe prime.
type modpExchange struct {
	p      *bigmod.Modulus
	secret []byte
	value  []byte
}

func modpGroup(prime string) group {
	modulus := sync.OnceValues(func() (*bigmod.Modulus, error) {
		b, err := hex.DecodeString(prime)
		if err != nil {
			return nil, err
		}
		return bigmod.NewModulus(b)
	})
	return func(rand randSource) (keyExchange, error) {
		p, err := modulus()
		if err != nil {
			return nil, err
		}
		x := &modpExchange{p: p, secret: make([]byte, modpExponent)}
		if err := readFull(rand, x.secret); err != nil {
			return nil, err
		}
		// An exponent without its top bit set would do, too; zero would not.
		x.secret[0] |= 0x80
		two := bigmod.NewNat().SetUint(2).ExpandFor(p)
		x.value = bigmod.NewNat().Exp(two, x.secret, p).Bytes(p)
		return x, nil
	}
}

func (x *modpExchange) public() []byte { return x.value }

func (x *modpExchange) wipe() {
	clear(x.secret)
	x.secret = nil
}

func (x *modpExchange) shared(peer []byte) ([]byte, error) { return sharedOnce(x, peer) }

// sharedOnce agrees on the secret and wipes the private value.
func sharedOnce(x keyExchange, peer []byte) ([]byte, error) {
	secret, err := x.agree(peer)
	if err == nil {
		x.wipe()
	}
	return secret, err
}

func (x *modpExchange) agree(peer []byte) ([]byte, error) {
	if x.secret == nil {
		return nil, errSpent
	}
	if len(peer) != x.p.Size() {
		return nil, fmt.Errorf("public value of %d octets, the group has %d", len(peer), x.p.Size())
	}
	y, err := bigmod.NewNat().SetBytes(peer, x.p)
	if err != nil {
		return nil, errors.New("public value is not below the prime")
	}
	// With a safe prime the values 0, 1 and p−1 are all that is left to refuse
	// (RFC 6989, section 2.1).
	if y.IsZero()|y.IsOne()|y.IsMinusOne(x.p) == 1 {
		return nil, errors.New("public value is 0, 1 or p-1")
	}
	return bigmod.NewNat().Exp(y, x.secret, x.p).Bytes(x.p), nil
}

// curveExchange is a key exchange on an elliptic curve (RFC 5903, RFC 8031).
type curveExchange struct {
	curve ecdh.Curve
	size  int // octets of a coordinate
	key   *ecdh.PrivateKey
	value []byte
}

func curveGroup(curve ecdh.Curve, size int) group {
	return func(rand randSource) (keyExchange, error) {
		b := make([]byte, size)
		defer clear(b)
		for range 128 {
			if err := readFull(rand, b); err != nil {
				return nil, err
			}
			if curve == ecdh.P521() {
				b[0] &= 1 // the order has 521 bits
			}
			// Values at or above the order, and zero, are refused: draw again.
			if key, err := curve.NewPrivateKey(b); err == nil {
				return &curveExchange{curve, size, key, key.PublicKey().Bytes()}, nil
			}
		}
		return nil, errors.New("the source of randomness gives no private value")
	}
}

// uncompressed is the first octet of a point in SEC 1, which IKE leaves out.
const uncompressed = 4

func (x *curveExchange) isNIST() bool { return x.curve != ecdh.X25519() }

func (x *curveExchange) public() []byte {
	if x.isNIST() {
		return x.value[1:]
	}
	return x.value
}

// wipe drops the private value. The standard library offers no way to
// overwrite it.
func (x *curveExchange) wipe() { x.key = nil }

func (x *curveExchange) shared(peer []byte) ([]byte, error) { return sharedOnce(x, peer) }

func (x *curveExchange) agree(peer []byte) ([]byte, error) {
	if x.key == nil {
		return nil, errSpent
	}
	want := x.size
	if x.isNIST() {
		want = 2 * x.size
	}
	if len(peer) != want {
		return nil, fmt.Errorf("public value of %d octets, the group has %d", len(peer), want)
	}
	if x.isNIST() {
		peer = append([]byte{uncompressed}, peer...)
	}
	// NewPublicKey checks that the point is on the curve, ECDH that an X25519
	// secret is not all zero (RFC 6989, section 2.3; RFC 8031, section 3.2).
	key, err := x.curve.NewPublicKey(peer)
	if err != nil {
		return nil, errors.New("public value is not a point of the curve")
	}
	secret, err := x.key.ECDH(key)
	if err != nil {
		return nil, errors.New("public value gives no secret")
	}
	return secret, nil
}

// readFull fills b from the source of randomness.
func readFull(rand randSource, b []byte) error {
	for len(b) > 0 {
		n, err := rand.Read(b)
		if err != nil {
			return fmt.Errorf("randomness: %w", err)
		}
		if n <= 0 {
			return errors.New("randomness: no octets")
		}
		b = b[n:]
	}
	return nil
}
