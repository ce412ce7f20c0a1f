package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vpngw/vpngw/fuzztest"
)

// recorded returns a request as the official SDK signed it with access key AK
// and secret key SK.
func recorded() (*http.Request, []byte) {
	body := []byte(`{"vpn_gateway":{"local_subnets":[]}}` + "\n")
	r := httptest.NewRequest(http.MethodPut, "/v5/proj/vpn-gateways/v1", nil)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Project-Id", "proj")
	r.Header.Set("X-Sdk-Date", "20261123T112118Z")
	r.Header.Set("User-Agent", "huaweicloud-usdk-go/3.0; os/Debian_GNU/Linux#12_(bookworm)#amd64 go/go1.26.8; app/6b65e417-5209-4f1d-9422-f3135ccff71c")
	r.Header.Set("Authorization", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=user-agent;x-project-id;x-sdk-date, "+
		"Signature=ed813ca4dcee1307da6478bb0aa02559d744e4e04a9c6635e61e0f788ba403a9")
	return r, body
}

var recordedTime = time.Date(2026, 11, 23, 11, 21, 18, 0, time.UTC)

// signRequest signs a request the way clients do. The headers named are signed
// beside X-Sdk-Date.
func signRequest(r *http.Request, body []byte, accessKey, secretKey string, now time.Time, names ...string) {
	r.Header.Set(headerDate, now.UTC().Format(signatureDate))
	s := signature{headers: append(names, "x-sdk-date")}
	canonical, err := s.canonicalRequest(r, body)
	if err != nil {
		panic(err)
	}
	mac := hmac.New(sha256.New, []byte(secretKey))
	fmt.Fprintf(mac, "%s\n%s\n%x", signatureScheme, r.Header.Get(headerDate), sha256.Sum256([]byte(canonical)))
	r.Header.Set("Authorization", fmt.Sprintf("%s Access=%s, SignedHeaders=%s, Signature=%x",
		signatureScheme, accessKey, strings.Join(s.headers, ";"), mac.Sum(nil)))
}

func TestSignatureOfTheSDK(t *testing.T) {
	r, body := recorded()
	s, err := parseSignature(r.Header, recordedTime)
	if err != nil {
		t.Fatal(err)
	}
	if s.accessKey != "AK" || !s.date.Equal(recordedTime) {
		t.Errorf("got access key %q and date %v", s.accessKey, s.date)
	}
	if ok, err := s.matches(r, body, "SK"); !ok || err != nil {
		t.Errorf("recorded signature was refused: %v", err)
	}
}

func TestSignatureCoversTheRequest(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(r *http.Request, body *[]byte, secretKey *string)
	}{
		{"method", func(r *http.Request, _ *[]byte, _ *string) { r.Method = http.MethodPost }},
		{"path", func(r *http.Request, _ *[]byte, _ *string) { r.URL.Path = "/v5/proj/vpn-gateways/v2" }},
		{"query", func(r *http.Request, _ *[]byte, _ *string) { r.URL.RawQuery = "limit=1" }},
		{"malformed query", func(r *http.Request, _ *[]byte, _ *string) { r.URL.RawQuery = "a=%zz" }},
		{"body", func(_ *http.Request, body *[]byte, _ *string) { *body = []byte("{}") }},
		{"signed header", func(r *http.Request, _ *[]byte, _ *string) { r.Header.Set("X-Project-Id", "other") }},
		{"signed header twice", func(r *http.Request, _ *[]byte, _ *string) { r.Header.Add("X-Project-Id", "proj") }},
		{"signed header gone", func(r *http.Request, _ *[]byte, _ *string) { r.Header.Del("User-Agent") }},
		{"date", func(r *http.Request, _ *[]byte, _ *string) { r.Header.Set(headerDate, "20261123T112119Z") }},
		{"digest of another body", func(r *http.Request, _ *[]byte, _ *string) { r.Header.Set(headerBodyHash, "UNSIGNED-PAYLOAD") }},
		{"secret key", func(_ *http.Request, _ *[]byte, secretKey *string) { *secretKey = "SL" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, body := recorded()
			secretKey := "SK"
			test.change(r, &body, &secretKey)
			s, err := parseSignature(r.Header, recordedTime)
			if err != nil {
				t.Fatal(err)
			}
			if ok, _ := s.matches(r, body, secretKey); ok {
				t.Error("a signature of another request was accepted")
			}
		})
	}
}

func TestParseSignatureRefuses(t *testing.T) {
	const mac = "ed813ca4dcee1307da6478bb0aa02559d744e4e04a9c6635e61e0f788ba403a9"
	const date = "20261123T112118Z"
	for _, test := range []struct {
		name, authorization, date string
		after                     time.Duration // our clock beyond the recorded date
	}{
		{"other scheme", "SDK-HMAC-SM3 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac, date, 0},
		{"empty", "SDK-HMAC-SHA256 ", date, 0},
		{"no access key", "SDK-HMAC-SHA256 SignedHeaders=x-sdk-date, Signature=" + mac, date, 0},
		{"no signature", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date", date, 0},
		{"short signature", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac[2:], date, 0},
		{"long signature", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac + "00", date, 0},
		{"no hexadecimal", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + strings.Repeat("x", 64), date, 0},
		{"date not signed", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=host, Signature=" + mac, date, 0},
		{"no date", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac, "", 0},
		{"other form of date", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac, "2026-11-23T11:21:18Z", 0},
		{"too old", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac, date, signatureSkew + time.Second},
		{"from the future", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature=" + mac, date, -signatureSkew - time.Second},
		{"too many headers", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date" + strings.Repeat(";a", maxSignedHeaders) + ", Signature=" + mac, date, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			h.Set("Authorization", test.authorization)
			h.Set(headerDate, test.date)
			if _, err := parseSignature(h, recordedTime.Add(test.after)); err == nil {
				t.Error("was accepted")
			}
		})
	}
	h := http.Header{}
	h.Set("Authorization", "SDK-HMAC-SHA256 Access=AK, SignedHeaders=x-sdk-date, Signature="+mac)
	h.Set(headerDate, date)
	for _, skew := range []time.Duration{-signatureSkew, signatureSkew} {
		if _, err := parseSignature(h, recordedTime.Add(skew)); err != nil {
			t.Errorf("skew of %s was refused: %v", skew, err)
		}
	}
}

func TestCanonicalForms(t *testing.T) {
	for path, want := range map[string]string{
		"":           "/",
		"/":          "/",
		"/v5/p":      "/v5/p/",
		"/v5/p/":     "/v5/p/",
		"/a b/~é+/c": "/a%20b/~%C3%A9%2B/c/",
	} {
		if got := canonicalPath(path); got != want {
			t.Errorf("path %q: got %q, want %q", path, got, want)
		}
	}
	for query, want := range map[string]string{
		"":             "",
		"b=2&a=1":      "a=1&b=2",
		"a=2&a=10&a=1": "a=1&a=10&a=2",
		"marker=2026-11-23T11%3A21%3A18.000Z&limit=2": "limit=2&marker=2026-11-23T11%3A21%3A18.000Z",
		"a=x+y&flag": "a=x%20y&flag=",
	} {
		if got, err := canonicalQuery(query); got != want || err != nil {
			t.Errorf("query %q: got %q (%v), want %q", query, got, err, want)
		}
	}
}

func FuzzParseSignature(f *testing.F) {
	target := fuzztest.New(f)
	r, body := recorded()
	target.Add(r.Header.Get("Authorization"), "20261123T112118Z", "/v5/proj/vpn-gateways/v1", "limit=1", body)
	target.Add("SDK-HMAC-SHA256 Access=,SignedHeaders=;,Signature=", "", "", "%", []byte(nil))
	target.Fuzz(func(t *testing.T, authorization, date, path, query string, body []byte) {
		r := &http.Request{Method: http.MethodGet, Header: http.Header{}, URL: r.URL.JoinPath("")}
		r.URL.Path, r.URL.RawQuery = path, query
		r.Header.Set("Authorization", authorization)
		r.Header.Set(headerDate, date)
		s, err := parseSignature(r.Header, recordedTime)
		if err != nil {
			return
		}
		if ok, _ := s.matches(r, body, "another key"); ok {
			t.Error("a signature without the key was accepted")
		}
	})
}
