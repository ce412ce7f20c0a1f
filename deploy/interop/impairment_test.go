package interop

// impairment is a way in which libreswan breaks the protocols on purpose.
type impairment struct {
	name   string
	values []string // what it is run with; none: it takes no value
	why    string   // why it is not run
}

// newest stands for the number of libreswan's newest IKE SA or CHILD_SA of IKEv2.
const (
	newestIKE   = "<IKE SA>"
	newestChild = "<CHILD_SA>"
)

// impairments are all that libreswan 4.10 has.
var impairments = []impairment{
	{name: "add-unknown-v2-payload-to", values: []string{"IKE_SA_INIT", "IKE_AUTH", "CREATE_CHILD_SA", "INFORMATIONAL"}},
	{name: "add-unknown-v2-payload-to-sk", values: []string{"IKE_AUTH", "CREATE_CHILD_SA", "INFORMATIONAL"}},
	{name: "allow-dns-insecure", why: "of lookups in the DNS"},
	{name: "allow-null-none", why: "of what its own configuration may say"},
	{name: "bad-ikev2-auth-xchg"},
	{name: "bust-mi2"},
	{name: "bust-mr2"},
	{name: "child-key-length-attribute", values: []string{"OMIT", "EMPTY", "DUPLICATE", "1"}},
	{name: "childless-ikev2-supported"},
	{name: "corrupt-encrypted"},
	{name: "delete-on-retransmit"},
	{name: "drop-i2"},
	{name: "drop-incoming", values: []string{"1", "2", "3"}},
	{name: "drop-outgoing", values: []string{"1", "2", "3"}},
	{name: "drop-xauth-r0", why: "of XAUTH"},
	{name: "emitting"},
	{name: "event-check-crls", why: "of certificates"},
	{name: "event-sa-replace", values: []string{newestChild, newestIKE}},
	{name: "event-v2-liveness", values: []string{newestIKE}},
	{name: "event-v2-reauth", values: []string{newestIKE}},
	{name: "event-v2-rekey", values: []string{newestChild, newestIKE}},
	{name: "force-fips", why: "of its own cryptography"},
	{name: "force-v2-auth-method", values: []string{"RESERVED", "RSA", "NULL", "DIGSIG"}},
	{name: "ignore-hard-expire"},
	{name: "ignore-soft-expire"},
	{name: "ignore-v2-ike-auth-child"},
	{name: "ignore-v2n-signature-hash-algorithms"},
	{name: "ike-initiator-spi", values: []string{"0", "1"}},
	{name: "ike-key-length-attribute", values: []string{"OMIT", "EMPTY", "DUPLICATE", "1"}},
	{name: "ike-responder-spi", values: []string{"0", "1"}},
	{name: "ikev1-del-with-notify"},
	{name: "ikev2-add-child-transform", values: []string{"262144", "590079"}}, // of a known and an unknown type
	{name: "ikev2-add-ike-transform", values: []string{"262144", "590079"}},
	{name: "initiate-v2-liveness", values: []string{newestIKE}},
	{name: "jacob-two-two"},
	{name: "ke-payload", values: []string{"OMIT", "EMPTY", "DUPLICATE", "0", "255"}},
	{name: "log-rate-limit", why: "of its log"},
	{name: "major-version-bump"},
	{name: "minor-version-bump"},
	{name: "omit-v2-ike-auth-child"},
	{name: "omit-v2n-signature-hash-algorithms"},
	{name: "proposal-parser", why: "of what its own configuration may say"},
	{name: "rekey-initiate-subnet"},
	{name: "rekey-initiate-supernet"},
	{name: "rekey-respond-subnet"},
	{name: "rekey-respond-supernet"},
	{name: "replay-backward"},
	{name: "replay-duplicates"},
	{name: "replay-encrypted"},
	{name: "replay-forward"},
	{name: "revival"},
	{name: "sa-creation"},
	{name: "send-bogus-dcookie"},
	{name: "send-bogus-isakmp-flag"},
	{name: "send-bogus-payload-flag"},
	{name: "send-keepalive", values: []string{newestIKE}},
	{name: "send-key-size-check"},
	{name: "send-no-delete"},
	{name: "send-no-idr"},
	{name: "send-no-ikev2-auth"},
	{name: "send-no-main-r2"},
	{name: "send-no-xauth-r0", why: "of XAUTH"},
	{name: "send-nonzero-reserved"},
	{name: "send-nonzero-reserved-id"},
	{name: "send-pkcs7-thingie", why: "of certificates"},
	{name: "suppress-retransmits"},
	{name: "tcp-skip-setsockopt-espintcp", why: "of IKE over TCP"},
	{name: "tcp-use-blocking-write", why: "of IKE over TCP"},
	{name: "timeout-on-retransmit"},
	{name: "trigger", why: "of its own timers"},
	{name: "unknown-v2-payload-critical"},
	{name: "v1-hash-check"},
	{name: "v1-hash-exchange", values: []string{"NOTIFICATION", "QUICK", "DELETE"}},
	{name: "v1-hash-payload", values: []string{"OMIT", "EMPTY", "DUPLICATE", "0"}},
	{name: "v2-proposal-dh", values: []string{"allow-none", "drop-none", "omit"}},
	{name: "v2-proposal-integ", values: []string{"allow-none", "drop-none", "omit"}},
}
