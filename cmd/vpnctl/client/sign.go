package client

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	algorithm  = "SDK-HMAC-SHA256"
	dateHeader = "X-Sdk-Date"
	dateFormat = "20060102T150405Z"
)

// sign adds the date and the authorization header of an access key to a
// request whose body is given apart. It signs the host and every header that
// the request has by then.
func sign(r *http.Request, body []byte, accessKey, secretKey string, now time.Time) {
	r.Header.Set(dateHeader, now.UTC().Format(dateFormat))
	names := []string{"host"}
	for name := range r.Header {
		names = append(names, strings.ToLower(name))
	}
	slices.Sort(names)
	r.Header.Set("Authorization", authorization(r, body, names, accessKey, secretKey))
}

// authorization computes the header over the named headers, which are sorted
// and in lower case.
func authorization(r *http.Request, body []byte, names []string, accessKey, secretKey string) string {
	var headers strings.Builder
	for _, name := range names {
		value := r.Header.Get(name)
		if name == "host" {
			if value = r.Host; value == "" {
				value = r.URL.Host
			}
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	signed := strings.Join(names, ";")
	canonical := strings.Join([]string{
		r.Method, canonicalPath(r.URL), canonicalQuery(r.URL), headers.String(), signed, hexHash(body),
	}, "\n")
	toSign := strings.Join([]string{algorithm, r.Header.Get(dateHeader), hexHash([]byte(canonical))}, "\n")
	mac := hmac.New(sha256.New, []byte(secretKey))
	mac.Write([]byte(toSign))
	return fmt.Sprintf("%s Access=%s, SignedHeaders=%s, Signature=%s", algorithm, accessKey, signed, hex.EncodeToString(mac.Sum(nil)))
}

// canonicalPath is the path with each segment escaped and a slash at the end.
func canonicalPath(u *url.URL) string {
	segments := strings.Split(u.Path, "/")
	for i, s := range segments {
		segments[i] = escape(s)
	}
	path := strings.Join(segments, "/")
	if !strings.HasSuffix(path, "/") {
		path += "/"
	}
	return path
}

// canonicalQuery is the query sorted by key, then by value.
func canonicalQuery(u *url.URL) string {
	query := u.Query()
	keys := make([]string, 0, len(query))
	for k := range query {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var pairs []string
	for _, k := range keys {
		slices.Sort(query[k])
		for _, v := range query[k] {
			pairs = append(pairs, escape(k)+"="+escape(v))
		}
	}
	return strings.Join(pairs, "&")
}

// escape leaves only the unreserved characters of RFC 3986 as they are.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
