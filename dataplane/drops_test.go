package dataplane

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// The documentation explains each reason, and no other.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, counted []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (in|out|both) \\| ").FindAllSubmatch(page, -1) {
		documented = append(documented, string(row[1]))
	}
	for r := reason(1); r < reasonCount; r++ {
		counted = append(counted, r.String())
	}
	slices.Sort(documented)
	slices.Sort(counted)
	if !slices.Equal(documented, counted) {
		t.Errorf("documented are\n%v, the data plane counts\n%v", documented, counted)
	}
}
