package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/api"
	"github.com/vpngw/vpngw/dataplane"
)

// config is the daemon's configuration file; docs/configuration.md describes
// every key. Keys that the file does not name keep the values of defaults.
type config struct {
	Node      nodeConfig        `yaml:"node"`
	DataDir   string            `yaml:"data_dir"`
	Log       logConfig         `yaml:"log"`
	Store     storeConfig       `yaml:"store"`
	Fleet     fleetConfig       `yaml:"fleet"`
	API       apiConfig         `yaml:"api"`
	Audit     auditConfig       `yaml:"audit"`
	Metrics   metricsConfig     `yaml:"metrics"`
	Dataplane dataplaneConfig   `yaml:"dataplane"`
	IKE       ikeConfig         `yaml:"ike"`
	Drain     drainConfig       `yaml:"drain"`
	Inventory control.Inventory `yaml:"inventory"`
	Limits    control.Limits    `yaml:"limits"`
	Debug     debugConfig       `yaml:"debug"`
}

type nodeConfig struct {
	Name             string `yaml:"name"`
	AvailabilityZone string `yaml:"availability_zone"`
	APIURL           string `yaml:"api_url"`
}

type logConfig struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

type apiConfig struct {
	Listen      string             `yaml:"listen"`
	TLS         tlsConfig          `yaml:"tls"`
	Credentials []credentialConfig `yaml:"credentials"`
	Users       []userConfig       `yaml:"users"`
	Roles       control.Roles      `yaml:"roles"`
}

// tlsConfig is "auto" (a self-signed certificate, kept in the data directory),
// "off" (plain HTTP, on a loopback address only), or a certificate with its key.
type tlsConfig struct {
	Mode            string
	CertificateFile string
	KeyFile         string
}

// Modes of tlsConfig.
const (
	tlsAuto  = "auto"
	tlsOff   = "off"
	tlsFiles = "files"
)

// UnmarshalYAML takes a word or a mapping.
func (t *tlsConfig) UnmarshalYAML(unmarshal func(any) error) error {
	var word string
	if unmarshal(&word) == nil {
		*t = tlsConfig{Mode: word}
		return nil
	}
	var files struct {
		CertificateFile string `yaml:"certificate_file"`
		KeyFile         string `yaml:"key_file"`
	}
	if err := unmarshal(&files); err != nil {
		return err
	}
	*t = tlsConfig{Mode: tlsFiles, CertificateFile: files.CertificateFile, KeyFile: files.KeyFile}
	return nil
}

type credentialConfig struct {
	AccessKey     string `yaml:"access_key"`
	SecretKey     string `yaml:"secret_key"`
	SecretKeyFile string `yaml:"secret_key_file"`
	SecretKeyEnv  string `yaml:"secret_key_env"`
	Role          string `yaml:"role"`
	ProjectID     string `yaml:"project_id"`

	Projects []projectConfig `yaml:"projects"`
}

type userConfig struct {
	Name         string `yaml:"name"`
	Domain       string `yaml:"domain"`
	Password     string `yaml:"password"`
	PasswordFile string `yaml:"password_file"`
	PasswordEnv  string `yaml:"password_env"`
	PasswordHash string `yaml:"password_hash"`
	Role         string `yaml:"role"`
	ProjectID    string `yaml:"project_id"`
	ProjectName  string `yaml:"project_name"`

	Projects []projectConfig `yaml:"projects"`
}

// projectConfig is the role of an account in one more project.
type projectConfig struct {
	Role        string `yaml:"role"`
	ProjectID   string `yaml:"project_id"`
	ProjectName string `yaml:"project_name"`
}

type auditConfig struct {
	File      string `yaml:"file"`
	MaxSizeMB int    `yaml:"max_size_mb"`
	Keep      int    `yaml:"keep"`
	Log       bool   `yaml:"log"`
}

type metricsConfig struct {
	Listen string `yaml:"listen"`
}

type dataplaneConfig struct {
	Backend            string `yaml:"backend"`
	Queues             int    `yaml:"queues"`
	OuterMTU           int    `yaml:"outer_mtu"`
	OuterDF            string `yaml:"outer_df"`
	ForceEncapsulation bool   `yaml:"force_encapsulation"`
}

type ikeConfig struct {
	Retransmit       retransmitConfig `yaml:"retransmit"`
	MaxLifetime      time.Duration    `yaml:"max_lifetime"`
	MaxChildLifetime time.Duration    `yaml:"max_child_lifetime"`
	AuthLifetime     time.Duration    `yaml:"authentication_lifetime"`
	MOBIKE           bool             `yaml:"mobike"`
	Childless        bool             `yaml:"childless"`
	RedirectTargets  []netip.Prefix   `yaml:"redirect_targets"`
	GM               []gmConfig       `yaml:"gm"`
}

type retransmitConfig struct {
	Initial time.Duration `yaml:"initial"`
	Factor  float64       `yaml:"factor"`
	Tries   int           `yaml:"tries"`
}

type debugConfig struct {
	KeyLogDir string `yaml:"key_log_dir"`
}

func defaults() config {
	name, _ := os.Hostname()
	return config{
		Node:      nodeConfig{Name: name},
		DataDir:   "/var/lib/vpngw",
		Log:       logConfig{Level: "info", Format: "text"},
		Store:     storeConfig{Backend: storeBolt},
		Fleet:     fleetConfig{Lease: defaultLease},
		API:       apiConfig{Listen: "127.0.0.1:8443", TLS: tlsConfig{Mode: tlsAuto}},
		Audit:     auditConfig{File: "audit.log", MaxSizeMB: 64, Keep: 8},
		Metrics:   metricsConfig{Listen: "127.0.0.1:9090"},
		Dataplane: dataplaneConfig{Backend: backendAuto, OuterDF: "copy", ForceEncapsulation: true},
		Drain:     drainConfig{Wait: defaultDrainWait},
	}
}

// maxConfigSize bounds the configuration file, in octets.
const maxConfigSize = 16 << 20

// loadConfig reads, decodes and checks a configuration file, and replaces each
// secret that is named by a file or an environment variable with its value.
// The error names the line, or else the key, and never holds a secret.
func loadConfig(path string, getenv func(string) string) (*config, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer file.Close()
	c := defaults()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigSize))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	if err := decoder.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		// The source lines stay out of the message: one may hold a secret.
		return nil, fmt.Errorf("%s: %s%s", path, placeOf(text, err), yaml.FormatError(err, false, false))
	}
	if reflect.ValueOf(c).IsZero() {
		c = defaults() // a file of comments alone is a null document, which clears the value
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one YAML document", path)
	}
	if err := errors.Join(c.resolveSecrets(getenv), c.check()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, nil
}

// placeOf returns the line, the column and the key of the value that an error
// quotes, such as "[5:12] ike.retransmit.initial: "; empty where the error has
// its place already. The YAML decoder gives none to errors of time and netip.
func placeOf(text []byte, failure error) string {
	var placed yaml.Error
	if errors.As(failure, &placed) {
		return ""
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		return ""
	}
	v := quoted{in: failure.Error()}
	for _, doc := range file.Docs {
		ast.Walk(&v, doc)
	}
	return v.place
}

// quoted finds the first text among the nodes that stands in an error.
type quoted struct{ in, place string }

// Visit implements ast.Visitor.
func (v *quoted) Visit(n ast.Node) ast.Visitor {
	if s, ok := n.(*ast.StringNode); ok && v.place == "" && strings.Contains(v.in, strconv.Quote(s.Value)) {
		at := s.GetToken().Position
		v.place = fmt.Sprintf("[%d:%d] %s: ", at.Line, at.Column, strings.TrimPrefix(s.GetPath(), "$."))
	}
	return v
}

func (c *config) resolveSecrets(getenv func(string) string) error {
	var errs []error
	if s := &c.Store; s.Password+s.PasswordFile+s.PasswordEnv != "" {
		errs = append(errs, resolveSecret("store.password", &s.Password, s.PasswordFile, s.PasswordEnv, getenv))
	}
	for i := range c.API.Credentials {
		k := &c.API.Credentials[i]
		key := fmt.Sprintf("api.credentials[%d].secret_key", i)
		errs = append(errs, resolveSecret(key, &k.SecretKey, k.SecretKeyFile, k.SecretKeyEnv, getenv))
	}
	for i := range c.API.Users {
		u := &c.API.Users[i]
		key := fmt.Sprintf("api.users[%d].password", i)
		if u.PasswordHash != "" {
			if u.Password+u.PasswordFile+u.PasswordEnv != "" {
				errs = append(errs, fmt.Errorf("%s: give no other one beside %[1]s_hash", key))
			}
			continue
		}
		errs = append(errs, resolveSecret(key, &u.Password, u.PasswordFile, u.PasswordEnv, getenv))
	}
	return errors.Join(errs...)
}

// resolveSecret fills value from exactly one of the three sources. Of a file,
// one line end at its end is not part of the secret.
func resolveSecret(key string, value *string, file, env string, getenv func(string) string) error {
	given := 0
	for _, source := range []string{*value, file, env} {
		if source != "" {
			given++
		}
	}
	if given != 1 {
		return fmt.Errorf("%s: give exactly one of %[1]s, %[1]s_file and %[1]s_env", key)
	}
	switch {
	case file != "":
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("%s_file: %w", key, err)
		}
		*value = strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	case env != "":
		*value = getenv(env)
	}
	if *value == "" {
		return fmt.Errorf("%s: is empty", key)
	}
	return nil
}

// problems gathers what is wrong with a configuration, each with its key.
type problems []error

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
}

// oneOf adds a problem unless value is one of the words.
func (p *problems) oneOf(key, value string, words ...string) {
	if !slices.Contains(words, value) {
		p.add(key, "%q is not one of %s", value, strings.Join(words, ", "))
	}
}

// projectID adds a problem unless id can be that of a project.
func (p *problems) projectID(key, id string) {
	if id == "" {
		p.add(key, "is required")
	} else if err := control.CheckProjectID(id); err != nil {
		p.add(key, "%v", err)
	}
}

// check returns everything that is wrong, joined.
func (c *config) check() error {
	var p problems
	if c.Node.Name == "" {
		p.add("node.name", "is empty")
	}
	if c.DataDir == "" {
		p.add("data_dir", "is empty")
	}
	var level slog.Level
	if level.UnmarshalText([]byte(c.Log.Level)) != nil {
		p.add("log.level", "%q is not one of debug, info, warn, error", c.Log.Level)
	}
	p.oneOf("log.format", c.Log.Format, "text", "json")
	c.checkStore(&p)
	c.checkAPI(&p)
	if m := c.Audit.MaxSizeMB; m < 1 || m > 4096 {
		p.add("audit.max_size_mb", "%d is not in 1-4096", m)
	}
	if k := c.Audit.Keep; k < 0 || k > 1000 {
		p.add("audit.keep", "%d is not in 0-1000", k)
	}
	if c.Metrics.Listen != "" {
		if _, err := netip.ParseAddrPort(c.Metrics.Listen); err != nil {
			p.add("metrics.listen", "%q is not an address with a port", c.Metrics.Listen)
		}
	}
	c.checkEngines(&p)
	c.checkDrain(&p)
	c.checkInventory(&p)
	if err := c.Limits.Validate(); err != nil {
		p = append(p, err)
	}
	return errors.Join(p...)
}

func (c *config) checkAPI(p *problems) {
	listen, err := netip.ParseAddrPort(c.API.Listen)
	if err != nil {
		p.add("api.listen", "%q is not an address with a port", c.API.Listen)
	}
	switch c.API.TLS.Mode {
	case tlsAuto:
	case tlsOff:
		if err == nil && !listen.Addr().IsLoopback() {
			p.add("api.tls", "off is for loopback addresses only, and api.listen is %s", c.API.Listen)
		}
	case tlsFiles:
		if c.API.TLS.CertificateFile == "" || c.API.TLS.KeyFile == "" {
			p.add("api.tls", "needs both certificate_file and key_file")
		} else if _, err := tls.LoadX509KeyPair(c.API.TLS.CertificateFile, c.API.TLS.KeyFile); err != nil {
			p.add("api.tls", "%v", err)
		}
	default:
		p.add("api.tls", "%q is not one of auto, off, or a mapping of certificate_file and key_file", c.API.TLS.Mode)
	}
	c.checkRoles(p)
	seen := make(map[string]bool)
	for i, k := range c.API.Credentials {
		key := fmt.Sprintf("api.credentials[%d].", i)
		if k.AccessKey == "" {
			p.add(key+"access_key", "is required")
		}
		if seen[k.AccessKey] {
			p.add(key+"access_key", "%q occurs twice", k.AccessKey)
		}
		seen[k.AccessKey] = true
		p.projects(key, append([]projectConfig{{Role: k.Role, ProjectID: k.ProjectID}}, k.Projects...), c.API.Roles)
	}
	names := make(map[[2]string]bool)
	for i, u := range c.API.Users {
		key := fmt.Sprintf("api.users[%d].", i)
		if u.Name == "" {
			p.add(key+"name", "is required")
		}
		if names[[2]string{u.Domain, u.Name}] {
			p.add(key+"name", "%q occurs twice in domain %q", u.Name, u.Domain)
		}
		names[[2]string{u.Domain, u.Name}] = true
		p.projects(key, append([]projectConfig{{Role: u.Role, ProjectID: u.ProjectID}}, u.Projects...), c.API.Roles)
		if u.PasswordHash != "" {
			if _, err := control.ParsePasswordHash(u.PasswordHash); err != nil {
				p.add(key+"password_hash", "%v", err)
			}
		}
	}
}

// projects adds what is wrong with the projects of one account, of which the
// first stands in the account itself.
func (p *problems) projects(account string, projects []projectConfig, roles control.Roles) {
	seen := make(map[string]bool)
	for i, project := range projects {
		key := account
		if i > 0 {
			key = fmt.Sprintf("%sprojects[%d].", account, i-1)
		}
		if _, ok := roles.Permissions(control.Role(project.Role)); !ok {
			p.add(key+"role", "%q is neither admin, operator, readonly, backup nor one of api.roles", project.Role)
		}
		p.projectID(key+"project_id", project.ProjectID)
		if seen[project.ProjectID] {
			p.add(key+"project_id", "%q occurs twice", project.ProjectID)
		}
		seen[project.ProjectID] = true
	}
}

// checkRoles also finds actions that no operation needs, which are most likely
// misspelt.
func (c *config) checkRoles(p *problems) {
	if len(c.API.Roles) == 0 {
		return
	}
	if err := c.API.Roles.Validate(); err != nil {
		*p = append(*p, fmt.Errorf("api.%w", err))
		return
	}
	actions, err := api.Actions()
	if err != nil {
		*p = append(*p, err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.API.Roles)) {
		for _, pattern := range c.API.Roles[name] {
			if !slices.ContainsFunc(actions, func(action string) bool { return control.MatchAction(pattern, action) }) {
				p.add(fmt.Sprintf("api.roles.%s", name), "no operation needs an action like %q", pattern)
			}
		}
	}
}

// Bounds of the outer MTU: the minimum of IPv6 (RFC 8200, section 5), below
// which IPsec leaves too little, and jumbo frames.
const minOuterMTU, maxOuterMTU = 1280, 9216

// outerDFs are the values of dataplane.outer_df.
var outerDFs = map[string]dataplane.OuterDF{"copy": dataplane.CopyDF, "set": dataplane.SetDF, "clear": dataplane.ClearDF}

func (c *config) checkEngines(p *problems) {
	switch c.Dataplane.Backend {
	case backendAuto, backendKernel, backendUserspace:
	default:
		p.oneOf("dataplane.backend", c.Dataplane.Backend, backendAuto, backendKernel, backendUserspace)
	}
	if c.Dataplane.Backend == backendKernel && c.Store.Backend == storeEtcd {
		p.add("dataplane.backend", "kernel does not go with store.backend etcd: %v", errFenced)
	}
	if c.Dataplane.Queues < 0 || c.Dataplane.Queues > 256 {
		p.add("dataplane.queues", "%d is not in 0-256 (0: one for each CPU, at most 4)", c.Dataplane.Queues)
	}
	if m := c.Dataplane.OuterMTU; m != 0 && (m < minOuterMTU || m > maxOuterMTU) {
		p.add("dataplane.outer_mtu", "%d is not in %d-%d (0: that of the interface)", m, minOuterMTU, maxOuterMTU)
	}
	if _, ok := outerDFs[c.Dataplane.OuterDF]; !ok {
		p.oneOf("dataplane.outer_df", c.Dataplane.OuterDF, "copy", "set", "clear")
	}
	c.IKE.gmOptions(p)
	c.checkLifetime(p, "ike.max_lifetime", c.IKE.MaxLifetime)
	c.checkLifetime(p, "ike.max_child_lifetime", c.IKE.MaxChildLifetime)
	c.checkLifetime(p, "ike.authentication_lifetime", c.IKE.AuthLifetime)
	for i, target := range c.IKE.RedirectTargets {
		if !target.IsValid() || target.Bits() == 0 {
			p.add(fmt.Sprintf("ike.redirect_targets[%d]", i), "%s permits any gateway", target)
		}
	}
	r := c.IKE.Retransmit
	if r == (retransmitConfig{}) {
		return // the key exchange has defaults of its own
	}
	if r.Initial < 100*time.Millisecond || r.Initial > time.Minute {
		p.add("ike.retransmit.initial", "%s is not in 100ms-1m", r.Initial)
	}
	if r.Factor < 1 || r.Factor > 10 {
		p.add("ike.retransmit.factor", "%g is not in 1-10", r.Factor)
	}
	if r.Tries < 1 || r.Tries > 20 {
		p.add("ike.retransmit.tries", "%d is not in 1-20", r.Tries)
	}
}

// minLifetime is the shortest life of an SA that leaves time for a rekey.
const minLifetime = 5 * time.Second

func (c *config) checkLifetime(p *problems, key string, limit time.Duration) {
	if limit != 0 && limit < minLifetime {
		p.add(key, "%s is less than %s (0: as connections ask for)", limit, minLifetime)
	}
}

func (c *config) checkInventory(p *problems) {
	if err := c.Inventory.Validate(); err != nil {
		*p = append(*p, err)
	}
	zone := c.Node.AvailabilityZone
	if zone != "" && !slices.Contains(c.Inventory.AvailabilityZones, zone) {
		p.add("node.availability_zone", "%q is not in inventory.availability_zones", zone)
	}
}

// restartKeys names the parts of the configuration that differ from old and
// take effect at the next start only.
func (c *config) restartKeys(old *config) []string {
	var keys []string
	for _, part := range []struct {
		key   string
		equal bool
	}{
		{"node", c.Node == old.Node},
		{"data_dir", c.DataDir == old.DataDir},
		{"log.format", c.Log.Format == old.Log.Format},
		{"limits", reflect.DeepEqual(c.Limits, old.Limits)},
		{"store", reflect.DeepEqual(c.Store, old.Store)},
		{"fleet", c.Fleet == old.Fleet},
		{"api.listen", c.API.Listen == old.API.Listen},
		{"api.tls", c.API.TLS == old.API.TLS},
		{"audit", c.Audit == old.Audit},
		{"metrics", c.Metrics == old.Metrics},
		{"dataplane", c.Dataplane == old.Dataplane},
		{"ike", reflect.DeepEqual(c.IKE, old.IKE)},
		{"debug", c.Debug == old.Debug},
	} {
		if !part.equal {
			keys = append(keys, part.key)
		}
	}
	return keys
}
