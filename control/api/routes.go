package api

import (
	"net/http"
	"strings"
)

// routes finds the handler of a request as http.ServeMux does, for patterns
// that it takes for conflicting: of
//
//	DELETE /v5/{project_id}/p2c-vpn-gateways/jobs/{job_id}
//	DELETE /v5/{project_id}/p2c-vpn-gateways/{p2c_vgw_id}/log-config
//
// neither is the more specific one. Here the id of a client-to-cloud gateway is
// no word that another pattern has in its place.
type routes struct {
	words    http.ServeMux // patterns without such an id
	gateways http.ServeMux // those with it, and the one for what has no pattern
}

const gatewayWildcard = "/{p2c_vgw_id}"

// HandleFunc registers a pattern.
func (rt *routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	if pattern == "/" || strings.Contains(pattern, gatewayWildcard) {
		rt.gateways.HandleFunc(pattern, handler)
		return
	}
	rt.words.HandleFunc(pattern, handler)
}

// Pattern returns the pattern of a request; "/" or nothing when it has none.
func (rt *routes) Pattern(r *http.Request) string {
	_, pattern := rt.of(r).Handler(r)
	return pattern
}

// ServeHTTP has the handler of the request's pattern serve it.
func (rt *routes) ServeHTTP(w http.ResponseWriter, r *http.Request) { rt.of(r).ServeHTTP(w, r) }

func (rt *routes) of(r *http.Request) *http.ServeMux {
	if _, pattern := rt.words.Handler(r); pattern != "" {
		return &rt.words
	}
	return &rt.gateways
}
