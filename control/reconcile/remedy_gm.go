package reconcile

import (
	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike/sa"
)

// Remedies of connections of gateways of flavor GM. Certificates are changed as a
// whole: the gateway's by its own operation, the peer's authority at the customer
// gateway.
const (
	fieldOfAuthority   = "customer_gateway.ca_certificate"
	fieldOfCertificate = "certificate of the gateway"
	fieldAtPeer        = "certificates"
	optionOfPeers      = "ike.gm of the configuration"
)

func (p *party) ofTrust(d *sa.Diagnosis, out *control.Diagnosis) {
	out.Changes = []control.Remedy{{Field: fieldOfAuthority, From: d.Ours, To: d.Theirs}}
	out.PeerChanges = []control.Remedy{{Field: fieldAtPeer, To: "issued by " + d.Ours}}
}

func (p *party) ofOwnTrust(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.Changes = []control.Remedy{{Field: fieldOfCertificate, To: "one that the peer trusts"}}
	out.PeerChanges = []control.Remedy{{Field: "trusted certificate authority", To: "that of the gateway's certificate"}}
}

func (p *party) ofValidity(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.AnyOf = true
	out.PeerChanges = []control.Remedy{{Field: fieldAtPeer, To: "ones in force"}, {Field: "clock"}}
}

func (p *party) ofOwnValidity(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.Changes = []control.Remedy{{Field: fieldOfCertificate, To: "one in force"}}
}

func (p *party) ofKeyUsage(d *sa.Diagnosis, out *control.Diagnosis) {
	out.PeerChanges = []control.Remedy{{Field: "key usage of its " + fieldAtPeer, From: d.Theirs, To: d.Ours}}
}

func (p *party) ofSubject(d *sa.Diagnosis, out *control.Diagnosis) {
	out.PeerChanges = []control.Remedy{{Field: "local identity", From: d.Theirs, To: d.Ours}}
}

func (p *party) ofEnvelope(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.AnyOf = true
	out.Changes = []control.Remedy{{Field: optionOfPeers + ": signature_input", To: "that of the peer"}}
	out.PeerChanges = []control.Remedy{{Field: fieldAtPeer, To: "those of its keys"}, {Field: "what it has stored of ours", To: "the certificates that the gateway shows"}}
}

func (p *party) ofInitiator(_ *sa.Diagnosis, out *control.Diagnosis) {
	out.Changes = []control.Remedy{{Field: optionOfPeers + ": initiator", From: "us", To: "either"}}
	out.PeerChanges = []control.Remedy{{Field: "initiator", To: "only the gateway"}}
}
