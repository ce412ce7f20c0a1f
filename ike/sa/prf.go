package sa

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"

	"github.com/emmansun/gmsm/sm3"

	"github.com/vpngw/vpngw/ipsec"
)

// prf is a pseudorandom function (RFC 7296, section 2.13). All of ours are
// HMACs: a key may have any length, and the preferred one is the output's.
type prf struct {
	hash func() hash.Hash
	size int // octets of output
}

var prfs = map[uint16]prf{
	ipsec.PRFHMACMD5:     {md5.New, md5.Size},
	ipsec.PRFHMACSHA1:    {sha1.New, sha1.Size},
	ipsec.PRFHMACSHA2256: {sha256.New, sha256.Size},
	ipsec.PRFHMACSHA2384: {sha512.New384, sha512.Size384},
	ipsec.PRFHMACSHA2512: {sha512.New, sha512.Size},
	ipsec.PRFHMACSM3:     {sm3.New, sm3.Size},
}

func newPRF(t ipsec.Transform) (prf, error) {
	p, ok := prfs[t.ID]
	if !ok {
		return prf{}, fmt.Errorf("%s is not supported", t)
	}
	return p, nil
}

// sum returns prf(key, parts joined).
func (p prf) sum(key []byte, parts ...[]byte) []byte {
	mac := hmac.New(p.hash, key)
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(nil)
}

// plus returns n octets of prf+(key, seed), which ends after 255 blocks:
// T1 = prf(K, S | 1), T2 = prf(K, T1 | S | 2), …
func (p prf) plus(key, seed []byte, n int) ([]byte, error) {
	if n > 255*p.size {
		return nil, errors.New("prf+: more key material than it can give")
	}
	out := make([]byte, 0, n+p.size)
	mac := hmac.New(p.hash, key)
	for i := 1; len(out) < n; i++ {
		mac.Write(seed)
		mac.Write([]byte{byte(i)})
		out = mac.Sum(out)
		mac.Reset()
		mac.Write(out[len(out)-p.size:])
	}
	clear(out[n:])
	return out[:n:n], nil
}
