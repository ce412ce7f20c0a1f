package wire

// Cipher protects the content of Encrypted payloads for one direction of an
// IKE SA (RFC 7296, section 3.14; RFC 5282). The key exchange implements it.
type Cipher interface {
	// SealedLen returns the length of the Encrypted payload's body (IV,
	// ciphertext with padding, ICV) for n octets of plaintext.
	SealedLen(n int) int
	// Seal appends that body to message, which holds everything from the first
	// octet of the IKE header through the generic header of the Encrypted
	// payload (and, for SKF, the fragment numbers), with final lengths. All of
	// it is authenticated. plain is not kept or changed.
	Seal(message, plain []byte) ([]byte, error)
	// Open authenticates and decrypts a whole message whose Encrypted payload
	// body begins at the offset. It returns the plaintext without padding, in
	// memory of its own. It changes nothing in message.
	Open(message []byte, offset int) (plain []byte, err error)
}
