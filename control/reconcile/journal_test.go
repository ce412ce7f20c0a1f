package reconcile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
)

func TestJournalFolds(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var j journal
	said := strings.Fields("a b a c d e f a b g")
	for i, message := range said {
		j.add(start.Add(time.Duration(i)*time.Second), message)
	}
	var got []string
	for _, l := range j.stored() {
		_, text, _ := strings.Cut(l.Message, " ")
		got = append(got, text)
	}
	// The second a is within reach of the first one, the third is not.
	want := "b | a (2 times since 2026-01-02T03:04:05Z) | c | d | e | f | a | b | g"
	if text := strings.Join(got, " | "); text != want {
		t.Errorf("journal is\n%s\nwant\n%s", text, want)
	}
}

func TestJournalIsBounded(t *testing.T) {
	var j journal
	var old []control.LogLine
	for i := range 150 {
		old = append(old, control.LogLine{Message: fmt.Sprint("old ", 149-i)}) // newest first
	}
	j.restore(old)
	for i := range 100 {
		j.add(time.Unix(int64(i), 0), fmt.Sprint("new ", i))
	}
	lines := j.stored()
	if len(lines) != journalLines || lines[0].Message != "old 50" || !strings.HasSuffix(lines[len(lines)-1].Message, "new 99") {
		t.Errorf("%d lines from %q to %q", len(lines), lines[0].Message, lines[len(lines)-1].Message)
	}
	for i := range 500 {
		j.add(time.Unix(int64(i), 0), fmt.Sprint("newer ", i))
	}
	if lines = j.stored(); len(lines) != journalLines || !strings.HasSuffix(lines[0].Message, "newer 300") {
		t.Errorf("%d lines from %q", len(lines), lines[0].Message)
	}
}

func TestMessageIsBounded(t *testing.T) {
	if got := printable(strings.Repeat("ä", maxMessage)); len(got) > maxMessage+len("...") || !strings.HasSuffix(got, "ä...") {
		t.Errorf("%d octets, ending in %q", len(got), got[len(got)-8:])
	}
}
