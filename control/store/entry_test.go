package store

import (
	"bytes"
	"testing"

	"github.com/vpngw/vpngw/fuzztest"
)

// What lies in the file is read without a panic, and what is accepted is what
// would be written again.
func FuzzDecodeEntry(f *testing.F) {
	target := fuzztest.New(f)
	target.Add([]byte{})
	target.Add(make([]byte, revisionsSize-1))
	target.Add(make([]byte, revisionsSize))
	target.Add(encodeEntry(Entry{Value: []byte("value"), Created: 7, Modified: 1 << 40}))
	target.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry("k", b)
		if (err != nil) != (len(b) < revisionsSize) {
			t.Fatalf("%d octets: %v", len(b), err)
		}
		if err == nil && !bytes.Equal(encodeEntry(e), b) {
			t.Fatalf("%x was read as %+v", b, e)
		}
	})
}
