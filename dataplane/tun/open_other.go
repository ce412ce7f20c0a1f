//go:build !linux

package tun

import (
	"errors"
	"fmt"
)

// Open makes a TUN interface with offloads, which Linux alone has: elsewhere the
// error wraps errors.ErrUnsupported.
func Open(name string, _, _ int) (Device, error) {
	return nil, fmt.Errorf("tun %s: offloads of a TUN interface: %w", name, errors.ErrUnsupported)
}
