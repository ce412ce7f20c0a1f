// Package fuzztest runs the project's fuzz targets in a second way. Go's own
// fuzzing follows the coverage and pays for it with some thousands of executions
// a second; the inputs that it finds are saved below testdata/fuzz. Under
// VPNGW_MUTATIONS=N a target is executed N times in its own process, with
// mutations of its seeds and of what was saved: no guide, but millions of
// executions in minutes.
//
//	func FuzzThing(f *testing.F) {
//		target := fuzztest.New(f)
//		target.Add([]byte{1, 2})
//		target.Fuzz(func(t *testing.T, b []byte) { … })
//	}
package fuzztest

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The environment: how often a target is executed, and from where the mutations
// begin (the time, unless told; it is printed so that a run can be repeated).
const (
	mutationsVar = "VPNGW_MUTATIONS"
	seedVar      = "VPNGW_MUTATION_SEED"
)

// Target is a fuzz target.
type Target struct {
	f     *testing.F
	seeds [][]any
}

// New returns the target that f runs.
func New(f *testing.F) *Target {
	f.Helper()
	return &Target{f: f}
}

// Add adds a seed, as [testing.F.Add] does.
func (x *Target) Add(args ...any) {
	x.f.Helper()
	x.f.Add(args...)
	x.seeds = append(x.seeds, args)
}

// Fuzz runs the target as [testing.F.Fuzz] does, and with VPNGW_MUTATIONS=N as
// many times with mutations, shared evenly among the seeds and what was saved.
// The target must not keep anything in its testing.T, such as a cleanup: one T
// serves all mutations of a seed.
func (x *Target) Fuzz(target any) {
	x.f.Helper()
	total, err := strconv.Atoi(os.Getenv(mutationsVar))
	if os.Getenv(mutationsVar) == "" {
		x.f.Fuzz(target)
		return
	}
	if err != nil || total < 1 {
		x.f.Fatalf("%s must be a positive number, not %q", mutationsVar, os.Getenv(mutationsVar))
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVar); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			x.f.Fatalf("%s: %v", seedVar, err)
		}
	}
	saved, err := os.ReadDir(filepath.Join("testdata", "fuzz", x.f.Name()))
	if err != nil && !os.IsNotExist(err) {
		x.f.Fatal(err)
	}
	origins := len(saved) + len(x.seeds)
	if origins == 0 {
		x.f.Fatal("no seed to mutate")
	}
	each := (total + origins - 1) / origins
	m := &mutator{rand: rand.New(rand.NewPCG(seed, 0)), pool: x.seeds}
	began, done := time.Now(), 0
	call := reflect.ValueOf(target)
	x.f.Fuzz(reflect.MakeFunc(call.Type(), func(args []reflect.Value) []reflect.Value {
		t, origin := args[0].Interface().(*testing.T), values(args[1:])
		for range each {
			mutant := m.mutate(origin)
			execute(t, x.f.Name(), call, args[0], mutant)
			done++
			if t.Failed() {
				t.Fatalf("the input is in %s", save(x.f.Name(), mutant))
			}
		}
		m.pool = append(m.pool, origin)
		return nil
	}).Interface())
	x.f.Cleanup(func() {
		spent := time.Since(began)
		fmt.Printf("%s: %d executions in %s, %.0f a second, %s=%d\n",
			x.f.Name(), done, spent.Round(time.Second), float64(done)/spent.Seconds(), seedVar, seed)
	})
}

// execute calls the target; a panic goes on when its input has been saved.
func execute(t *testing.T, name string, call, self reflect.Value, mutant []any) {
	args := []reflect.Value{self}
	for _, v := range mutant {
		args = append(args, reflect.ValueOf(v))
	}
	ended := false
	defer func() {
		if !ended {
			t.Logf("the input is in %s", save(name, mutant))
		}
	}()
	call.Call(args)
	ended = true
}

func values(args []reflect.Value) []any {
	out := make([]any, 0, len(args))
	for _, a := range args {
		out = append(out, a.Interface())
	}
	return out
}

// save writes an input as Go's fuzzing does, so that every later test runs it.
func save(name string, args []any) string {
	var b strings.Builder
	b.WriteString("go test fuzz v1\n")
	for _, a := range args {
		switch a := a.(type) {
		case []byte:
			fmt.Fprintf(&b, "[]byte(%q)\n", a)
		case string:
			fmt.Fprintf(&b, "string(%q)\n", a)
		case uint8:
			fmt.Fprintf(&b, "byte(%q)\n", a)
		default:
			fmt.Fprintf(&b, "%T(%v)\n", a, a)
		}
	}
	dir := filepath.Join("testdata", "fuzz", name)
	path := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(b.String())))[:16])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err.Error()
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return err.Error()
	}
	return path
}
