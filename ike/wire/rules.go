package wire

// rule says how often a payload stands in a message, and whether only inside
// the Encrypted payload.
type rule struct {
	payload   PayloadType
	min, max  int
	encrypted bool
}

// kind names a message by its exchange and direction.
type kind struct {
	exchange ExchangeType
	response bool
}

const (
	many   = MaxPayloads
	inside = true
)

// rules holds what each message is made of (RFC 7296, sections 1.2 to 1.5 and
// appendix C). The minima do not bind a response that refuses. In IKE_AUTH,
// where the payloads depend on the way of authentication, most minima are zero.
var rules = map[kind][]rule{
	{IKESAInit, false}: {
		{TypeSA, 1, 1, !inside},
		{TypeKE, 1, 1, !inside},
		{TypeNonce, 1, 1, !inside},
		{TypeNotify, 0, many, !inside},
		{TypeVendorID, 0, many, !inside},
	},
	{IKESAInit, true}: {
		{TypeSA, 1, 1, !inside},
		{TypeKE, 1, 1, !inside},
		{TypeNonce, 1, 1, !inside},
		{TypeCertReq, 0, many, !inside},
		{TypeNotify, 0, many, !inside},
		{TypeVendorID, 0, many, !inside},
	},
	{IKEAuth, false}: {
		{TypeIDi, 0, 1, inside},
		{TypeIDr, 0, 1, inside},
		{TypeCert, 0, many, inside},
		{TypeCertReq, 0, many, inside},
		{TypeAuth, 0, 1, inside},
		{TypeEAP, 0, 1, inside},
		{TypeConfig, 0, 1, inside},
		{TypeSA, 0, 1, inside},
		{TypeTSi, 0, 1, inside},
		{TypeTSr, 0, 1, inside},
		{TypeNotify, 0, many, inside},
		{TypeVendorID, 0, many, inside},
	},
	{IKEAuth, true}: {
		{TypeIDr, 0, 1, inside},
		{TypeCert, 0, many, inside},
		{TypeAuth, 0, 1, inside},
		{TypeEAP, 0, 1, inside},
		{TypeConfig, 0, 1, inside},
		{TypeSA, 0, 1, inside},
		{TypeTSi, 0, 1, inside},
		{TypeTSr, 0, 1, inside},
		{TypeNotify, 0, many, !inside},
		{TypeVendorID, 0, many, inside},
	},
	{CreateChildSA, false}: {
		{TypeSA, 1, 1, inside},
		{TypeNonce, 1, 1, inside},
		{TypeKE, 0, 1, inside},
		{TypeTSi, 0, 1, inside},
		{TypeTSr, 0, 1, inside},
		{TypeConfig, 0, 1, inside},
		{TypeNotify, 0, many, inside},
		{TypeVendorID, 0, many, inside},
	},
	{CreateChildSA, true}: {
		{TypeSA, 1, 1, inside},
		{TypeNonce, 1, 1, inside},
		{TypeKE, 0, 1, inside},
		{TypeTSi, 0, 1, inside},
		{TypeTSr, 0, 1, inside},
		{TypeConfig, 0, 1, inside},
		{TypeNotify, 0, many, !inside},
		{TypeVendorID, 0, many, inside},
	},
	// RFC 9242, section 3.2, with the key exchange of RFC 9370, section 2.2.2.
	{IKEIntermediate, false}: {
		{TypeKE, 0, 1, inside},
		{TypeNotify, 0, many, inside},
		{TypeVendorID, 0, many, inside},
	},
	{IKEIntermediate, true}: {
		{TypeKE, 0, 1, inside},
		{TypeNotify, 0, many, !inside},
		{TypeVendorID, 0, many, inside},
	},
	{IKEFollowupKE, false}: {
		{TypeKE, 1, 1, inside},
		{TypeNotify, 0, many, inside},
		{TypeVendorID, 0, many, inside},
	},
	{IKEFollowupKE, true}: {
		{TypeKE, 1, 1, inside},
		{TypeNotify, 0, many, !inside},
		{TypeVendorID, 0, many, inside},
	},
	{Informational, false}: {
		{TypeNotify, 0, many, inside},
		{TypeDelete, 0, many, inside},
		{TypeConfig, 0, 1, inside},
		{TypeVendorID, 0, many, inside},
	},
	{Informational, true}: {
		{TypeNotify, 0, many, !inside},
		{TypeDelete, 0, many, inside},
		{TypeConfig, 0, 1, inside},
		{TypeVendorID, 0, many, inside},
	},
}

// Check tells whether an opened message has the payloads that its exchange
// asks for, and is to be called before any of them is handled. Payloads and
// notifies that are not known do not matter. The error is always an *Error.
//
// A response in the clear to a request that was encrypted passes when it
// refuses, such as INVALID_IKE_SPI: it is not authenticated, and proves nothing.
func (m *Message) Check() error {
	table, ok := rules[kind{m.Exchange, m.Response}]
	if !ok {
		return syntaxError(18, "%s is not known", m.Exchange)
	}
	if err := m.checkHeader(); err != nil {
		return err
	}
	refuses := m.refuses()
	if m.Exchange != IKESAInit && !m.authenticated && (!m.Response || !refuses || m.Encrypted()) {
		return dropError(HeaderLen, "%s without protection", &m.Header)
	}
	if m.Exchange == IKEIntermediate && m.Encrypted() && m.clear > 0 {
		return syntaxError(HeaderLen, "payloads in the clear in %s", &m.Header)
	}
	counts, bare := map[PayloadType]int{}, map[PayloadType]bool{}
	for i, p := range m.Payloads {
		if _, unknown := p.(*Unknown); !unknown {
			counts[p.Type()]++
			bare[p.Type()] = bare[p.Type()] || i < m.clear
		}
	}
	for _, r := range table {
		n := counts[r.payload]
		delete(counts, r.payload)
		reason := ""
		switch {
		case n > r.max:
			reason = "too many of them"
		case n < r.min && !refuses:
			reason = "missing"
		case bare[r.payload] && r.encrypted:
			reason = "not encrypted"
		default:
			continue
		}
		return &Error{Notify: InvalidSyntax, Payload: r.payload, Offset: HeaderLen, Reason: reason + " in " + m.Header.String()}
	}
	for t := range counts {
		return &Error{Notify: InvalidSyntax, Payload: t, Offset: HeaderLen, Reason: "has no place in " + m.Header.String()}
	}
	_, i := m.TS(false)
	_, r := m.TS(true)
	if i != r {
		return &Error{Notify: InvalidSyntax, Payload: TypeTSi, Offset: HeaderLen, Reason: "TSi and TSr come together or not at all"}
	}
	return nil
}

// checkHeader checks SPIs, flags and message id against the exchange.
func (m *Message) checkHeader() error {
	switch {
	case m.InitiatorSPI == 0:
		return dropError(0, "no SPI of the initiator")
	case m.Exchange == IKESAInit && m.Encrypted():
		return dropError(16, "%s with an Encrypted payload", &m.Header)
	case m.Exchange == IKESAInit && m.MessageID != 0:
		return dropError(20, "%s does not begin at 0", &m.Header)
	case m.Exchange == IKESAInit && !m.Response && m.ResponderSPI != 0:
		return dropError(8, "%s with an SPI of the responder", &m.Header)
	case m.Exchange != IKESAInit && m.ResponderSPI == 0:
		return dropError(8, "%s without an SPI of the responder", &m.Header)
	case beforeAuth(m.Exchange) && m.Initiator == m.Response:
		return dropError(19, "%s from the wrong side", &m.Header)
	case m.Exchange != IKESAInit && beforeAuth(m.Exchange) && m.MessageID == 0:
		return dropError(20, "%s has an id of IKE_SA_INIT", &m.Header)
	}
	return nil
}

// beforeAuth reports whether an exchange is one of those that end with the
// authentication, which are all begun by the initiator of the IKE SA.
func beforeAuth(t ExchangeType) bool {
	return t == IKESAInit || t == IKEIntermediate || t == IKEAuth
}

// refuses reports whether a response lacks its payloads for a reason: an error,
// a demand for a cookie, or a redirect.
func (m *Message) refuses() bool {
	if !m.Response {
		return false
	}
	if _, ok := m.ErrorNotify(); ok {
		return true
	}
	_, cookie := m.Notify(Cookie)
	_, redirect := m.Notify(Redirect)
	return (cookie || redirect) && m.Exchange == IKESAInit
}
