// Package api serves the REST API. The document openapi.yaml is its source of
// truth: routes, types, the validation of requests and the permission that
// each operation needs all come from there.
//
//	request ─▶ route ─▶ authenticate ─▶ authorise ─▶ validate ─▶ control.Service
//	            404      401             403          400
//
// Three vocabularies stay apart: the JSON of the document (generated types in
// openapi.gen.go), the domain (package control), and that of the engines, which
// this package does not know. Handlers translate the first into the second and
// back, and decide nothing: rules live in control.
package api

//go:generate go tool -modfile=../../deploy/tools/go.mod oapi-codegen -config oapi-codegen.yaml openapi.yaml
