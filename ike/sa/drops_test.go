package sa

import "testing"

func TestDropReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for reason, name := range dropNames {
		if name == "" || seen[name] {
			t.Errorf("reason %d: %q", reason, name)
		}
		seen[name] = true
	}
	m := Machine{}
	m.drop(dropCookie)
	m.drop(dropCookie)
	if got := m.Drops(); len(got) != 1 || got["cookie refused"] != 2 {
		t.Errorf("got %v", got)
	}
}
