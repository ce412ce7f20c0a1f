package octets

import (
	"bytes"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// FuzzCursor reads any fields from any body: what is read is what is there, in its
// order, and nothing is read after a failure.
func FuzzCursor(f *testing.F) {
	target := fuzztest.New(f)
	target.Add([]byte{1, 0, 2, 0, 0, 0, 3, 4, 5}, []byte{0, 1, 2, 0x13, 0x25, 4})
	target.Add([]byte{1, 2, 3}, []byte{0x43, 2, 0, 3})
	target.Fuzz(func(t *testing.T, body, steps []byte) {
		if len(steps) > 256 {
			return
		}
		c := NewCursor(body)
		open := []*Cursor{c}
		read := 0
		for _, step := range steps {
			at := open[len(open)-1]
			before, failed := at.Len(), at.Failed()
			n := int(step >> 4)
			var b []byte
			switch step & 7 {
			case 0:
				n, b = 1, []byte{at.Uint8("octet")}
			case 1:
				v := at.Uint16("two octets")
				n, b = 2, []byte{byte(v >> 8), byte(v)}
			case 2:
				v := at.Uint32("four octets")
				n, b = 4, []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
			case 3:
				b = at.Bytes(n, "octets")
			case 4:
				at.End()
				n = 0
			case 5:
				open = append(open, at.Sub(n, "part"))
				n = 0
				before = at.Len()
			case 6:
				if len(open) > 1 { // the rest of a part is passed over
					read += at.Len()
					open = open[:len(open)-1]
				}
				continue
			case 7:
				n, b = at.Len(), at.Remainder()
			}
			switch {
			case failed && at.Len() != before, !at.Failed() && at.Len() != before-n:
				t.Fatalf("step %#x: %d octets are left of %d", step, at.Len(), before)
			case at.Failed():
				if offset, reason := c.Fault(); reason == "" || offset > len(body) {
					t.Fatalf("failed at %d of %d for %q", offset, len(body), reason)
				}
				return
			case !bytes.Equal(b, body[read:read+len(b)]):
				t.Fatalf("step %#x: read %x of %x", step, b, body[read:])
			}
			read += n
		}
	})
}
