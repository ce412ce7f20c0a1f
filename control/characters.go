package control

import (
	"strings"
	"unicode/utf8"
)

// passwordSpecials are the characters that the API calls special, without the
// space.
const passwordSpecials = "~!@#$%^&*()-_=+\\|[{}];:'\",<.>/?`"

// characterSet is what a text may hold besides Latin letters and digits.
type characterSet struct {
	chinese  bool
	specials string
	words    string // names the set
}

var (
	userNameCharacters        = characterSet{false, "._-", "letters, digits, '.', '_' and '-'"}
	userDescriptionCharacters = characterSet{true, "_-", "letters, digits, Chinese characters, '_' and '-'"}
	groupNameCharacters       = characterSet{true, "_-", "letters, digits, Chinese characters, '_' and '-'"}
	descriptionCharacters     = characterSet{true, passwordSpecials + " ", "letters, digits, Chinese characters, spaces and " + passwordSpecials}
)

// characters reads a text of a length in characters, ends included, and of a
// set of characters.
func (p *parser) characters(field string, v, to *string, shortest, longest int, set characterSet) {
	if v == nil {
		return
	}
	if n := utf8.RuneCountInString(*v); n < shortest || n > longest {
		p.fail(field, "must have %d to %d characters", shortest, longest)
		return
	}
	for _, r := range *v {
		if !isASCIIAlnum(r) && (!set.chinese || r < '\u4e00' || r > '\u9fa5') && !strings.ContainsRune(set.specials, r) {
			p.fail(field, "may hold %s only", set.words)
			return
		}
	}
	*to = *v
}
