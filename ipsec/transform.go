package ipsec

import "fmt"

// Protocol is an IPsec protocol identifier (RFC 7296, section 3.3.1).
type Protocol uint8

// Protocols that can stand in a proposal.
const (
	ProtocolIKE Protocol = 1
	ProtocolAH  Protocol = 2
	ProtocolESP Protocol = 3
)

// String returns the name used in logs and diagnoses.
func (p Protocol) String() string {
	switch p {
	case ProtocolIKE:
		return "IKE"
	case ProtocolAH:
		return "AH"
	case ProtocolESP:
		return "ESP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// TransformType says what a transform is for (RFC 7296, section 3.3.2).
type TransformType uint8

// Transform types.
const (
	TransformEncryption TransformType = 1
	TransformPRF        TransformType = 2
	TransformIntegrity  TransformType = 3
	TransformGroup      TransformType = 4 // key exchange method, "Diffie-Hellman group"
	TransformESN        TransformType = 5
	// Key exchanges that follow the one of TransformGroup, whose secrets are
	// mixed with its (RFC 9370): up to seven.
	TransformAdditional1 TransformType = 6
	TransformAdditional2 TransformType = 7
	TransformAdditional3 TransformType = 8
	TransformAdditional4 TransformType = 9
	TransformAdditional5 TransformType = 10
	TransformAdditional6 TransformType = 11
	TransformAdditional7 TransformType = 12
)

// IsAdditional reports whether the type is an additional key exchange (RFC 9370).
func (t TransformType) IsAdditional() bool {
	return t >= TransformAdditional1 && t <= TransformAdditional7
}

// IsKeyExchange reports whether the identifiers of the type are key exchange
// methods.
func (t TransformType) IsKeyExchange() bool { return t == TransformGroup || t.IsAdditional() }

// String returns the name used in logs and diagnoses.
func (t TransformType) String() string {
	switch t {
	case TransformEncryption:
		return "encryption algorithm"
	case TransformPRF:
		return "pseudorandom function"
	case TransformIntegrity:
		return "integrity algorithm"
	case TransformGroup:
		return "DH group"
	case TransformESN:
		return "extended sequence numbers"
	case TransformAdditional1, TransformAdditional2, TransformAdditional3, TransformAdditional4,
		TransformAdditional5, TransformAdditional6, TransformAdditional7:
		return fmt.Sprintf("additional key exchange %d", t-TransformAdditional1+1)
	}
	return fmt.Sprintf("transform type %d", uint8(t))
}

// Transform identifiers of the IANA registry "Internet Key Exchange Version 2
// (IKEv2) Parameters".
const (
	Encryption3DES             uint16 = 3
	EncryptionNull             uint16 = 11
	EncryptionAESCBC           uint16 = 12
	EncryptionAESGCM16         uint16 = 20
	EncryptionChaCha20Poly1305 uint16 = 28

	PRFHMACMD5     uint16 = 1
	PRFHMACSHA1    uint16 = 2
	PRFHMACSHA2256 uint16 = 5
	PRFHMACSHA2384 uint16 = 6
	PRFHMACSHA2512 uint16 = 7

	IntegrityNone           uint16 = 0
	IntegrityHMACMD596      uint16 = 1
	IntegrityHMACSHA196     uint16 = 2
	IntegrityHMACSHA2256128 uint16 = 12
	IntegrityHMACSHA2384192 uint16 = 13
	IntegrityHMACSHA2512256 uint16 = 14

	GroupNone       uint16 = 0
	GroupMODP768    uint16 = 1
	GroupMODP1024   uint16 = 2
	GroupMODP1536   uint16 = 5
	GroupMODP2048   uint16 = 14
	GroupMODP3072   uint16 = 15
	GroupMODP4096   uint16 = 16
	GroupECP256     uint16 = 19
	GroupECP384     uint16 = 20
	GroupECP521     uint16 = 21
	GroupCurve25519 uint16 = 31
	GroupMLKEM768   uint16 = 36

	ESNDisabled uint16 = 0
	ESNEnabled  uint16 = 1
)

// Transform identifiers of the Chinese national algorithms SM4 (GB/T 32907) and
// SM3 (GB/T 32905). The registry has no number for them: these are of its range
// for private use and go over no wire. Only the profile GM/T 0022 of IKEv1
// negotiates the algorithms, by numbers of its own.
const (
	EncryptionSM4CBC   uint16 = 0xfe01
	EncryptionSM4GCM16 uint16 = 0xfe02 // with a salt, as RFC 4106 has it

	PRFHMACSM3 uint16 = 0xfe01

	IntegrityHMACSM396  uint16 = 0xfe01
	IntegrityHMACSM3128 uint16 = 0xfe02
	IntegrityHMACSM3256 uint16 = 0xfe03
)

// Transform is one algorithm on offer. KeyBits is the Key Length attribute and
// is zero for algorithms with a fixed key.
type Transform struct {
	Type    TransformType
	ID      uint16
	KeyBits uint16
}

// Encryption returns an encryption transform; keyBits is zero for fixed-key ciphers.
func Encryption(id, keyBits uint16) Transform {
	return Transform{Type: TransformEncryption, ID: id, KeyBits: keyBits}
}

// PRF returns a pseudorandom function transform.
func PRF(id uint16) Transform { return Transform{Type: TransformPRF, ID: id} }

// Integrity returns an integrity transform.
func Integrity(id uint16) Transform { return Transform{Type: TransformIntegrity, ID: id} }

// Group returns a key exchange transform.
func Group(id uint16) Transform { return Transform{Type: TransformGroup, ID: id} }

// Additional returns the transform of the n-th additional key exchange, n from 1
// to 7.
func Additional(n int, id uint16) Transform {
	return Transform{Type: TransformAdditional1 + TransformType(n-1), ID: id}
}

// ESN returns the transform that offers (true) or declines (false) extended
// sequence numbers.
func ESN(enabled bool) Transform {
	if enabled {
		return Transform{Type: TransformESN, ID: ESNEnabled}
	}
	return Transform{Type: TransformESN, ID: ESNDisabled}
}

var transformNames = map[Transform]string{
	Encryption(Encryption3DES, 0):             "3DES-CBC",
	Encryption(EncryptionNull, 0):             "NULL",
	Encryption(EncryptionAESCBC, 128):         "AES-CBC-128",
	Encryption(EncryptionAESCBC, 192):         "AES-CBC-192",
	Encryption(EncryptionAESCBC, 256):         "AES-CBC-256",
	Encryption(EncryptionAESGCM16, 128):       "AES-GCM-16-128",
	Encryption(EncryptionAESGCM16, 192):       "AES-GCM-16-192",
	Encryption(EncryptionAESGCM16, 256):       "AES-GCM-16-256",
	Encryption(EncryptionChaCha20Poly1305, 0): "CHACHA20-POLY1305",
	Encryption(EncryptionSM4CBC, 0):           "SM4-CBC",
	Encryption(EncryptionSM4GCM16, 0):         "SM4-GCM-16",
	PRF(PRFHMACMD5):                           "PRF-HMAC-MD5",
	PRF(PRFHMACSHA1):                          "PRF-HMAC-SHA1",
	PRF(PRFHMACSHA2256):                       "PRF-HMAC-SHA2-256",
	PRF(PRFHMACSHA2384):                       "PRF-HMAC-SHA2-384",
	PRF(PRFHMACSHA2512):                       "PRF-HMAC-SHA2-512",
	PRF(PRFHMACSM3):                           "PRF-HMAC-SM3",
	Integrity(IntegrityNone):                  "NONE",
	Integrity(IntegrityHMACMD596):             "HMAC-MD5-96",
	Integrity(IntegrityHMACSHA196):            "HMAC-SHA1-96",
	Integrity(IntegrityHMACSHA2256128):        "HMAC-SHA2-256-128",
	Integrity(IntegrityHMACSHA2384192):        "HMAC-SHA2-384-192",
	Integrity(IntegrityHMACSHA2512256):        "HMAC-SHA2-512-256",
	Integrity(IntegrityHMACSM396):             "HMAC-SM3-96",
	Integrity(IntegrityHMACSM3128):            "HMAC-SM3-128",
	Integrity(IntegrityHMACSM3256):            "HMAC-SM3-256",
	Group(GroupNone):                          "NONE",
	Group(GroupMODP768):                       "MODP-768 (group 1)",
	Group(GroupMODP1024):                      "MODP-1024 (group 2)",
	Group(GroupMODP1536):                      "MODP-1536 (group 5)",
	Group(GroupMODP2048):                      "MODP-2048 (group 14)",
	Group(GroupMODP3072):                      "MODP-3072 (group 15)",
	Group(GroupMODP4096):                      "MODP-4096 (group 16)",
	Group(GroupECP256):                        "ECP-256 (group 19)",
	Group(GroupECP384):                        "ECP-384 (group 20)",
	Group(GroupECP521):                        "ECP-521 (group 21)",
	Group(GroupCurve25519):                    "CURVE25519 (group 31)",
	Group(GroupMLKEM768):                      "ML-KEM-768 (method 36)",
	ESN(false):                                "no ESN",
	ESN(true):                                 "ESN",
}

// String returns the name used in logs and diagnoses, such as "AES-CBC-256".
func (t Transform) String() string {
	if t.Type.IsAdditional() {
		return Group(t.ID).String()
	}
	if name, ok := transformNames[t]; ok {
		return name
	}
	if t.KeyBits != 0 {
		return fmt.Sprintf("%s %d (%d-bit key)", t.Type, t.ID, t.KeyBits)
	}
	return fmt.Sprintf("%s %d", t.Type, t.ID)
}

// IsAEAD reports whether the transform is a combined-mode cipher, which takes
// no integrity transform beside it (RFC 7296, section 3.3; RFC 5282).
func (t Transform) IsAEAD() bool {
	return t.Type == TransformEncryption &&
		(t.ID == EncryptionAESGCM16 || t.ID == EncryptionChaCha20Poly1305 || t.ID == EncryptionSM4GCM16)
}

// IsNational reports whether the transform is an algorithm of the profile
// GM/T 0022, which no other one takes.
func (t Transform) IsNational() bool {
	switch t.Type {
	case TransformEncryption:
		return t.ID == EncryptionSM4CBC || t.ID == EncryptionSM4GCM16
	case TransformPRF:
		return t.ID == PRFHMACSM3
	case TransformIntegrity:
		return t.ID >= IntegrityHMACSM396 && t.ID <= IntegrityHMACSM3256
	default:
		return false
	}
}
