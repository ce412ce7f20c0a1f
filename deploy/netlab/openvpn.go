package netlab

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// OpenVPN is a stock OpenVPN client.
type OpenVPN struct {
	name    string
	up      string // what it writes when tunnel, addresses and routes stand
	process *Process
}

// StartOpenVPN starts a client with a profile, and with a user and password
// unless the user is empty. Name is unique in the lab.
func (n *Namespace) StartOpenVPN(name, profile, user, password string) (*OpenVPN, error) {
	return n.startOpenVPN([]string{"openvpn"}, name, profile, user, password)
}

// StartNewerOpenVPN is StartOpenVPN for a client of OpenVPN 2.7, which installs the
// server's DNS servers by itself, where this client alone sees them.
func (n *Namespace) StartNewerOpenVPN(name, profile, user, password string) (*OpenVPN, error) {
	return n.startOpenVPN(NewerDebian("openvpn"), name, profile, user, password)
}

// openresolv is where the package of that name is unpacked, so that it does not
// take the host's own /etc/resolv.conf over.
const openresolv = "/var/cache/vpngw-openresolv"

// resolving makes a file system that has openresolv installed, and where /etc can
// be written to without a trace on the host. Whatever is to run there follows.
const resolving = `set -e
mount -t overlay -o lowerdir=$0/sbin:/usr/sbin none /usr/sbin
mount -t overlay -o lowerdir=$0/lib:/usr/lib none /usr/lib
mount -t tmpfs none /run
mkdir /run/etc /run/work
mount -t overlay -o lowerdir=$0/etc:/etc,upperdir=/run/etc,workdir=/run/work none /etc
exec "$@"`

// StartOpenVPNResolving is StartOpenVPN as a user starts it who wants the server's
// DNS servers installed: with the script of Debian's package for that, on a host with
// openresolv. The host's own files stay as they are.
func (n *Namespace) StartOpenVPNResolving(name, profile, user, password string) (*OpenVPN, error) {
	const script = "/etc/openvpn/update-resolv-conf"
	return n.startOpenVPN([]string{"unshare", "--mount", "sh", "-c", resolving, openresolv, "openvpn"}, name, profile, user, password,
		"--script-security", "2", "--up", script, "--down", script)
}

// Etc opens /etc as the client sees it, which stays to be read when the client has
// ended.
func (c *OpenVPN) Etc() (*os.Root, error) {
	return os.OpenRoot(filepath.Join("/proc", fmt.Sprint(c.process.PID), "root", "etc"))
}

// Run runs a command where the client runs, with its files and its network.
func (c *OpenVPN) Run(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "", append([]string{"nsenter", "-t", fmt.Sprint(c.process.PID), "--mount", "--net"}, args...)...)
}

// OpenVPNLogin is what a person answers a client.
type OpenVPNLogin struct{ User, Password, Code string }

// StartOpenVPNAsking starts a client that asks for its login as it does in
// graphical programs, over its management interface, and gives it the answers,
// one each time that it asks. The context ends that.
func (n *Namespace) StartOpenVPNAsking(ctx context.Context, name, profile string, answers ...OpenVPNLogin) (*OpenVPN, error) {
	socket := filepath.Join(n.lab.Dir, name+".management")
	c, err := n.startOpenVPN([]string{"openvpn"}, name, profile, "", "", "--management", socket, "unix", "--management-query-passwords", "--auth-retry", "interact")
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = Poll(ready, 20*time.Millisecond, func() (bool, error) {
		conn, err = (&net.Dialer{}).DialContext(ready, "unix", socket)
		return err == nil, nil
	})
	if err != nil {
		return c, fmt.Errorf("%s: no management interface: %w\n%s", name, err, c.Log())
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	go answer(conn, answers)
	return c, nil
}

// answer gives a client what it asks for, until it is gone.
func answer(conn net.Conn, answers []OpenVPNLogin) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), ">PASSWORD:Need 'Auth' username/password") || len(answers) == 0 {
			continue
		}
		a := answers[0]
		answers = answers[1:]
		if strings.Contains(lines.Text(), " SC:1,") { // a static challenge, to be echoed
			a.Password = "SCRV1:" + encode(a.Password) + ":" + encode(a.Code)
		}
		if _, err := fmt.Fprintf(conn, "username \"Auth\" %s\npassword \"Auth\" \"%s\"\n", a.User, a.Password); err != nil {
			return
		}
	}
}

// startOpenVPN starts a client by a command, with options beside the usual ones.
func (n *Namespace) startOpenVPN(command []string, name, profile, user, password string, options ...string) (*OpenVPN, error) {
	file, err := n.openVPNFile(name, "client.ovpn", profile)
	if err != nil {
		return nil, err
	}
	args := slices.Concat(command, []string{"--config", file, "--suppress-timestamps"}, options)
	if user != "" {
		login, err := n.openVPNFile(name, "login", user+"\n"+password+"\n")
		if err != nil {
			return nil, err
		}
		args = append(args, "--auth-user-pass", login)
	}
	c := &OpenVPN{name: name, up: "Initialization Sequence Completed"}
	c.process, err = n.Start(name, nil, args...)
	return c, err
}

// openVPNFile writes a file of a client and returns its path.
func (n *Namespace) openVPNFile(client, name, content string) (string, error) {
	file := filepath.Join(n.lab.Dir, client, name)
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(content), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("configure openvpn: %w", err)
	}
	return file, nil
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
		return strings.Count(c.Log(), c.up) >= times, nil
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
