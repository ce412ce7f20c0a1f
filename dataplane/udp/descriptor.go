//go:build linux

package udp

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// descriptor is an open socket that Go's poller does not know.
type descriptor struct {
	mu   sync.RWMutex // held while the number is in use
	fd   int          // guarded by mu
	open bool         // guarded by mu
}

// Control calls f with the number, which stays open until f returns. f must not call
// Control. Of a closed one it returns os.ErrClosed.
func (d *descriptor) Control(f func(fd uintptr)) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if !d.open {
		return os.ErrClosed
	}
	f(uintptr(d.fd))
	return nil
}

// Close waits until nobody uses the number, so that the address is free when it
// returns.
func (d *descriptor) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open {
		return os.ErrClosed
	}
	d.open = false
	return unix.Close(d.fd)
}
