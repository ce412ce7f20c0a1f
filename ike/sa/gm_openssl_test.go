package sa

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"github.com/vpngw/vpngw/ike/isakmp"
)

// outside is OpenSSL: what it computes is not computed by us or by our library.
type outside struct {
	t   *testing.T
	dir string
}

func (o *outside) run(input []byte, args ...string) []byte {
	o.t.Helper()
	command := exec.Command("openssl", args...)
	command.Dir, command.Stdin = o.dir, bytes.NewReader(input)
	var complaint bytes.Buffer
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		o.t.Fatalf("openssl %v: %v\n%s%s", args, err, out, complaint.Bytes())
	}
	return out
}

func (o *outside) file(name string, content []byte) string {
	o.t.Helper()
	if err := os.WriteFile(filepath.Join(o.dir, name), content, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return name
}

func (o *outside) sm3(parts ...[]byte) []byte {
	o.t.Helper()
	return o.run(join(parts...), "dgst", "-sm3", "-binary")
}

func (o *outside) prf(key []byte, parts ...[]byte) []byte {
	o.t.Helper()
	return o.run(join(parts...), "dgst", "-sm3", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(key), "-binary")
}

func (o *outside) decrypt(key, iv, ct []byte) []byte {
	o.t.Helper()
	return o.run(ct, "enc", "-d", "-sm4-cbc", "-nopad", "-K", hex.EncodeToString(key), "-iv", hex.EncodeToString(iv))
}

// exchange is main mode as it went over the wire, with the keys that open it and
// what the ends have made of it, by the names of the recorded one.
func (o *outside) exchange(v map[string][]byte) {
	o.t.Helper()
	equal := func(name string, got []byte) {
		o.t.Helper()
		if !bytes.Equal(got, v[name]) {
			o.t.Errorf("%s is %x, OpenSSL has %x", name, v[name], got)
		}
	}
	for side, reader := range map[string]string{"i": "responder", "r": "initiator"} {
		message := map[string]string{"i": "msg3", "r": "msg4"}[side]
		writer := map[string]string{"i": "initiator", "r": "responder"}[side]
		key := o.file("key", v[reader+"_enc_priv_pkcs8_pem_b64"])
		sk := o.run(nil, "pkeyutl", "-decrypt", "-inkey", key, "-keyform", "DER", "-in", o.file("sk", v[message+"_sk_payload"]))
		equal("sk_"+side, sk)
		nonce, id := v[message+"_nonce_ct"], v[message+"_id_ct"]
		padded := o.decrypt(sk, make([]byte, 16), nonce)
		equal("n_"+side, padded[:len(padded)-1-int(padded[len(padded)-1])])
		padded = o.decrypt(sk, nonce[len(nonce)-16:], id)
		equal("id_"+side+"_body", padded[:len(padded)-1-int(padded[len(padded)-1])])
		public, err := sm2.NewPublicKey(append([]byte{4}, v[writer+"_sign_pub_xy"]...))
		if err != nil {
			o.t.Fatal(err)
		}
		der, err := smx509.MarshalPKIXPublicKey(public)
		if err != nil {
			o.t.Fatal(err)
		}
		o.file("signed", join(sk, v["n_"+side], v["id_"+side+"_body"], v["cert_enc_"+side+"_body"]))
		o.run(nil, "pkeyutl", "-verify", "-pubin", "-inkey", o.file("public", der), "-keyform", "DER", "-rawin", "-digest", "sm3",
			"-in", "signed", "-sigfile", o.file("signature", v[message+"_sig"]), "-pkeyopt", "distid:1234567812345678")
	}
	cookies := join(v["cky_i"], v["cky_r"])
	skeyid := o.prf(o.sm3(v["n_i"], v["n_r"]), cookies)
	d := o.prf(skeyid, cookies, []byte{0})
	a := o.prf(skeyid, d, cookies, []byte{1})
	e := o.prf(skeyid, a, cookies, []byte{2})
	iv := o.sm3(v["sk_i"], v["sk_r"])[:16]
	for name, got := range map[string][]byte{"skeyid": skeyid, "skeyid_d": d, "skeyid_a": a, "skeyid_e": e, "phase1_iv": iv} {
		equal(name, got)
	}
	fifth := o.decrypt(e[:16], iv, v["msg5_ct"])
	sixth := o.decrypt(e[:16], v["msg5_ct"][len(v["msg5_ct"])-16:], v["msg6_ct"])
	equal("hash_i", fifth[4:36])
	equal("hash_r", sixth[4:36])
	equal("hash_i", o.prf(skeyid, cookies, v["sa_i_body"], v["id_i_body"]))
	equal("hash_r", o.prf(skeyid, v["cky_r"], v["cky_i"], v["sa_i_body"], v["id_r_body"]))
}

// TestGMByOpenSSL has OpenSSL recompute the exchange that was recorded, and one of
// our own two machines.
func TestGMByOpenSSL(t *testing.T) {
	(&outside{t, t.TempDir()}).exchange(recorded(t))
	(&outside{t, t.TempDir()}).exchange(ownExchange(t))
}

// ownExchange runs main mode between two machines and returns what went over the
// wire and what the initiator has made of it.
func ownExchange(t *testing.T) map[string][]byte {
	t.Helper()
	l := newLab(t, 1)
	var messages []*isakmp.Message
	l.lose = func(p packet) bool {
		if m, err := isakmp.Parse(p.d.Bytes); err == nil && m.Exchange == isakmp.IdentityProtection {
			messages = append(messages, m)
		}
		return false
	}
	l.upTo(4) // the initiator has its keys, and its message 5 is under way
	s := l.a.machines[0].(*MachineV1).sas[0]
	p, k := s.phase1, s.keys
	v := map[string][]byte{
		"cky_i": binary.BigEndian.AppendUint64(nil, s.spii), "cky_r": binary.BigEndian.AppendUint64(nil, s.spir), "sa_i_body": p.sai,
		"sk_i": p.gm.ski, "sk_r": p.gm.skr, "n_i": p.ni, "n_r": p.nr, "id_i_body": p.idi, "id_r_body": p.gm.idr,
		"skeyid": k.id, "skeyid_d": k.d, "skeyid_a": k.a, "skeyid_e": k.prf.sum(k.id, k.a, s.cookies(), []byte{2}), "phase1_iv": k.iv(p.gm.ski, p.gm.skr),
	}
	for name, value := range v {
		v[name] = bytes.Clone(value)
	}
	for name, g := range map[string]*GM{"initiator": l.a.conns[0].GM, "responder": l.b.conns[0].GM} {
		own, err := g.own()
		if err != nil {
			t.Fatal(err)
		}
		if v[name+"_enc_priv_pkcs8_pem_b64"], err = smx509.MarshalPKCS8PrivateKey(own.encryptionKey); err != nil {
			t.Fatal(err)
		}
		v[name+"_sign_pub_xy"] = join(own.signingKey.X.FillBytes(make([]byte, 32)), own.signingKey.Y.FillBytes(make([]byte, 32)))
		v["cert_enc_"+name[:1]+"_body"] = append([]byte{byte(isakmp.CertX509KeyExchange)}, own.encryption.Raw...)
	}
	l.run()
	for message, m := range map[string]*isakmp.Message{"msg3": messages[2], "msg4": messages[3]} {
		e, err := readEnvelope(m)
		if err != nil {
			t.Fatal(err)
		}
		v[message+"_sk_payload"], v[message+"_nonce_ct"], v[message+"_id_ct"], v[message+"_sig"] = e.key, e.nonce, e.id, e.signature
	}
	v["msg5_ct"], v["msg6_ct"] = messages[4].Ciphertext(), messages[5].Ciphertext()
	v["hash_i"] = k.prf.sum(v["skeyid"], v["cky_i"], v["cky_r"], v["sa_i_body"], v["id_i_body"])
	v["hash_r"] = k.prf.sum(v["skeyid"], v["cky_r"], v["cky_i"], v["sa_i_body"], v["id_r_body"])
	return v
}
