package netlab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// OpenVPN is a stock OpenVPN client.
type OpenVPN struct {
	n       *Namespace
	name    string
	args    []string
	process *Process
}

// ovpnUp is what the client writes when tunnel, addresses and routes stand.
const ovpnUp = "Initialization Sequence Completed"

// StartOpenVPN starts a client with a profile, and with a user and password
// unless the user is empty. Name is unique in the lab.
func (n *Namespace) StartOpenVPN(name, profile, user, password string) (*OpenVPN, error) {
	dir := filepath.Join(n.lab.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("configure openvpn: %w", err)
	}
	file := filepath.Join(dir, "client.ovpn")
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		return nil, fmt.Errorf("configure openvpn: %w", err)
	}
	c := &OpenVPN{n: n, name: name, args: []string{"openvpn", "--config", file, "--suppress-timestamps"}}
	if user != "" {
		login := filepath.Join(dir, "login")
		if err := os.WriteFile(login, []byte(user+"\n"+password+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("configure openvpn: %w", err)
		}
		c.args = append(c.args, "--auth-user-pass", login)
	}
	var err error
	c.process, err = n.Start(name, nil, c.args...)
	return c, err
}

// WaitUp waits until the client has connected that many times since its start.
func (c *OpenVPN) WaitUp(ctx context.Context, times int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		select {
		case <-c.process.Done():
			return false, fmt.Errorf("it has ended: %w", c.process.Wait(ctx))
		default:
		}
		return strings.Count(c.Log(), ovpnUp) >= times, nil
	})
	if err != nil {
		return fmt.Errorf("%s: not connected %d times: %w\n%s", c.name, times, err, c.Log())
	}
	return nil
}

// WaitLog waits until the client has written a text.
func (c *OpenVPN) WaitLog(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := Poll(ctx, 50*time.Millisecond, func() (bool, error) { return strings.Contains(c.Log(), text), nil })
	if err != nil {
		return fmt.Errorf("%s: did not write %q: %w\n%s", c.name, text, err, c.Log())
	}
	return nil
}

// Stop ends the client, which tells the server.
func (c *OpenVPN) Stop() error { return c.process.Stop() }

// Log returns what the client wrote.
func (c *OpenVPN) Log() string { return c.process.Output() }
