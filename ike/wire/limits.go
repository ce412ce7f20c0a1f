package wire

// Bounds on what a message may hold. They are far above what any known peer
// sends, and keep the memory and the time that one datagram can cost small.
const (
	// MaxMessage is the largest message in octets, whole or reassembled. It is
	// what a UDP datagram and the 16-bit lengths of payloads allow.
	MaxMessage = 65535
	// MaxPayloads is the most payloads in one message.
	MaxPayloads = 128
	// MaxProposals is the most proposals in an SA payload.
	MaxProposals = 64
	// MaxTransforms is the most transforms in one proposal.
	MaxTransforms = 128
	// MaxTransformAttributes is the most attributes of one transform. One is
	// defined: Key Length.
	MaxTransformAttributes = 4
	// MaxSelectors is the most selectors in a TS payload.
	MaxSelectors = 128
	// MaxDeleteSPIs is the most SPIs in a Delete payload.
	MaxDeleteSPIs = 1024
	// MaxConfigAttributes is the most attributes in a Configuration payload.
	MaxConfigAttributes = 128
	// MinNonce and MaxNonce bound a nonce in octets (RFC 7296, section 3.9).
	MinNonce, MaxNonce = 16, 256
	// MaxFragments is the most fragments of one message (RFC 7383).
	MaxFragments = 64
)
