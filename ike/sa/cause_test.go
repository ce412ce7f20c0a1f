package sa

import (
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vpngw/vpngw/ipsec"
)

// constants returns the names of the constants of a type in a file.
func constants(t *testing.T, file, typeName string) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == typeName {
				names = append(names, v.Names[0].Name)
			}
		}
	}
	return names
}

func TestEveryReasonHasACause(t *testing.T) {
	if reasons := constants(t, "event.go", "Reason"); len(reasons) != len(causeOf) {
		t.Errorf("%d reasons, %d of them with a cause", len(reasons), len(causeOf))
	}
	for reason, cause := range causeOf {
		if !slices.Contains(Causes, cause) {
			t.Errorf("the cause %q of %q is none", cause, reason)
		}
	}
	if names := constants(t, "cause.go", "Cause"); len(names) != len(Causes) {
		t.Errorf("Causes has %d, there are %d: %v", len(Causes), len(names), names)
	}
	for i, c := range Causes {
		if slices.Contains(Causes[:i], c) || strings.ToLower(string(c)) != string(c) {
			t.Errorf("cause %q occurs twice or is not in lower case", c)
		}
	}
}

func testFlow(local, remote string) Flow {
	list := func(text string) (list []ipsec.TrafficSelector) {
		for _, p := range strings.Fields(text) {
			list = append(list, ipsec.SelectorFromPrefix(netip.MustParsePrefix(p)))
		}
		return list
	}
	return Flow{list(local), list(remote)}
}

func TestFlowsCause(t *testing.T) {
	for _, test := range []struct {
		name         string
		ours, theirs Flow
		want         Cause
	}{
		{"other remote", testFlow("10.0.0.0/24", "10.1.0.0/24"), testFlow("10.0.0.0/24", "10.9.0.0/24"), CauseSelectors},
		{"nothing in common", testFlow("10.0.0.0/24", "10.1.0.0/24"), testFlow("10.8.0.0/24", "10.9.0.0/24"), CauseSelectors},
		{"exchanged", testFlow("10.0.0.0/24", "10.1.0.0/24"), testFlow("10.1.0.0/24", "10.0.0.0/24"), CauseSwapped},
		{"exchanged in part", testFlow("10.0.0.0/24", "10.1.0.0/24"), testFlow("10.1.0.0/25", "10.0.0.0/16"), CauseSwapped},
		{"the peer owns our network", testFlow("10.0.0.0/24", "10.1.0.0/24"), testFlow("10.7.0.0/24", "10.0.0.0/24"), CauseMirrored},
		{"we own the peer's", testFlow("10.0.0.0/24", "10.1.0.0/24"), testFlow("10.1.0.0/24", "10.7.0.0/24"), CauseMirrored},
		{"any, not equal", testFlow("0.0.0.0/0", "0.0.0.0/0"), testFlow("10.1.0.0/24", "10.0.0.0/24"), CauseSelectors},
	} {
		f := Flows{Ours: []Flow{test.ours}, Theirs: test.theirs}
		if have := f.cause(); have != test.want {
			t.Errorf("%s: %s, want %s", test.name, have, test.want)
		}
	}
}

// What a side reports of proposals that do not agree is enough to work out what
// would.
func TestOffersAccept(t *testing.T) {
	gcm := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESGCM16, 128), ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupECP256),
	}}
	cbc := ipsec.Proposal{Protocol: ipsec.ProtocolIKE, Transforms: []ipsec.Transform{
		ipsec.Encryption(ipsec.EncryptionAESCBC, 256), ipsec.Integrity(ipsec.IntegrityHMACSHA2256128),
		ipsec.PRF(ipsec.PRFHMACSHA2256), ipsec.Group(ipsec.GroupECP256),
	}}
	o := Offers{Of: OfferIKE, Ours: []ipsec.Proposal{gcm}, Theirs: []ipsec.Proposal{cbc}}
	if o.Accepts(gcm) || !o.Accepts(cbc) {
		t.Error("IKEv2: an offer is taken that is not theirs, or theirs is not")
	}
	if amendments, ok := o.PeerAmendments(); !ok || len(amendments) != 1 || amendments[0].Type != ipsec.TransformEncryption {
		t.Errorf("the peer's side: %v, %v", amendments, ok)
	}
	o = Offers{Of: OfferPhase1, Ours: phase1Sets([]ipsec.Proposal{gcm}), Theirs: phase1Sets([]ipsec.Proposal{cbc})}
	if !o.Accepts(cbc) {
		t.Error("IKEv1: the hash stands for the integrity algorithm")
	}
	o = Offers{Of: OfferIKE, Ours: []ipsec.Proposal{gcm}}
	if _, ok := o.PeerAmendments(); ok {
		t.Error("an amendment of what is not known")
	}
	if theirs := withGroup([]ipsec.Proposal{gcm}, ipsec.GroupECP384); !slices.Contains(theirs[0].Transforms, ipsec.Group(ipsec.GroupECP384)) || len(theirs[0].Transforms) != 3 {
		t.Errorf("with another group: %v", theirs)
	}
}

// Who is told a cause finds in the documentation what to do, and nothing there is
// of a cause that does not occur.
func TestEveryCauseIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Causes\n")
	var documented []Cause
	for line := range strings.Lines(section) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "### `"); ok {
			documented = append(documented, Cause(strings.TrimSuffix(name, "`")))
		}
	}
	for _, c := range Causes {
		if !slices.Contains(documented, c) {
			t.Errorf("docs/troubleshooting.md has no entry for the cause %q", c)
		}
	}
	for i, c := range documented {
		if !slices.Contains(Causes, c) || slices.Contains(documented[:i], c) {
			t.Errorf("docs/troubleshooting.md has an entry for %q, which is no cause, or a second one", c)
		}
	}
}
