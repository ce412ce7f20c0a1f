package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// StrongSwan is a charon-systemd of the Debian packages with a configuration,
// a VICI socket and a log of its own.
//
// Where the kernel has no ESP, charon carries it in userspace (libipsec). That
// one (5.9.8) always encapsulates in UDP, installs no trap policies and takes
// no traffic selector that is just the peer's own address.
type StrongSwan struct {
	Name string
	// KernelESP says that the kernel carries ESP, and not libipsec.
	KernelESP bool

	newer     bool // strongSwan 6 of NewerDebian, and not the host's
	namespace *Namespace
	dir       string
	process   *Process
}

// charonPlugins are those that PSK, certificates and EAP with the usual
// algorithms need; the kernel interface comes on top.
const charonPlugins = "random nonce drbg openssl aesni aes rc2 sha1 sha2 md5 hmac kdf xcbc cmac gcm ccm ctr " +
	"chapoly curve25519 gmp mgf1 x509 revocation constraints pubkey pkcs1 pkcs7 pkcs8 pkcs12 pem " +
	"socket-default vici updown xauth-generic eap-identity eap-mschapv2 eap-md5 counters"

// swanctlDirs are the directories that swanctl reads credentials from.
var swanctlDirs = []string{
	"x509", "x509ca", "x509ocsp", "x509aa", "x509ac", "x509crl", "pubkey",
	"private", "rsa", "ecdsa", "bliss", "pkcs8", "pkcs12",
}

// StartStrongSwan starts a charon in the namespace and loads the swanctl
// configuration. Settings are those of charon, dotted ("retransmit_tries"), and
// go above the defaults, which are: routes are installed, log level 1.
func (n *Namespace) StartStrongSwan(ctx context.Context, name, config string, settings map[string]string) (*StrongSwan, error) {
	return n.startStrongSwan(ctx, &StrongSwan{Name: name}, config, settings)
}

// StartNewerStrongSwan is StartStrongSwan with the strongSwan 6 of NewerDebian, which
// has additional key exchanges (RFC 9370).
func (n *Namespace) StartNewerStrongSwan(ctx context.Context, name, config string, settings map[string]string) (*StrongSwan, error) {
	return n.startStrongSwan(ctx, &StrongSwan{Name: name, newer: true}, config, settings)
}

func (n *Namespace) startStrongSwan(ctx context.Context, s *StrongSwan, config string, settings map[string]string) (*StrongSwan, error) {
	name := s.Name
	s.KernelESP, s.namespace, s.dir = kernelHasESP(ctx, n), n, filepath.Join(n.lab.Dir, name)
	for _, d := range swanctlDirs {
		if err := os.MkdirAll(filepath.Join(s.dir, "swanctl", d), 0o700); err != nil {
			return nil, fmt.Errorf("configure %s: %w", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.dir, "strongswan.conf"), []byte(s.settings(settings)), 0o600); err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	return s, s.Start(ctx, config)
}

// Start starts a charon that was stopped or killed.
func (s *StrongSwan) Start(ctx context.Context, config string) error {
	// A socket that a killed daemon left would look like a ready one.
	if err := os.Remove(s.Socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	process, err := s.namespace.Start(s.Name, s.Environment(), s.command("charon-systemd")...)
	if err != nil {
		return err
	}
	s.process = process
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = Poll(ready, 50*time.Millisecond, func() (bool, error) {
		select {
		case <-process.Done():
			return false, errors.New("it ended at once")
		default:
		}
		if _, err := os.Stat(s.Socket()); err != nil {
			return false, nil
		}
		_, err := s.Control(ready, "--stats")
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s%s", s.Name, err, process.Errors(), s.Log())
	}
	return s.Load(ctx, config)
}

// Load replaces the connections and secrets. SAs that stand stay.
func (s *StrongSwan) Load(ctx context.Context, config string) error {
	if err := os.WriteFile(filepath.Join(s.dir, "swanctl", "swanctl.conf"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("configure %s: %w", s.Name, err)
	}
	_, err := s.Control(ctx, "--load-all", "--noprompt", "--clear")
	return err
}

// Control runs swanctl against this charon.
func (s *StrongSwan) Control(ctx context.Context, args ...string) (string, error) {
	command := append([]string{"env"}, s.Environment()...)
	command = append(command, s.command("swanctl", args[0], "--uri", "unix://"+s.Socket())...)
	return run(ctx, "", append(command, args[1:]...)...)
}

// command makes of a command one that runs the programs of this strongSwan.
func (s *StrongSwan) command(args ...string) []string {
	if s.newer {
		return NewerDebian(args...)
	}
	return args
}

// Version returns what strongSwan says its version is, such as "5.9.8".
func (s *StrongSwan) Version(ctx context.Context) (string, error) {
	out, err := s.Control(ctx, "--version", "--daemon")
	if err != nil {
		return "", err
	}
	version := regexp.MustCompile(`\d+\.\d+\.\d+`).FindString(out)
	if version == "" {
		return "", fmt.Errorf("%s calls its version %q", s.Name, out)
	}
	return version, nil
}

// Initiate brings a child up and waits for it. The error carries charon's own
// account of the negotiation.
func (s *StrongSwan) Initiate(ctx context.Context, child string, patience time.Duration) error {
	_, err := s.Control(ctx, "--initiate", "--child", child, "--timeout", fmt.Sprint(int(patience.Seconds())))
	return err
}

// RekeyIKE and RekeyChild rekey one SA by name.
func (s *StrongSwan) RekeyIKE(ctx context.Context, name string) error {
	_, err := s.Control(ctx, "--rekey", "--ike", name)
	return err
}

// Reauthenticate has the IKE SA replaced by another one. It is made before the old one
// is deleted where the settings have make_before_break.
func (s *StrongSwan) Reauthenticate(ctx context.Context, name string) error {
	_, err := s.Control(ctx, "--rekey", "--reauth", "--ike", name)
	return err
}

// RekeyChild rekeys the CHILD_SAs of that name.
func (s *StrongSwan) RekeyChild(ctx context.Context, name string) error {
	_, err := s.Control(ctx, "--rekey", "--child", name)
	return err
}

// TerminateIKE ends an IKE SA with a DELETE.
func (s *StrongSwan) TerminateIKE(ctx context.Context, name string) error {
	_, err := s.Control(ctx, "--terminate", "--ike", name, "--timeout", "5")
	return err
}

// TerminateChild ends the CHILD_SAs of that name with a DELETE.
func (s *StrongSwan) TerminateChild(ctx context.Context, name string) error {
	_, err := s.Control(ctx, "--terminate", "--child", name, "--timeout", "5")
	return err
}

// WaitChild waits until count CHILD_SAs of that name are installed.
func (s *StrongSwan) WaitChild(ctx context.Context, name string, count int) error {
	var have int
	err := Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		sas, err := s.SAs(ctx)
		if err != nil {
			return false, err
		}
		have = 0
		for _, ike := range sas {
			for _, child := range ike.Children {
				if child.Name == name && child.State == "INSTALLED" {
					have++
				}
			}
		}
		return have == count, nil
	})
	if err != nil {
		return fmt.Errorf("%s: child %s is installed %d times, want %d: %w", s.Name, name, have, count, err)
	}
	return nil
}

// Stop ends charon with SIGTERM, so that it sends DELETEs.
func (s *StrongSwan) Stop() error { return s.process.Stop() }

// Kill ends charon as a crash would, without a DELETE.
func (s *StrongSwan) Kill() error { return s.process.Kill() }

// Freeze stops charon from running without ending it; Thaw lets it go on.
func (s *StrongSwan) Freeze() error { return s.process.Signal(unix.SIGSTOP) }

// Thaw lets a frozen charon go on.
func (s *StrongSwan) Thaw() error { return s.process.Signal(unix.SIGCONT) }

// Log returns charon's log.
func (s *StrongSwan) Log() string { return contents(filepath.Join(s.dir, "log")) }

// PID returns charon's process id.
func (s *StrongSwan) PID() int { return s.process.PID }

// Socket returns the file name of charon's VICI socket.
func (s *StrongSwan) Socket() string { return filepath.Join(s.dir, "vici") }

// Environment are the variables that swanctl takes to find this charon.
func (s *StrongSwan) Environment() []string {
	return []string{
		"STRONGSWAN_CONF=" + filepath.Join(s.dir, "strongswan.conf"),
		"SWANCTL_DIR=" + filepath.Join(s.dir, "swanctl"),
	}
}

func (s *StrongSwan) settings(extra map[string]string) string {
	kernel := "kernel-netlink"
	if !s.KernelESP {
		// libipsec replaces only the ESP part and has to come first.
		kernel = "kernel-libipsec kernel-netlink"
	}
	settings := map[string]string{
		"load":                     charonPlugins + " " + kernel,
		"install_routes":           "yes",
		"plugins.vici.socket":      "unix://" + s.Socket(),
		"filelog.main.path":        filepath.Join(s.dir, "log"),
		"filelog.main.time_format": "%H:%M:%S",
		"filelog.main.time_add_ms": "yes",
		"filelog.main.ike_name":    "yes",
		"filelog.main.append":      "yes",
		"filelog.main.flush_line":  "yes",
		"filelog.main.default":     "1",
		"journal.default":          "-1",
		"retransmit_tries":         "3",
		"retransmit_timeout":       "2.0",
	}
	for k, v := range extra {
		settings[k] = v
	}
	keys := make([]string, 0, len(settings))
	for k := range settings {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	b.WriteString("charon-systemd {\n")
	for _, k := range keys {
		sections := strings.Split(k, ".")
		last := len(sections) - 1
		fmt.Fprintf(&b, "  %s%s = %q%s\n", strings.Join(sections[:last], " { ")+strings.Repeat(" { ", min(1, last)),
			sections[last], settings[k], strings.Repeat(" }", last))
	}
	fmt.Fprintf(&b, "}\nswanctl {\n  socket = \"unix://%s\"\n  load = random nonce x509 pubkey pkcs1 pkcs7 pkcs8 pkcs12 pem openssl gmp sha1 sha2 hmac aes\n}\n", s.Socket())
	return b.String()
}

// kernelHasESP tries to install an ESP state in the namespace.
func kernelHasESP(ctx context.Context, n *Namespace) bool {
	const state = "src 127.0.0.1 dst 127.0.0.2 proto esp spi 0x1000"
	err := n.IP(ctx, "xfrm state add "+state+" mode tunnel aead rfc4106(gcm(aes)) 0x0001020304050607080910111213141516171819 128")
	if err != nil {
		return false
	}
	return n.IP(ctx, "xfrm state delete "+state) == nil
}
