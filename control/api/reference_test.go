package api

import (
	"bytes"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The page has every operation with its path, permission and members, and loads
// nothing from anywhere.
func TestReferencePage(t *testing.T) {
	b := newBench(t)
	r, _ := request(t, http.MethodGet, "/docs", nil)
	w := &recorderOf{header: http.Header{}}
	b.server.Handler().ServeHTTP(w, r)
	if got := w.header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("content type is %q: %s", got, w.body.String())
	}
	if got := w.header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") {
		t.Errorf("content security policy is %q", got)
	}
	page := w.body.String()
	operations, err := document()
	check(t, err)
	for _, op := range operations {
		at := strings.Index(page, `<details id="`+op.id+`">`)
		if at < 0 {
			t.Errorf("%s is not on the page", op.id)
			continue
		}
		text, _, _ := strings.Cut(page[at:], "</details>")
		for _, want := range []string{">" + op.route.Method + "<", "<code>" + op.route.Path + "</code>", op.permission} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", op.id, want)
			}
		}
		for _, p := range op.route.Operation.Parameters {
			if !strings.Contains(text, "<code>"+p.Value.Name+" (") {
				t.Errorf("%s lacks the parameter %s", op.id, p.Value.Name)
			}
		}
	}
	for _, want := range []string{"<code>vpn_connection</code>", "from 60 to 604800", "group1, group2", "1 to 64 characters"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if found := regexp.MustCompile(`(?i)<script|<link|<img|<iframe|@import|url\(|src=|href="(https?:)?//`).FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	unclosed := bytes.Count(w.body.Bytes(), []byte("<table>")) - bytes.Count(w.body.Bytes(), []byte("</table>"))
	if unclosed != 0 {
		t.Errorf("%d tables are not closed", unclosed)
	}
}
