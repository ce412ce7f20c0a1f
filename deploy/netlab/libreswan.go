package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// libreswanRoot is where deploy/deps.sh unpacks the Debian package of libreswan,
// which cannot be installed beside strongSwan's.
const libreswanRoot = "/var/cache/vpngw-libreswan"

// Libreswan is a pluto of the Debian package with a configuration, a control
// socket and a log of its own. It carries ESP in the kernel only.
type Libreswan struct {
	Name string

	namespace *Namespace
	dir       string
	process   *Process
}

// StartLibreswan starts a pluto in the namespace and loads the named connections
// of the ipsec.conf, in which they say auto=ignore. The keys are those of an
// ipsec.secrets.
func (n *Namespace) StartLibreswan(ctx context.Context, name, config, secrets string, connections ...string) (*Libreswan, error) {
	l := &Libreswan{Name: name, namespace: n, dir: filepath.Join(n.lab.Dir, name)}
	for _, d := range []string{"run", "nss", "ipsec.d/policies"} {
		if err := os.MkdirAll(filepath.Join(l.dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("configure %s: %w", name, err)
		}
	}
	for file, text := range map[string]string{l.config(): config, filepath.Join(l.dir, "ipsec.secrets"): secrets} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("configure %s: %w", name, err)
		}
	}
	if _, err := run(ctx, "", "certutil", "-N", "-d", "sql:"+filepath.Join(l.dir, "nss"), "--empty-password"); err != nil {
		return nil, fmt.Errorf("configure %s: %w", name, err)
	}
	return l, l.start(ctx, connections)
}

func (l *Libreswan) start(ctx context.Context, connections []string) error {
	environment := []string{
		"IPSEC_CONF=" + l.config(), "IPSEC_RUNDIR=" + l.runDir(),
		"IPSEC_NSSDIR=" + filepath.Join(l.dir, "nss"), "IPSEC_CONFDDIR=" + filepath.Join(l.dir, "ipsec.d"),
	}
	// Pluto looks for its helpers where the package would have installed them. The
	// mount is this process's own: so is what it sees of the file system.
	process, err := l.namespace.Start(l.Name, environment,
		"sh", "-c", `mount --bind "$0" /usr/libexec && exec "$@"`, filepath.Dir(libreswanProgram("")), libreswanProgram("pluto"), "--nofork",
		"--config", l.config(), "--rundir", l.runDir(), "--secretsfile", filepath.Join(l.dir, "ipsec.secrets"),
		"--ipsecdir", filepath.Join(l.dir, "ipsec.d"), "--nssdir", filepath.Join(l.dir, "nss"), "--dumpdir", l.dir,
		"--use-xfrm", "--no-dnssec", "--logfile", filepath.Join(l.dir, "log"), "--log-no-audit")
	if err != nil {
		return err
	}
	l.process = process
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = Poll(ready, 100*time.Millisecond, func() (bool, error) {
		select {
		case <-process.Done():
			return false, errors.New("it ended at once")
		default:
		}
		if _, err := os.Stat(l.socket()); err != nil {
			return false, nil
		}
		_, err := l.Whack(ready, "--briefstatus")
		return err == nil, nil
	})
	if err == nil {
		_, err = l.Whack(ready, "--listen")
	}
	if err == nil {
		_, err = l.namespace.Run(ready, append([]string{libreswanProgram("addconn"), "--config", l.config(), "--ctlsocket", l.socket()}, connections...)...)
	}
	for _, c := range connections { // addconn ends well whatever became of them
		if err == nil && !strings.Contains(l.Log(), fmt.Sprintf("%q: added ", c)) {
			err = fmt.Errorf("connection %s is not loaded", c)
		}
	}
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s%s", l.Name, err, process.Errors(), l.Log())
	}
	return nil
}

// Whack runs libreswan's control program against this pluto and returns what it
// printed.
func (l *Libreswan) Whack(ctx context.Context, args ...string) (string, error) {
	return run(ctx, "", append([]string{libreswanProgram("whack"), "--rundir", l.runDir()}, args...)...)
}

// Running reports whether pluto runs.
func (l *Libreswan) Running() bool {
	select {
	case <-l.process.Done():
		return false
	default:
		return true
	}
}

// Log returns pluto's log.
func (l *Libreswan) Log() string { return contents(filepath.Join(l.dir, "log")) }

func (l *Libreswan) config() string { return filepath.Join(l.dir, "ipsec.conf") }
func (l *Libreswan) runDir() string { return filepath.Join(l.dir, "run") }
func (l *Libreswan) socket() string { return filepath.Join(l.runDir(), "pluto.ctl") }

// libreswanProgram is the file of one of libreswan's programs.
func libreswanProgram(name string) string {
	return filepath.Join(libreswanRoot, "usr", "libexec", "ipsec", name)
}

// LibreswanParses tells whether libreswan takes a proposal such as
// "esp=aes128-sha1;dh14", with options such as "-v1"; where not, the error has its
// own words.
func LibreswanParses(ctx context.Context, proposal string, options ...string) error {
	out, err := run(ctx, "", slices.Concat([]string{libreswanProgram("algparse")}, options, []string{proposal})...)
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
	}
	return nil
}

// LibreswanVersion returns what libreswan says its version is, such as "4.10".
func LibreswanVersion(ctx context.Context) (string, error) {
	out, err := run(ctx, "", libreswanProgram("pluto"), "--version")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(out)
	if len(fields) < 2 {
		return "", fmt.Errorf("pluto calls its version %q", out)
	}
	return fields[1], nil
}
