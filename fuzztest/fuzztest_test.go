package fuzztest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// brokenVar lets FuzzBroken be what its name says.
const brokenVar = "VPNGW_FUZZTEST_BROKEN"

// FuzzBroken fails, or panics, for one value of one octet, when it is told to.
func FuzzBroken(f *testing.F) {
	target := New(f)
	target.Add([]byte("abcd"), uint16(7), "text", byte('x'), false)
	how := os.Getenv(brokenVar)
	target.Fuzz(func(t *testing.T, b []byte, n uint16, text string, c byte, yes bool) {
		if len(b) == 4 && b[2] == 'C' && how == "fail" {
			t.Error("a capital")
		}
		if n == 65535 && how == "panic" {
			panic("an edge")
		}
	})
}

func TestMutationsFindAndSave(t *testing.T) {
	for how, want := range map[string]string{"fail": "a capital", "panic": "an edge"} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			run := func(mutations string) (string, error) {
				c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^FuzzBroken$", "-test.v")
				c.Dir = dir
				c.Env = append(os.Environ(), brokenVar+"="+how, mutationsVar+"="+mutations, seedVar+"=1")
				out, err := c.CombinedOutput()
				return string(out), err
			}
			out, err := run("200000")
			saved, _ := filepath.Glob(filepath.Join(dir, "testdata/fuzz/FuzzBroken/*"))
			if err == nil || !strings.Contains(out, want) || len(saved) != 1 || !strings.Contains(out, filepath.Base(saved[0])) {
				t.Fatalf("%v, saved %v:\n%s", err, saved, out)
			}
			// Go's own way reads what was saved and fails by it.
			if out, err = run(""); err == nil || !strings.Contains(out, want) || !strings.Contains(out, "FuzzBroken/"+filepath.Base(saved[0])) {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}

func TestMutationsAreRepeatable(t *testing.T) {
	seed := []any{[]byte("0123456789abcdef"), "text", uint8(1), uint32(9), int(-4), true}
	run := func() (out []any) {
		m := &mutator{rand: rand.New(rand.NewPCG(5, 0)), pool: [][]any{seed}}
		for range 1000 {
			out = append(out, m.mutate(seed))
		}
		return out
	}
	first := run()
	if !reflect.DeepEqual(first, run()) {
		t.Error("the same seed made other inputs")
	}
	if !bytes.Equal(seed[0].([]byte), []byte("0123456789abcdef")) {
		t.Errorf("the seed was changed: %q", seed[0])
	}
	changed := make([]int, len(seed))
	for _, mutant := range first {
		for i, v := range mutant.([]any) {
			if !reflect.DeepEqual(v, seed[i]) {
				changed[i]++
			}
		}
	}
	for i, n := range changed {
		if n < 100 {
			t.Errorf("argument %d was changed in %d of 1000", i, n)
		}
	}
}
