//go:build e2e && uml

package interop

import "testing"

// The peer is strongSwan with the ESP of the kernel. Only a guest whose kernel
// has that can run it (uml.sh interop).
func TestUMLStrongSwan(t *testing.T) {
	one(t, "strongSwan with ESP in the kernel", cells(), &strongSwan{vti: true})
}

// The peer is libreswan, whose ESP is the kernel's.
func TestUMLLibreswan(t *testing.T) {
	one(t, "libreswan", cells(libreswanLimits...), &libreswan{})
}
