package isakmp

import "bytes"

// Vendor ids that announce what their sender can do.
var (
	// VendorNATT is that of RFC 3947, section 3.1; the others are those of its
	// drafts, of which the second had a line feed too many.
	VendorNATT         = VendorID{unhex("4a131c81070358455c5728f20e95452f")}
	VendorNATTDraft03  = VendorID{unhex("7d9419a65310ca6f2c179d9215529d56")}
	VendorNATTDraft02  = VendorID{unhex("cd60464335df21f87cfdb2fc68b6a448")}
	VendorNATTDraft02n = VendorID{unhex("90cb80913ebb696e086381b5ec427b1f")}
	// VendorDPD is that of RFC 3706, section 5.1, with version 1.0.
	VendorDPD = VendorID{unhex("afcad71368a1f1c96b8696fc77570100")}
	// VendorFragmentation announces that its sender takes fragments, followed
	// by four octets of flags: of main mode and of aggressive mode.
	VendorFragmentation = VendorID{unhex("4048b7d56ebce88525e7de7f00d6c2d3c0000000")}
)

// fragmentationPrefix is the part of the fragmentation vendor id that all
// senders agree on.
const fragmentationPrefix = 16

// Says reports whether a message announces what a vendor id stands for.
func (m *Message) Says(v *VendorID) bool {
	want := v.Data
	if v == &VendorFragmentation {
		want = want[:fragmentationPrefix]
	}
	for _, have := range All[*VendorID](m) {
		// Later versions of DPD are to be taken for ours (RFC 3706, section 5.1).
		if v == &VendorDPD && len(have.Data) == len(want) && bytes.HasPrefix(have.Data, want[:len(want)-2]) {
			return true
		}
		if v == &VendorFragmentation && bytes.HasPrefix(have.Data, want) || bytes.Equal(have.Data, want) {
			return true
		}
	}
	return false
}

// unhex is for constants only: what is no digit gives a wrong octet.
func unhex(s string) []byte {
	digit := func(c byte) byte {
		if c >= 'a' {
			return c - 'a' + 10
		}
		return c - '0'
	}
	b := make([]byte, len(s)/2)
	for i := range b {
		b[i] = digit(s[2*i])<<4 | digit(s[2*i+1])
	}
	return b
}
