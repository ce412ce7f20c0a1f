package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	signatureScheme  = "SDK-HMAC-SHA256"
	headerDate       = "X-Sdk-Date"
	headerBodyHash   = "X-Sdk-Content-Sha256"
	signatureDate    = "20060102T150405Z"
	maxSignedHeaders = 32

	// signatureSkew is how far the date of a signature may be from our clock,
	// to either side.
	signatureSkew = 15 * time.Minute
)

// signature is what the Authorization header of a signed request says.
type signature struct {
	accessKey string
	headers   []string // names in lower case, in the order signed
	mac       [sha256.Size]byte
	date      time.Time
}

// isSigned tells whether a request is authenticated by a signature.
func isSigned(h http.Header) bool {
	return strings.HasPrefix(h.Get("Authorization"), signatureScheme)
}

// parseSignature reads the headers of a signed request and checks what can be
// checked without the secret key.
func parseSignature(h http.Header, now time.Time) (signature, error) {
	var s signature
	fields, ok := strings.CutPrefix(h.Get("Authorization"), signatureScheme+" ")
	if !ok {
		return s, fmt.Errorf("header Authorization is not of the scheme %s", signatureScheme)
	}
	var mac string
	for field := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		switch name {
		case "Access":
			s.accessKey = value
		case "SignedHeaders":
			s.headers = strings.Split(value, ";")
		case "Signature":
			mac = value
		}
	}
	if s.accessKey == "" || len(s.headers) == 0 || mac == "" {
		return s, errors.New("header Authorization lacks one of Access, SignedHeaders and Signature")
	}
	if n, err := hex.Decode(s.mac[:], []byte(mac[:min(len(mac), 2*sha256.Size)])); err != nil || n != sha256.Size || len(mac) != 2*sha256.Size {
		return s, fmt.Errorf("signature is not %d hexadecimal digits", 2*sha256.Size)
	}
	if len(s.headers) > maxSignedHeaders {
		return s, fmt.Errorf("more than %d headers are signed", maxSignedHeaders)
	}
	if !slices.Contains(s.headers, strings.ToLower(headerDate)) {
		return s, fmt.Errorf("header %s is not signed", headerDate)
	}
	var err error
	if s.date, err = time.Parse(signatureDate, h.Get(headerDate)); err != nil {
		return s, fmt.Errorf("header %s is not a date of the form %s", headerDate, signatureDate)
	}
	if skew := now.Sub(s.date).Abs(); skew > signatureSkew {
		return s, fmt.Errorf("header %s is %s away from the server's time, at most %s are allowed",
			headerDate, skew.Round(time.Second), signatureSkew)
	}
	return s, nil
}

// matches tells whether the signature of a request with this body was made
// with the secret key. It takes the same time wherever the signatures differ.
func (s *signature) matches(r *http.Request, body []byte, secretKey string) (bool, error) {
	canonical, err := s.canonicalRequest(r, body)
	if err != nil {
		return false, err
	}
	digest := sha256.Sum256([]byte(canonical))
	mac := hmac.New(sha256.New, []byte(secretKey))
	fmt.Fprintf(mac, "%s\n%s\n%x", signatureScheme, r.Header.Get(headerDate), digest)
	return hmac.Equal(mac.Sum(nil), s.mac[:]), nil
}

// canonicalRequest returns the text whose digest is signed: method, path,
// query, signed headers, their names and the digest of the body.
func (s *signature) canonicalRequest(r *http.Request, body []byte) (string, error) {
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return "", err
	}
	var headers strings.Builder
	for _, name := range s.headers {
		values := r.Header.Values(name)
		if name == "host" {
			values = []string{r.Host}
		}
		if len(values) != 1 {
			return "", fmt.Errorf("signed header %q stands in the request %d times", name, len(values))
		}
		fmt.Fprintf(&headers, "%s:%s\n", name, strings.TrimSpace(values[0]))
	}
	bodyHash := fmt.Sprintf("%x", sha256.Sum256(body))
	if sent := r.Header.Get(headerBodyHash); sent != "" && !strings.EqualFold(sent, bodyHash) {
		return "", fmt.Errorf("header %s is not the digest of the body", headerBodyHash)
	}
	return strings.Join([]string{
		r.Method, canonicalPath(r.URL.Path), query, headers.String(), strings.Join(s.headers, ";"), bodyHash,
	}, "\n"), nil
}

func canonicalPath(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = percentEncode(s)
	}
	return strings.TrimSuffix(strings.Join(segments, "/"), "/") + "/"
}

func canonicalQuery(raw string) (string, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "", errors.New("query is malformed")
	}
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var pairs []string
	for _, key := range keys {
		slices.Sort(values[key])
		for _, value := range values[key] {
			pairs = append(pairs, percentEncode(key)+"="+percentEncode(value))
		}
	}
	return strings.Join(pairs, "&"), nil
}

// percentEncode encodes every octet that is not unreserved (RFC 3986, section
// 2.3).
func percentEncode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
