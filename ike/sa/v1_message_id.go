package sa

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Both ends of an ISAKMP SA protect what they send with the same keys, and
// nothing in a message of phase 2 tells which end it is from. Only its message id
// sets it apart from one that the peer has sent before, and that somebody sends
// again, and from one of ours that somebody sends back to us.

const (
	// rememberedIDs is how many message ids of either end are remembered.
	rememberedIDs = 8192
	// wornIDs is how many make an SA be followed by a new one, before any of them
	// is forgotten.
	wornIDs = rememberedIDs / 2
)

// messageIDs are the message ids that an ISAKMP SA has used last.
type messageIDs struct {
	list []uint32
	next int // of list, once it is full
}

func (u *messageIDs) contain(id uint32) bool { return slices.Contains(u.list, id) }

func (u *messageIDs) add(id uint32) {
	if len(u.list) < rememberedIDs {
		u.list = append(u.list, id)
		return
	}
	u.list[u.next] = id
	u.next = (u.next + 1) % rememberedIDs
}

// used notes a message id of either end.
func (s *ISAKMPSA) used(id uint32) {
	s.ids.add(id)
	if len(s.ids.list) == wornIDs && s == s.m.current {
		s.rekeyAt = s.m.now
	}
}

// newMessageID draws the message id of an exchange of phase 2.
func (s *ISAKMPSA) newMessageID() (uint32, error) {
	var b [4]byte
	for range 16 {
		if err := readFull(s.m.env.Rand, b[:]); err != nil {
			return 0, err
		}
		if id := binary.BigEndian.Uint32(b[:]); id != 0 && s.quickByID(id) == nil && !s.ids.contain(id) {
			s.used(id)
			return id, nil
		}
	}
	return 0, errors.New("the source of randomness gives no message id")
}
