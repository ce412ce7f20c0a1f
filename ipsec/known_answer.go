package ipsec

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// KnownAnswer is a fixed input of an algorithm with the output that another
// implementation has given, OpenSSL. It is for tests at the start of a program: an
// algorithm is used only once it has given its known answer.
type KnownAnswer struct {
	Key        []byte // as long as asked for; of an AEAD with the salt at its end
	IV         []byte // 8 octets of an AEAD's nonce, or what a block cipher needs of 16
	Additional []byte // authenticated data of an AEAD
	Message    []byte // 64 octets
	Output     []byte // of an AEAD with the tag, of an HMAC whole
}

// Known outputs, by transform. Those of an HMAC are for a key as long as its output.
var knownOutputs = map[Transform]string{
	Encryption(EncryptionAESGCM16, 128): "7fbc2af66e4662e987bf1d6b7a8020eef66db1c699de5a7d86edd3f45ece785ed3c8a4982649f21c5a4e6fb472d93688" +
		"d54a60b384088fd8aaf4fea23fe9a091b6b3f2b6ba329975f5df1f3a30619f69",
	Encryption(EncryptionAESGCM16, 192): "c6b50417020e4020ed5a4cf7091d1e5f180e2fa1bcfee1e390604b5044af8e0ea101b8da045be5a9e7ec73c1492ac634" +
		"ecda7a2d065fbdf9da549c5a55f6894e3e74f0b22b3baf68244e06bb75af2f37",
	Encryption(EncryptionAESGCM16, 256): "694b625522625566de8fd4554d49c5df1f66006f8e6e39cc556fec90bb4809f45ec6d569850fcc87ef6ff65934f5b1af" +
		"c5b99f7df13bc63ed7be560b1c48c7cde0e34ebe8d92adf90abf55d0bc2aed56",
	Encryption(EncryptionChaCha20Poly1305, 0): "e7ad081ca2a53a4ea78f45fd3ebc79105635882a785707fd962de5c2bab7fcb25f6a4aedf9eb11a6bb57433edabc1e6b" +
		"127d0aa21b985c76c0aeaba10e734f98e4d2b00681f6d9b2bddf62265c985bbc",
	Encryption(EncryptionSM4GCM16, 0): "5a60a3c704c9acd558d6d7c09169db8f2adc56ea5662893f072bf9649f668ee211d62ffae804cacce306d7a8284d2fb9" +
		"38f64b0bd1d041fc98a5d4a69382500fb8fef0742bc4b8c7ced5a71558842246",
	Encryption(EncryptionAESCBC, 128): "015bee216a97a1a1f315eb9364f304f3de14b3f81a0bc7d7aae6f4e6a02e38644d8e939e1111b5d96fde873cafddadae" +
		"dd89f001b487fed20ac7831e819d1c6b",
	Encryption(EncryptionAESCBC, 192): "4a9ba92de72eb77ef9662dbd61dddbe0c692b829f70afe8b339fee1b842729ff6a048df37f04082d5a48793684cddf10" +
		"e0a2cd775a25681e852ea09cab062adc",
	Encryption(EncryptionAESCBC, 256): "076180cbd7296cabee2bae594dffe145fae38af26e4b38e769330e48735d54245a240085df402c1b7328df8fc9afc320" +
		"56e7cd61f1bc98fbb7a617398743ed3f",
	Encryption(Encryption3DES, 0): "49d0b52560c69b84d910012317b79651afa3d8cc97e1dca604045c67e629765c78e2fef32bbec72a2ef46651c0006b15" +
		"8f573ff3ab3b892ae3c852f60a2b0774",
	Encryption(EncryptionSM4CBC, 0): "35b3cee74ddbd7e049b37ecaf051267151d885a74ae40c838429e215c57429d3d997cbe1261ff3555985322062a1bc80" +
		"27b8332ff56c4c14c89ab10e61934377",
	PRF(PRFHMACMD5):                    knownHMACMD5,
	Integrity(IntegrityHMACMD596):      knownHMACMD5,
	PRF(PRFHMACSHA1):                   knownHMACSHA1,
	Integrity(IntegrityHMACSHA196):     knownHMACSHA1,
	PRF(PRFHMACSHA2256):                knownHMACSHA2256,
	Integrity(IntegrityHMACSHA2256128): knownHMACSHA2256,
	PRF(PRFHMACSHA2384):                knownHMACSHA2384,
	Integrity(IntegrityHMACSHA2384192): knownHMACSHA2384,
	PRF(PRFHMACSHA2512):                knownHMACSHA2512,
	Integrity(IntegrityHMACSHA2512256): knownHMACSHA2512,
	PRF(PRFHMACSM3):                    knownHMACSM3,
	Integrity(IntegrityHMACSM396):      knownHMACSM3,
	Integrity(IntegrityHMACSM3128):     knownHMACSM3,
	Integrity(IntegrityHMACSM3256):     knownHMACSM3,
}

const (
	knownHMACMD5     = "bb061f211165ef3d525afe7fd2834a2e"
	knownHMACSHA1    = "f2b8f0b1bf0dd8a76face94933ccea57ad529d2a"
	knownHMACSHA2256 = "a1aec7bf6ae003a4d33573cfc56dcd8ae50d8ae0c5da77e8fb7de93f1b7b72cb"
	knownHMACSHA2384 = "279b7c91ebbacb4eff786628820d56fca9277d3dcc827aef1821bad02039eabc514ccc40d4a6de046a5221ea2aafa156"
	knownHMACSHA2512 = "4653d60c23656253e82a24ee40aee76516c34fb615ccd03e6c730bd932814edd41657aaca4ad14968aeca07f3ea110a0" +
		"214cd8aa4b61afb9a286b11b4c3b1a7f"
	knownHMACSM3 = "e3d2fba295101ed5cea2c67afbf572822f3ea7b66213caf4e55918d8bfa39b22"
)

// KnownEncryptions are the ciphers that have a known answer.
func KnownEncryptions() []Transform {
	known := slices.DeleteFunc(slices.Collect(maps.Keys(knownOutputs)), func(t Transform) bool { return t.Type != TransformEncryption })
	slices.SortFunc(known, func(a, b Transform) int { return int(a.ID) - int(b.ID) + int(a.KeyBits) - int(b.KeyBits) })
	return known
}

// KnownAnswerOf returns the known answer of a transform for a key of some octets.
// The error names the transform that has none.
func KnownAnswerOf(t Transform, keyLen int) (KnownAnswer, error) {
	output, err := hex.DecodeString(knownOutputs[t])
	if err != nil || len(output) == 0 {
		return KnownAnswer{}, fmt.Errorf("%s: no known answer", t)
	}
	return KnownAnswer{
		Key: KnownOctets(1, keyLen), IV: KnownOctets(0x81, 16), Additional: KnownOctets(0xc1, 8), Message: KnownOctets(0, 64), Output: output,
	}, nil
}

// KnownOctets returns n octets that count from the first one on.
func KnownOctets(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}
