//go:build e2e && uml

package interop

import (
	"context"
	"testing"
	"time"

	"github.com/vpngw/vpngw/deploy/netlab"
)

// limit of a run in a guest, which has one slow processor.
const umlPatience = 10 * time.Minute

// The peer is strongSwan with the ESP of the kernel. Only a guest whose kernel
// has that can run it.
func TestUMLStrongSwan(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), umlPatience)
	defer cancel()
	one(ctx, t, swanKernel, cells(), &strongSwan{vti: true}, "strongSwan "+strongSwanVersion(ctx, t))
}

// The peer is libreswan, whose ESP is the kernel's.
func TestUMLLibreswan(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), umlPatience)
	defer cancel()
	version, err := netlab.LibreswanVersion(ctx)
	if err != nil {
		t.Fatal(err)
	}
	one(ctx, t, lswKernel, cells(libreswanLimits...), &libreswan{}, "libreswan "+version)
}
