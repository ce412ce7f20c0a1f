package ike

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const rules = 35

// The page of rules names each of them once, in order, with files and tests that
// exist.
func TestRulesNameTestsThatExist(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "ike-rules.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	next := 1
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 {
			continue
		}
		number, err := strconv.Atoi(strings.TrimSpace(cells[1]))
		if err != nil {
			continue // a heading
		}
		if number != next {
			t.Errorf("rule %d follows rule %d", number, next-1)
		}
		next = number + 1
		files, tests := quoted.FindAllStringSubmatch(cells[3], -1), quoted.FindAllStringSubmatch(cells[4], -1)
		if len(files) == 0 || len(tests) == 0 {
			t.Errorf("rule %d has %d files and %d tests", number, len(files), len(tests))
		}
		for _, f := range files {
			if _, err := os.Stat(filepath.Join("..", f[1])); err != nil {
				t.Errorf("rule %d: %v", number, err)
			}
		}
		for _, f := range tests {
			dir, name, ok := strings.Cut(f[1], ".")
			if !ok || !hasTest(t, dir, name) {
				t.Errorf("rule %d: there is no test %s", number, f[1])
			}
		}
	}
	if next != rules+1 {
		t.Errorf("the last rule is %d, want %d", next-1, rules)
	}
}

// hasTest reports whether a package has a test or fuzz target of that name.
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return true
		}
	}
	return false
}
