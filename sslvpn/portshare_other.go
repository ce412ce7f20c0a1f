//go:build !linux

package sslvpn

import (
	"errors"
	"fmt"
	"net"
)

// isForeign needs a look at octets that stay to be read.
func isForeign(*net.TCPConn) (bool, error) {
	return false, fmt.Errorf("port sharing: %w", errors.ErrUnsupported)
}
