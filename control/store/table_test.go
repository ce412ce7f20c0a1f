package store

import (
	"fmt"
	"testing"
)

func TestTableDecodesItsOwnOnly(t *testing.T) {
	table := NewTable[int](nil, "numbers")
	if _, err := table.Decode(Entry{Key: "letters/a", Value: []byte("1")}); err == nil {
		t.Error("decoded an entry of another table")
	}
	if _, err := table.Decode(Entry{Key: "numbers/a", Value: []byte("x")}); err == nil {
		t.Error("decoded what is no number")
	}
	row, err := table.Decode(Entry{Key: "numbers/a", Value: []byte("7"), Created: 1, Modified: 2})
	if err != nil || row != (Row[int]{Key: "a", Value: 7, Created: 1, Modified: 2}) {
		t.Errorf("got %+v, %v", row, err)
	}
}

func TestSharedTable(t *testing.T) {
	s := NewMemory()
	table := NewSharedTable[[]int](s, "lists")
	write := func(key string, value ...int) {
		t.Helper()
		put, err := table.Put(key, value)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Txn(t.Context(), nil, []Op{put}); err != nil {
			t.Fatal(err)
		}
	}
	list := func() []Row[[]int] {
		t.Helper()
		rows, _, err := table.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	write("a", 1)
	write("b", 2)
	first, second := list(), list()
	if &first[0].Value[0] != &second[0].Value[0] {
		t.Error("what did not change was decoded twice")
	}
	own, err := table.Get(t.Context(), "a")
	if err != nil || &own.Value[0] == &first[0].Value[0] {
		t.Errorf("Get shares its value with List (%v)", err)
	}
	write("a", 3)
	if third := list(); third[0].Value[0] != 3 || third[0].Modified == first[0].Modified || &third[1].Value[0] != &first[1].Value[0] {
		t.Errorf("after a change of one: %v, before: %v", third, first)
	}
	if _, err := s.Txn(t.Context(), nil, []Op{table.Delete("a")}); err != nil {
		t.Fatal(err)
	}
	if rest := list(); len(rest) != 1 || rest[0].Key != "b" {
		t.Errorf("after a deletion: %v", rest)
	}
}

func TestSharedTableIsBounded(t *testing.T) {
	table := NewSharedTable[int](nil, "numbers")
	for i := range 2*maxDecoded + 1 {
		if _, err := table.Decode(Entry{Key: fmt.Sprint("numbers/", i), Value: []byte("7"), Modified: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(table.shared.rows); n > maxDecoded {
		t.Errorf("%d rows are kept", n)
	}
}
