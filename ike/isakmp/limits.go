package isakmp

// Bounds on what a message may hold. They are far above what any known peer
// sends, and keep the memory and the time that one datagram can cost small.
const (
	// MaxMessage is the largest message in octets, whole or reassembled.
	MaxMessage = 65535
	// MaxPayloads is the most payloads in one message. Peers send up to twenty
	// vendor ids.
	MaxPayloads = 64
	// MaxProposals is the most proposals in an SA payload.
	MaxProposals = 32
	// MaxTransforms is the most transforms in one proposal.
	MaxTransforms = 128
	// MaxAttributes is the most attributes of one transform.
	MaxAttributes = 32
	// MaxDeleteSPIs is the most SPIs in a Delete payload.
	MaxDeleteSPIs = 256
	// MinNonce and MaxNonce bound a nonce in octets (RFC 2409, section 5).
	MinNonce, MaxNonce = 8, 256
	// MaxFragments is the most fragments of one message.
	MaxFragments = 64
	// MaxReassembled is the largest message in octets that fragments, which
	// nobody authenticates, are put together to.
	MaxReassembled = 16384
)
