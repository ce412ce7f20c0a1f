package netlab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Capture is a tcpdump under way.
type Capture struct {
	File    string
	process *Process
}

// Capture begins to record an interface and returns when tcpdump listens.
// Filter is a pcap filter and may be empty.
func (n *Namespace) Capture(ctx context.Context, name, link, filter string) (*Capture, error) {
	c := &Capture{File: filepath.Join(n.lab.Dir, name+".pcap")}
	args := []string{"tcpdump", "-n", "-i", link, "-U", "--immediate-mode", "-s", "0", "-B", "16384", "-Z", "root", "-w", c.File}
	process, err := n.Start(name, nil, append(args, strings.Fields(filter)...)...)
	if err != nil {
		return nil, err
	}
	c.process = process
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = Poll(starting, 20*time.Millisecond, func() (bool, error) {
		select {
		case <-process.Done():
			return false, errors.New("it ended at once")
		default:
			return strings.Contains(process.Errors(), "listening on"), nil
		}
	})
	if err != nil {
		return nil, fmt.Errorf("tcpdump on %s of %s: %w: %s", link, n.Name, err, process.Errors())
	}
	return c, nil
}

// Finish ends the recording; what was seen is in File. A tcpdump that is behind
// would drop at SIGINT what it has not read: it is let come to rest first.
func (c *Capture) Finish(ctx context.Context) error {
	resting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := Poll(resting, 10*time.Millisecond, func() (bool, error) { return c.process.sleeps(), nil })
	if err != nil {
		return fmt.Errorf("tcpdump does not come to rest: %w", err)
	}
	if err := c.process.Signal(unix.SIGINT); err != nil {
		return err
	}
	return c.process.Wait(ctx)
}

// Fields runs tshark over the recording and returns the fields of each packet
// that the display filter lets through. KeyDir, which may be empty, holds
// Wireshark's tables of keys; ESP is then decrypted and its ICVs are checked.
func (c *Capture) Fields(ctx context.Context, keyDir, filter string, fields ...string) ([][]string, error) {
	args := []string{"env", "WIRESHARK_CONFIG_DIR=" + keyDir, "tshark", "-n", "-r", c.File, "-Y", filter, "-T", "fields", "-E", "occurrence=a"}
	if keyDir != "" {
		args = append(args, "-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE")
	}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	out, err := run(ctx, "", args...)
	if err != nil {
		return nil, err
	}
	var rows [][]string
	for line := range strings.Lines(out) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, nil
}
