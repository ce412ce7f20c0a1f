package octets

import (
	"bytes"
	"testing"
)

func TestFieldsInOrder(t *testing.T) {
	body := []byte{1, 0, 2, 0, 0, 0, 3, 4, 5, 6, 7, 8}
	c := NewCursor(body)
	if a, b, d := c.Uint8("a"), c.Uint16("b"), c.Uint32("d"); a != 1 || b != 2 || d != 3 {
		t.Errorf("read %d, %d, %d", a, b, d)
	}
	sub := c.Sub(2, "part")
	if got := sub.Bytes(2, "data"); !bytes.Equal(got, []byte{4, 5}) {
		t.Errorf("part is %v", got)
	}
	sub.End()
	if c.Len() != 3 {
		t.Errorf("%d octets left", c.Len())
	}
	if c.Bytes(0, "nothing") != nil {
		t.Error("a copy of no octets is not nil")
	}
	rest := c.Remainder()
	body[9] = 0
	if !bytes.Equal(rest, []byte{6, 7, 8}) {
		t.Errorf("the remainder is %v, or aliases the input", rest)
	}
	if c.End(); c.Failed() {
		t.Error(c.Fault())
	}
}

func TestTheFirstFailureStays(t *testing.T) {
	tests := []struct {
		name   string
		read   func(c *Cursor)
		offset int
		reason string
	}{
		{"short field", func(c *Cursor) { c.Take(2, "x"); c.Uint32("SPI"); c.Fail("later") }, 2, "SPI needs 4 octets, 2 are left"},
		{"negative length", func(c *Cursor) { c.Take(1, "x"); c.Bytes(-3, "proposal") }, 1, "proposal needs -3 octets, 3 are left"},
		{"short part", func(c *Cursor) { c.Sub(5, "selector").Uint8("x") }, 0, "selector needs 5 octets, 4 are left"},
		{"field of a part", func(c *Cursor) { c.Take(1, "x"); s := c.Sub(2, "part"); s.Uint8("x"); s.Uint16("port") }, 2, "port needs 2 octets, 1 are left"},
		{"rest of a part", func(c *Cursor) { c.Sub(2, "part").End(); c.End() }, 0, "2 trailing octets"},
		{"rule", func(c *Cursor) { c.Take(4, "x"); c.Fail("DOI %d", 7); c.End() }, 4, "DOI 7"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := NewCursor([]byte{9, 9, 9, 9})
			test.read(c)
			offset, reason := c.Fault()
			if !c.Failed() || offset != test.offset || reason != test.reason {
				t.Errorf("at %d: %q", offset, reason)
			}
			if c.Uint8("x") != 0 || c.Remainder() != nil || c.Sub(1, "x").Uint8("x") != 0 {
				t.Error("reads on after a failure")
			}
		})
	}
}
