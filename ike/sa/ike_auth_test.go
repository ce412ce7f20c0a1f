package sa

import "testing"

func TestEstablish(t *testing.T) {
	l := newLab(t, 1)
	l.establish()
	l.settled(1)
	t.Log(l.transcript.String())
}
