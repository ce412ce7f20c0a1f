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
	one(ctx, t, swanKernel, cells(), &strongSwan{vti: true})
}

// The peer is libreswan, whose ESP is the kernel's.
func TestUMLLibreswan(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), umlPatience)
	defer cancel()
	one(ctx, t, lswKernel, cells(libreswanLimits...), &libreswan{})
}

// ESP is the kernel's at both ends: every algorithm of it, raw and in UDP, with
// selectors of subnets and with devices. strongSwan and libreswan take turns.
func TestUMLKernelAtBothEnds(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), umlPatience)
	defer cancel()
	array := cells(kernelLimits...)
	w := newWorld(ctx, t, netlab.DaemonOptions{CustomerGateways: len(array), RawESP: true, Kernel: true})
	m := &matrix{world: w, rawESP: true}
	w.translate(array)
	var turns [2][]cell
	for i, c := range array {
		turns[i%2] = append(turns[i%2], c)
	}
	m.add(w.connect("router1", turns[0]), &strongSwan{vti: true})
	m.add(w.connect("router2", turns[1]), &libreswan{})
	m.run(array)
	m.write(bothKernels, array, m.report(bothKernels, array, "Odd cells: "+m.version(0)+", even cells: "+m.version(1)+", Linux "+kernelVersion(t)))
}
