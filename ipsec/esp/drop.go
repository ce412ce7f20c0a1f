package esp

// Drop is the reason why a packet was not sealed or opened. It is the only
// type of error that Seal and Open return, so a caller may switch on it, count
// by it, and compare with errors.Is.
type Drop uint8

// Reasons to drop a packet.
const (
	// ErrSequenceExhausted: the sequence number would wrap (RFC 4303, section
	// 3.3.3). Only new keys help.
	ErrSequenceExhausted Drop = iota + 1
	// ErrExpired: a hard limit of octets or packets is reached (RFC 4301,
	// section 4.4.2.1).
	ErrExpired
	// ErrWiped: the SA has been deleted.
	ErrWiped
	// ErrNoTrailerRoom: the packet given to Seal lacks the spare capacity for
	// its trailer.
	ErrNoTrailerRoom
	// ErrTruncated: the packet is too short for its headers, or the ciphertext
	// is not a whole number of blocks.
	ErrTruncated
	// ErrSPI: the packet is of another SA.
	ErrSPI
	// ErrReplay: the sequence number was seen, or lies left of the window
	// (RFC 4303, section 3.4.3).
	ErrReplay
	// ErrIntegrity: the ICV does not verify (RFC 4303, section 3.4.4).
	ErrIntegrity
	// ErrPadding: the padding is longer than the packet or is not 1, 2, 3, …
	// (RFC 4303, section 2.4).
	ErrPadding
	// ErrDummy: an authentic packet of next header 59, made to hide traffic
	// (RFC 4303, section 2.6). Dropping it is no fault.
	ErrDummy

	// DropCount is one more than the highest Drop, for arrays of counters.
	DropCount
)

var dropNames = [DropCount]struct{ reason, text string }{
	ErrSequenceExhausted: {"sequence_exhausted", "sequence number exhausted"},
	ErrExpired:           {"expired", "hard lifetime reached"},
	ErrWiped:             {"wiped", "security association deleted"},
	ErrNoTrailerRoom:     {"no_trailer_room", "no room for a trailer behind the packet"},
	ErrTruncated:         {"truncated", "packet too short or not of whole cipher blocks"},
	ErrSPI:               {"spi", "packet of another SPI"},
	ErrReplay:            {"replay", "sequence number replayed or left of the window"},
	ErrIntegrity:         {"integrity", "integrity check failed"},
	ErrPadding:           {"padding", "padding malformed"},
	ErrDummy:             {"dummy", "dummy packet"},
}

// Error describes the reason.
func (d Drop) Error() string {
	if d == 0 || d >= DropCount {
		return "esp: unknown reason"
	}
	return "esp: " + dropNames[d].text
}

// Reason returns the word under which the drop is counted in
// ipsec.SAState.Drops and in metrics, such as "replay".
func (d Drop) Reason() string {
	if d == 0 || d >= DropCount {
		return "unknown"
	}
	return dropNames[d].reason
}
