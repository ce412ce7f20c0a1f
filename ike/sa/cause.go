package sa

import "github.com/vpngw/vpngw/ipsec"

// Cause is the code of what is at fault: a closed set, of which each has one
// remedy. Where a Reason has the words of the API's log, a Cause tells apart what
// is to be done.
type Cause string

// Causes.
const (
	CauseIKEProposal    Cause = "ike-proposal"         // algorithms of the IKE SA
	CauseIKEGroup       Cause = "ike-group"            // DH group of the IKE SA
	CauseChildProposal  Cause = "esp-proposal"         // algorithms of ESP
	CausePFS            Cause = "pfs"                  // DH group of a CHILD_SA
	CauseAdditional     Cause = "additional-exchange"  // additional key exchange of the IKE SA or of a CHILD_SA
	CauseUnknownToPeer  Cause = "unknown-to-peer"      // the peer has nothing for our address
	CausePSK            Cause = "pre-shared-key"       //
	CausePPK            Cause = "post-quantum-key"     // one end has none, or another one
	CausePeerID         Cause = "peer-identity"        // the peer names itself otherwise than we expect
	CauseLocalID        Cause = "local-identity"       // the peer expects another name of us
	CauseKeyOrIdentity  Cause = "key-or-identity"      // refused by the peer, which does not say for which
	CauseAuthMethod     Cause = "auth-method"          // no pre-shared key
	CauseSelectors      Cause = "selectors"            // share nothing
	CauseSwapped        Cause = "selectors-swapped"    // the peer has local and remote exchanged
	CauseMirrored       Cause = "selectors-mirrored"   // both ends name the same network as their own
	CauseTaken          Cause = "selectors-taken"      // another peer of a template has that traffic
	CauseSinglePair     Cause = "selectors-one-pair"   // the peer takes one pair a child only
	CauseVersion        Cause = "ike-version"          //
	CauseMode           Cause = "ike-mode"             // main or aggressive mode
	CauseEncapsulation  Cause = "encapsulation"        // no tunnel, or not in UDP as wanted
	CauseUnreachable    Cause = "unreachable"          // no answer to the first message
	CauseUDP4500        Cause = "udp-4500"             // answers on port 500, none on 4500
	CauseFragments      Cause = "fragments"            // large messages do not arrive, small ones do
	CauseSilence        Cause = "silence"              // an answer to the first message, none to a later one
	CauseUnknownPeer    Cause = "unknown-peer"         // no connection for the peer's address
	CauseMalformed      Cause = "malformed"            //
	CauseRekey          Cause = "rekey"                //
	CauseLimit          Cause = "limit"                // more SAs than one child may have
	CauseDataPlane      Cause = "data-plane"           // the data plane refused an SA or a policy
	CauseDeadPeer       Cause = "dead-peer"            // no answer to the liveness check
	CausePeerClosed     Cause = "closed-by-peer"       // the peer sent a DELETE
	CauseConfiguration  Cause = "configuration-change" // ours was changed, reset or removed
	CauseExpired        Cause = "expired"              // the end of a lifetime came before a rekey
	CauseReplaced       Cause = "replaced"             // another SA took its place
	CauseRefusedByPeer  Cause = "refused-by-peer"      // with an error that names no parameter
	CauseNegotiatedAway Cause = "answer-not-offered"   // the peer's answer goes beyond what we asked for
	CauseRedirect       Cause = "redirect"             // the peer sends us to a gateway that the connection does not permit
	// Of certificates, in the profile GM/T 0022.
	CauseTrust       Cause = "certificate-authority" // the peer's certificate is of another authority
	CauseOwnTrust    Cause = "certificate-refused"   // the peer does not go on after it has seen ours
	CauseValidity    Cause = "certificate-validity"  // the peer's is not in force
	CauseOwnValidity Cause = "own-certificate"       // ours is not in force
	CauseKeyUsage    Cause = "certificate-usage"     // the peer's is for another use
	CauseSubject     Cause = "certificate-subject"   // is not who the peer is to be, or says that it is
	CauseEnvelope    Cause = "digital-envelope"      // does not open, or is not signed by who it is from
	CauseInitiator   Cause = "initiator"             // only the other end may begin
)

// Causes are all of them.
var Causes = []Cause{
	CauseIKEProposal, CauseIKEGroup, CauseChildProposal, CausePFS, CauseAdditional, CauseUnknownToPeer, CausePSK, CausePPK, CausePeerID, CauseLocalID,
	CauseKeyOrIdentity, CauseAuthMethod, CauseSelectors, CauseSwapped, CauseMirrored, CauseTaken, CauseSinglePair, CauseVersion, CauseMode,
	CauseEncapsulation, CauseUnreachable, CauseUDP4500, CauseFragments, CauseSilence, CauseUnknownPeer, CauseMalformed,
	CauseRekey, CauseLimit, CauseDataPlane, CauseDeadPeer, CausePeerClosed, CauseConfiguration, CauseExpired, CauseReplaced,
	CauseRefusedByPeer, CauseNegotiatedAway, CauseRedirect,
	CauseTrust, CauseOwnTrust, CauseValidity, CauseOwnValidity, CauseKeyUsage, CauseSubject, CauseEnvelope, CauseInitiator,
}

// causeOf is the cause of a reason, where a diagnosis has none of its own.
var causeOf = map[Reason]Cause{
	ReasonPhase1Proposal:   CauseIKEProposal,
	ReasonPhase2Proposal:   CauseChildProposal,
	ReasonResponderDH:      CauseIKEGroup,
	ReasonInitiatorDH:      CauseIKEGroup,
	ReasonFlow:             CauseSelectors,
	ReasonVersion:          CauseVersion,
	ReasonMode:             CauseMode,
	ReasonPeerAddress:      CauseUnknownPeer,
	ReasonConfigID:         CausePeerID,
	ReasonAuthentication:   CauseKeyOrIdentity,
	ReasonMalformedPayload: CauseMalformed,
	ReasonMalformedMessage: CauseMalformed,
	ReasonMaxTransmit:      CauseUnreachable,
	ReasonRekeyFail:        CauseRekey,
	ReasonEncapsulation:    CauseEncapsulation,
	ReasonDataPlane:        CauseDataPlane,
	ReasonFlowConflict:     CauseTaken,
	ReasonRedirect:         CauseRedirect,

	ReasonDPDTimeout:      CauseDeadPeer,
	ReasonPeerRequest:     CausePeerClosed,
	ReasonConfigModify:    CauseConfiguration,
	ReasonIKEHardExpiry:   CauseExpired,
	ReasonChildHardExpiry: CauseExpired,
	ReasonReauthTimeout:   CauseExpired,
	ReasonRedirected:      CauseReplaced,
	ReasonIKEReplaced:     CauseReplaced,
	ReasonChildReplaced:   CauseReplaced,
	ReasonExchangeTimeout: CauseSilence,
}

// Cause returns the cause of a reason alone.
func (r Reason) Cause() Cause { return causeOf[r] }

// causeOfType is the cause of a transform type on which proposals differ.
func causeOfType(reason Reason, t ipsec.TransformType) Cause {
	switch {
	case t.IsAdditional():
		return CauseAdditional
	case t != ipsec.TransformGroup:
		return ""
	case reason == ReasonPhase2Proposal:
		return CausePFS
	}
	return CauseIKEGroup
}
