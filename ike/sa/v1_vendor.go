package sa

import "github.com/vpngw/vpngw/ike/isakmp"

// vendors are what we announce in the first message that we send.
func vendors() []isakmp.Payload {
	return []isakmp.Payload{
		&isakmp.VendorNATT, &isakmp.VendorNATTDraft03, &isakmp.VendorNATTDraft02n, &isakmp.VendorNATTDraft02,
		&isakmp.VendorDPD, &isakmp.VendorFragmentation,
	}
}

// learn notes what the peer announces.
func (s *ISAKMPSA) learn(msg *isakmp.Message) {
	s.dpd = s.dpd || msg.Says(&isakmp.VendorDPD)
	s.fragmentation = s.fragmentation || msg.Says(&isakmp.VendorFragmentation)
	if s.natTraversal {
		return
	}
	switch {
	case msg.Says(&isakmp.VendorNATT):
		s.natTraversal = true
	case msg.Says(&isakmp.VendorNATTDraft03), msg.Says(&isakmp.VendorNATTDraft02), msg.Says(&isakmp.VendorNATTDraft02n):
		s.natTraversal, s.natDraft = true, true
	}
}

// vendorAnswer is what a responder announces: of NAT traversal the one form that
// it takes (RFC 3947, section 3.1).
func (s *ISAKMPSA) vendorAnswer() []isakmp.Payload {
	list := []isakmp.Payload{&isakmp.VendorDPD, &isakmp.VendorFragmentation}
	switch {
	case s.natDraft:
		list = append(list, &isakmp.VendorNATTDraft03, &isakmp.VendorNATTDraft02n, &isakmp.VendorNATTDraft02)
	case s.natTraversal:
		list = append(list, &isakmp.VendorNATT)
	}
	return list
}
