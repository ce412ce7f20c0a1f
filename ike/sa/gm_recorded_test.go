package sa

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/ike/isakmp"
	"github.com/vpngw/vpngw/ipsec"
)

func decodeRecorded(name, value string) ([]byte, error) {
	if strings.HasSuffix(name, "_b64") {
		return base64.StdEncoding.DecodeString(value)
	}
	return hex.DecodeString(value)
}

// recordedMessage makes a message of payloads and lets our codec read it.
func recordedMessage(t *testing.T, v map[string][]byte, x isakmp.ExchangeType, id uint32, first isakmp.PayloadType, chain []byte) *isakmp.Message {
	t.Helper()
	h := isakmp.Header{
		InitiatorSPI: binary.BigEndian.Uint64(v["cky_i"]), ResponderSPI: binary.BigEndian.Uint64(v["cky_r"]),
		NextPayload: first, Exchange: x, MessageID: id, Minor: 1, Length: uint32(isakmp.HeaderLen + len(chain)),
	}
	m, err := isakmp.Parse(append(h.Append(nil), chain...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestGMRecordedEnvelopes opens messages 3 and 4 of a recorded exchange with our
// code: the key, the nonce, the identity, and the signature over them.
func TestGMRecordedEnvelopes(t *testing.T) {
	v := recorded(t)
	for side, reader := range map[string]string{"i": "responder", "r": "initiator"} {
		message := map[string]string{"i": "msg3", "r": "msg4"}[side]
		writer := map[string]string{"i": "initiator", "r": "responder"}[side]
		key, err := smx509.ParsePKCS8PrivateKey(v[reader+"_enc_priv_pkcs8_pem_b64"])
		if err != nil {
			t.Fatal(err)
		}
		chain, err := isakmp.Chain([]isakmp.Payload{
			&isakmp.SymmetricKey{Data: v[message+"_sk_payload"]}, &isakmp.Nonce{Data: v[message+"_nonce_ct"]},
			&isakmp.Unknown{PayloadType: isakmp.TypeID, Body: v[message+"_id_ct"]}, &isakmp.Unknown{PayloadType: isakmp.TypeCert, Body: v["cert_enc_"+side+"_body"]},
			&isakmp.Signature{Data: v[message+"_sig"]},
		}, isakmp.NoNextPayload)
		if err != nil {
			t.Fatal(err)
		}
		e, err := readEnvelope(recordedMessage(t, v, isakmp.IdentityProtection, 0, isakmp.TypeSymmetricKey, chain))
		if err != nil {
			t.Fatal(message, err)
		}
		l, err := e.open(&gmOwn{encryptionKey: key.(*sm2.PrivateKey)})
		if err != nil {
			t.Fatal(message, err)
		}
		for name, got := range map[string][]byte{"sk_" + side: l.sk, "n_" + side: l.nonce, "id_" + side + "_body": l.id} {
			if !bytes.Equal(got, v[name]) {
				t.Errorf("%s: %x, want %x", name, got, v[name])
			}
		}
		// What is sealed again is octet by octet what was recorded.
		again, err := newGMChain(l.sk)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.seal(l.nonce), v[message+"_nonce_ct"]) || !bytes.Equal(again.seal(l.id), v[message+"_id_ct"]) {
			t.Errorf("%s: nonce and identity seal to something else", message)
		}
		xy := v[writer+"_sign_pub_xy"]
		public, err := sm2.NewPublicKey(append([]byte{4}, xy...))
		if err != nil {
			t.Fatal(err)
		}
		peer := &gmPeer{signing: &smx509.Certificate{}, encryptionBody: v["cert_enc_"+side+"_body"]}
		peer.signing.PublicKey = public
		if !e.signedBy(peer, l, GMVariant{}) {
			t.Errorf("%s: the signature is not the writer's", message)
		}
		if e.signedBy(peer, l, GMVariant{DigestWithoutZ: true}) || e.signedBy(peer, &letter{sk: l.sk, nonce: l.nonce, id: l.id[:len(l.id)-1]}, GMVariant{}) {
			t.Errorf("%s: the signature holds for something else, too", message)
		}
		certificate, err := parseGMCertificate(e.certificates[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if e.certificates[0].Encoding != isakmp.CertX509KeyExchange || certificate.KeyUsage&gmEncrypts != gmEncrypts {
			t.Errorf("%s: certificate of encoding %d, for %s", message, e.certificates[0].Encoding, usageText(certificate.KeyUsage))
		}
		if own := certificate.PublicKey.(*ecdsa.PublicKey); own.Equal(public) {
			t.Error("the two certificates have one key")
		}
		checkRecordedNames(t, l, certificate)
	}
}

// checkRecordedNames compares names whose values have another type of string than
// those of the certificate: only the last attribute is another one there.
func checkRecordedNames(t *testing.T, l *letter, c *smx509.Certificate) {
	t.Helper()
	id := l.identity()
	if id.IDType != isakmp.IDDERASN1DN || sameName(id.Data, c.RawSubject) || !sameName(id.Data, id.Data) {
		t.Errorf("%s and %s", nameOf(id.Data), nameOf(c.RawSubject))
	}
	mine, theirs := nameOf(id.Data), nameOf(c.RawSubject)
	mine, theirs = mine[:strings.LastIndex(mine, ",")], theirs[:strings.LastIndex(theirs, ",")]
	if mine != theirs || bytes.Contains(id.Data, c.RawSubject[:20]) {
		t.Errorf("%s and %s", mine, theirs)
	}
	other, err := nameAsUTF8(id.Data)
	if err != nil || bytes.Equal(other, id.Data) || !sameName(other, id.Data) {
		t.Errorf("another type of string is another name: %v", err)
	}
}

// TestGMRecordedKeys derives the secrets of the recorded exchange, and checks what
// hangs on them: messages 5 and 6 and quick mode.
func TestGMRecordedKeys(t *testing.T) {
	v := recorded(t)
	spii, spir := binary.BigEndian.Uint64(v["cky_i"]), binary.BigEndian.Uint64(v["cky_r"])
	k, err := newGMKeys(v["n_i"], v["n_r"], spii, spir)
	if err != nil {
		t.Fatal(err)
	}
	equal := func(name string, got []byte) {
		t.Helper()
		if !bytes.Equal(got, v[name]) {
			t.Errorf("%s: %x, want %x", name, got, v[name])
		}
	}
	equal("skeyid", k.id)
	equal("skeyid_d", k.d)
	equal("skeyid_a", k.a)
	if !bytes.Equal(k.encryption, v["skeyid_e"][:16]) {
		t.Errorf("key %x", k.encryption)
	}
	iv := k.iv(v["sk_i"], v["sk_r"])
	equal("phase1_iv", iv)
	s := &ISAKMPSA{spii: spii, spir: spir, keys: k, gm: &GMVariant{}, phase1: &phase1{sai: v["sa_i_body"], iv: iv, gm: &gmPhase1{}}}
	for number, initiator := range map[int]bool{5: true, 6: false} {
		side, ct := "i", "msg5_ct"
		s.phase1.iv = iv
		if !initiator {
			side, ct = "r", "msg6_ct"
			s.phase1.iv = v["msg5_ct"][len(v["msg5_ct"])-16:]
		}
		msg := sealedMessage(t, v, isakmp.IdentityProtection, 0, v[ct])
		hash, next, err := s.openGMHash(msg)
		if err != nil {
			t.Fatal(number, err)
		}
		equal("hash_"+side, hash.Data)
		if !s.gmHashIs(hash, initiator, v["id_"+side+"_body"]) || s.gmHashIs(hash, !initiator, v["id_"+side+"_body"]) {
			t.Errorf("message %d: the hash is not ours", number)
		}
		// Encrypted anew it is what was recorded.
		m := isakmp.Message{Header: msg.Header, Payloads: []isakmp.Payload{&isakmp.Hash{Data: hash.Data}}}
		at := s.phase1.iv
		again, err := m.Encode(16, func(b []byte) { at = k.encrypt(at, b) })
		if err != nil || !bytes.Equal(again[isakmp.HeaderLen:], v[ct]) || !bytes.Equal(at, next) {
			t.Errorf("message %d: %x, %v", number, again, err)
		}
	}
	checkRecordedQuickMode(t, v, s)
}

func sealedMessage(t *testing.T, v map[string][]byte, x isakmp.ExchangeType, id uint32, ct []byte) *isakmp.Message {
	t.Helper()
	h := isakmp.Header{
		InitiatorSPI: binary.BigEndian.Uint64(v["cky_i"]), ResponderSPI: binary.BigEndian.Uint64(v["cky_r"]), NextPayload: isakmp.TypeHash,
		Exchange: x, Encrypted: true, MessageID: id, Minor: 1, Length: uint32(isakmp.HeaderLen + len(ct)),
	}
	m, err := isakmp.Parse(append(h.Append(nil), ct...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func checkRecordedQuickMode(t *testing.T, v map[string][]byte, s *ISAKMPSA) {
	t.Helper()
	id := binary.BigEndian.Uint32(v["qm_msgid"])
	s.iv = v["msg6_ct"][len(v["msg6_ct"])-16:]
	s.m = &MachineV1{core: core{env: &Env{Host: &Host{}}}}
	iv := s.phase2IV(id)
	if !bytes.Equal(iv, v["qm_iv"]) {
		t.Errorf("qm_iv: %x", iv)
	}
	first := sealedMessage(t, v, isakmp.QuickMode, id, v["qm1_ct"])
	if iv = s.open(first, iv, nil); iv == nil {
		t.Fatal("message 1 of quick mode does not open")
	}
	ni, _ := isakmp.Find[*isakmp.Nonce](first)
	second := sealedMessage(t, v, isakmp.QuickMode, id, v["qm2_ct"])
	if iv = s.open(second, iv, ni.Data); iv == nil {
		t.Fatal("message 2 of quick mode does not open")
	}
	if s.gm.NonceFirst {
		t.Error("the recorded device has the order of the standard's text")
	}
	nr, _ := isakmp.Find[*isakmp.Nonce](second)
	third := sealedMessage(t, v, isakmp.QuickMode, id, v["qm3_ct"])
	plain, _, err := s.keys.decrypt(iv, third.Ciphertext())
	if err != nil || !bytes.Equal(plain, v["qm3_plain"]) {
		t.Errorf("qm3_plain: %x, %v", plain, err)
	}
	if err := third.Open(plain); err != nil {
		t.Fatal(err)
	}
	hash, _ := isakmp.Find[*isakmp.Hash](third)
	if !bytes.Equal(hash.Data, s.keys.sum([]byte{0}, idOctets(id), ni.Data, nr.Data)) {
		t.Error("HASH(3) is not ours")
	}
	// What we would offer for the same is octet by octet the same.
	k := &slot{cfg: &Child{Proposals: []ipsec.Proposal{gmESPProposal()}, Lifetime: ipsec.Lifetime{Hard: 0x1734 * time.Second, HardBytes: 0x86470 * kilobyte}}}
	offer, _ := isakmp.Find[*isakmp.SA](first)
	s.gm.ESPSM4 = 127
	ours, err := isakmp.Body(s.gmPhase2Offer(k, ipsec.SPI(binary.BigEndian.Uint32(offer.Proposals[0].SPI))))
	if err != nil || !bytes.Equal(ours, offer.Raw) {
		t.Errorf("phase 2: we offer %x, %v, recorded is %x", ours, err, offer.Raw)
	}
	ch, err := s.choosePhase2(k, offer)
	if err != nil || ch.life != (lifetime{0x1734, 0x86470}) || ch.encap {
		t.Errorf("%+v, %v", ch, err)
	}
	ids := isakmp.All[*isakmp.ID](first)
	if ts, err := ids[0].Selector(); err != nil || ts != selectors("172.16.29.0/24")[0] {
		t.Errorf("selector %s, %v", ts, err)
	}
	phase1 := gmPhase1Offer(GMVariant{Phase1SM4: 127}, 0x3de0*time.Second)
	if body, err := isakmp.Body(phase1); err != nil || !bytes.Equal(body, v["sa_i_body"]) {
		t.Errorf("phase 1: we offer %x, %v", body, err)
	}
}

// nameAsUTF8 writes a name with UTF8String for each value.
func nameAsUTF8(der []byte) ([]byte, error) {
	var sequence pkix.RDNSequence
	if _, err := asn1.Unmarshal(der, &sequence); err != nil {
		return nil, err
	}
	for _, set := range sequence {
		for i := range set {
			value, err := asn1.MarshalWithParams(set[i].Value, "utf8")
			if err != nil {
				return nil, err
			}
			set[i].Value = asn1.RawValue{FullBytes: value}
		}
	}
	return asn1.Marshal(sequence)
}
