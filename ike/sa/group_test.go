package sa

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// TestMODPPrimes computes the primes anew from the digits of π, as RFC 2409
// and RFC 3526 define them, and checks that they are safe primes.
func TestMODPPrimes(t *testing.T) {
	pi := piDigits(4096)
	for _, tc := range []struct {
		bits  uint
		k     int64
		prime string
	}{
		{768, 149686, modp768},
		{1024, 129093, modp1024},
		{1536, 741804, modp1536},
		{2048, 124476, modp2048},
		{3072, 1690314, modp3072},
		{4096, 240904, modp4096},
	} {
		one := big.NewInt(1)
		p := new(big.Int).Lsh(one, tc.bits)
		p.Sub(p, new(big.Int).Lsh(one, tc.bits-64)).Sub(p, one)
		digits := new(big.Int).Rsh(pi, 4096-(tc.bits-130))
		digits.Add(digits, big.NewInt(tc.k)).Lsh(digits, 64)
		p.Add(p, digits)
		if got := fmt.Sprintf("%X", p); got != tc.prime {
			t.Errorf("MODP-%d is %s, want %s", tc.bits, tc.prime, got)
		}
		if q := new(big.Int).Rsh(p, 1); !p.ProbablyPrime(0) || !q.ProbablyPrime(0) {
			t.Errorf("MODP-%d is no safe prime", tc.bits)
		}
	}
}

// piDigits returns ⌊2ⁿ π⌋ by Machin's formula.
func piDigits(n uint) *big.Int {
	const guard = 64
	one := new(big.Int).Lsh(big.NewInt(1), n+guard)
	arctan := func(x int64) *big.Int { // of 1/x
		term := new(big.Int).Div(one, big.NewInt(x))
		sum, square := new(big.Int).Set(term), big.NewInt(x*x)
		for k := int64(3); term.Sign() > 0; k += 2 {
			term.Div(term, square)
			part := new(big.Int).Div(term, big.NewInt(k))
			if k%4 == 3 {
				part.Neg(part)
			}
			sum.Add(sum, part)
		}
		return sum
	}
	pi := new(big.Int).Mul(arctan(5), big.NewInt(4))
	pi.Sub(pi, arctan(239)).Mul(pi, big.NewInt(4))
	return pi.Rsh(pi, guard)
}

// TestMODPKnownAnswers compares with values that OpenSSL and Python's integers
// gave for private values made by SHA-384.
func TestMODPKnownAnswers(t *testing.T) {
	for _, tc := range []struct {
		id             uint16
		public, shared string // SHA-256 of them
	}{
		{1, "84dfc5b69ff123d6cab652f67de83887140ec2059b48483a23307fdb5a1c5d1d", "c52a8d80da7da0070a966710b14b59e84f7e71b42e7013d5024f071f601deb9e"},
		{2, "04bdaecb6929a97d5d760d34ef60098130db12de9d4f00a67ad478ad1fdb6789", "bb0a3f5459df1eb10488463e8ddbe51c071c1a2e68703a825748f31d4625d870"},
		{5, "7264f5ace3a05fbe020dba98d9cee1d0988669ce6a5a2b4e80f52147b91e8c51", "d9d2d4a36c53b2296bd5dc6efee79a7b5a592fdbdcf962c04fab7d655044792d"},
		{14, "2b55ab9fca7f0512647b750e20b9d14c6958cf63fa1623ab7d25737dcd96e70d", "f402d4aca9461ff6c67e6d40b109567d384a6adcf7b4fa3ed3cad6e9c7cebc6b"},
		{15, "e5d0a571de68f73246b9c6507e21ebc35e2aa4433deea5b4b752e9d72c6f40ed", "5d95397b78fbbd0515759d1c803b0a40b755635a13c5a7375e8dbc9ff1f183ee"},
		{16, "fd4689dcef4a69cfb075eb17c2250f8f901d6fd85de9860af801ccb24e1a1c44", "9085a1a8056531d2e53d054b6ec455eba071db26bf7c9ec27d97e28b90d798b9"},
	} {
		secret := func(name string) fixed {
			x := sha512.Sum384(fmt.Appendf(nil, "%s %d", name, tc.id))
			return x[:]
		}
		i, errI := newKeyExchange(tc.id, secret("initiator"))
		r, errR := newKeyExchange(tc.id, secret("responder"))
		if errI != nil || errR != nil {
			t.Fatal(errI, errR)
		}
		shared, err := i.shared(r.public())
		if err != nil {
			t.Fatal(err)
		}
		if got := digest(i.public()); got != tc.public {
			t.Errorf("group %d: public value %s", tc.id, got)
		}
		if got := digest(shared); got != tc.shared {
			t.Errorf("group %d: shared secret %s", tc.id, got)
		}
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// TestCurveKnownAnswers has the vectors of RFC 5903, section 8, of NIST CAVP
// for P-521, and of RFC 7748, section 6.1.
func TestCurveKnownAnswers(t *testing.T) {
	for _, tc := range []struct {
		id                         uint16
		secret, public, peer, want string
	}{
		{
			ipsec.GroupECP256,
			"C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
			"DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180" +
				"5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
			"D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63" +
				"56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB",
			"D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
		},
		{
			ipsec.GroupECP384,
			"099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
			"667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA" +
				"9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C",
			"E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571" +
				"DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
			"11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
		},
		{
			ipsec.GroupECP521,
			"017eecc07ab4b329068fba65e56a1f8890aa935e57134ae0ffcce802735151f4eac6564f6ee9974c5e6887a1fefee5743ae2241bfeb95d5ce31ddcb6f9edb4d6fc47",
			"00602f9d0cf9e526b29e22381c203c48a886c2b0673033366314f1ffbcba240ba42f4ef38a76174635f91e6b4ed34275eb01c8467d05ca80315bf1a7bbd945f550a5" +
				"01b7c85f26f5d4b2d7355cf6b02117659943762b6d1db5ab4f1dbc44ce7b2946eb6c7de342962893fd387d1b73d7a8672d1f236961170b7eb3579953ee5cdc88cd2d",
			"00685a48e86c79f0f0875f7bc18d25eb5fc8c0b07e5da4f4370f3a9490340854334b1e1b87fa395464c60626124a4e70d0f785601d37c09870ebf176666877a2046d" +
				"01ba52c56fc8776d9e8f5db4f0cc27636d0b741bbe05400697942e80b739884a83bde99e0f6716939e632bc8986fa18dccd443a348b6c3e522497955a4f3c302f676",
			"005fc70477c3e63bc3954bd0df3ea0d1f41ee21746ed95fc5e1fdf90930d5e136672d72cc770742d1711c3c3a4c334a0ad9759436a4d3c5bf6e74b9578fac148c831",
		},
		{
			ipsec.GroupCurve25519,
			"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
			"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
			"de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
			"4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
		},
	} {
		kex, err := newKeyExchange(tc.id, fixed(unhex(t, tc.secret)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(kex.public(), unhex(t, tc.public)) {
			t.Errorf("group %d: public value %X", tc.id, kex.public())
		}
		shared, err := kex.shared(unhex(t, tc.peer))
		if err != nil || !bytes.Equal(shared, unhex(t, tc.want)) {
			t.Errorf("group %d: shared secret %X, %v", tc.id, shared, err)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestGroupsAgree runs each group with itself.
func TestGroupsAgree(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	for id := range groups {
		i, errI := newKeyExchange(id, random)
		r, errR := newKeyExchange(id, random)
		if errI != nil || errR != nil {
			t.Fatal(errI, errR)
		}
		pi, pr := i.public(), r.public()
		si, errI := i.shared(pr)
		sr, errR := r.shared(pi)
		if errI != nil || errR != nil || !bytes.Equal(si, sr) || len(si) == 0 {
			t.Errorf("group %d: %x and %x, %v, %v", id, si, sr, errI, errR)
		}
	}
}

// TestGroupsRefuse has the public values that RFC 6989 tells to refuse.
func TestGroupsRefuse(t *testing.T) {
	prime := unhex(t, modp2048)
	less := slices.Clone(prime)
	less[len(less)-1]--
	small := func(v byte) []byte { b := make([]byte, 256); b[255] = v; return b }
	for name, tc := range map[string]struct {
		id    uint16
		value []byte
	}{
		"MODP 0":               {ipsec.GroupMODP2048, small(0)},
		"MODP 1":               {ipsec.GroupMODP2048, small(1)},
		"MODP p-1":             {ipsec.GroupMODP2048, less},
		"MODP p":               {ipsec.GroupMODP2048, prime},
		"MODP too short":       {ipsec.GroupMODP2048, small(4)[1:]},
		"MODP too long":        {ipsec.GroupMODP2048, append([]byte{0}, small(4)...)},
		"MODP empty":           {ipsec.GroupMODP2048, nil},
		"ECP zero":             {ipsec.GroupECP256, make([]byte, 64)},
		"ECP not on the curve": {ipsec.GroupECP256, bytes.Repeat([]byte{7}, 64)},
		"ECP with prefix":      {ipsec.GroupECP256, append([]byte{4}, make([]byte, 64)...)},
		"ECP empty":            {ipsec.GroupECP384, nil},
		"X25519 zero":          {ipsec.GroupCurve25519, make([]byte, 32)},
		"X25519 low order":     {ipsec.GroupCurve25519, append([]byte{1}, make([]byte, 31)...)},
		"X25519 too short":     {ipsec.GroupCurve25519, make([]byte, 31)},
	} {
		kex, err := newKeyExchange(tc.id, rand.NewChaCha8([32]byte{2}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kex.shared(tc.value); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// TestGroupsSpendTheirValue: one private value gives one secret, and a bad
// value of the peer does not spend it.
func TestGroupsSpendTheirValue(t *testing.T) {
	for id := range groups {
		kex, err := newKeyExchange(id, rand.NewChaCha8([32]byte{1}))
		if err != nil {
			t.Fatal(err)
		}
		peer, err := newKeyExchange(id, rand.NewChaCha8([32]byte{2}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kex.shared(nil); err == nil || errors.Is(err, errSpent) {
			t.Errorf("group %d: %v", id, err)
		}
		if _, err := kex.shared(peer.public()); err != nil {
			t.Errorf("group %d: %v", id, err)
		}
		if _, err := kex.shared(peer.public()); !errors.Is(err, errSpent) {
			t.Errorf("group %d: %v", id, err)
		}
		if len(kex.public()) == 0 {
			t.Errorf("group %d: the public value is gone", id)
		}
	}
}

func TestUnknownGroup(t *testing.T) {
	_, err := newKeyExchange(22, rand.NewChaCha8([32]byte{}))
	if err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Error(err)
	}
}

// broken is a source of randomness that fails.
type broken struct{}

var errBroken = errors.New("no entropy")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func TestGroupsNeedRandomness(t *testing.T) {
	for id := range groups {
		if _, err := newKeyExchange(id, broken{}); !errors.Is(err, errBroken) {
			t.Errorf("group %d: %v", id, err)
		}
	}
}
