package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 200 {
		times = append(times, time.Duration(200-i))
	}
	if l := summary("x", times); l.P50 != 100 || l.P99 != 198 || l.Max != 200 || l.Calls != 200 {
		t.Errorf("%+v", l)
	}
	if l := summary("x", []time.Duration{7}); l.P50 != 7 || l.P99 != 7 {
		t.Errorf("%+v", l)
	}
}
