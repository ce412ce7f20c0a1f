package control

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// LogStream is where the log of connections can go.
type LogStream struct {
	GroupID  string  `yaml:"group_id"`
	StreamID string  `yaml:"stream_id"`
	Sink     LogSink `yaml:"sink"`
}

// LogSink says what takes the records. One member is given.
type LogSink struct {
	File   string      `yaml:"file"`   // absolute path, of lines of JSON
	Syslog *SyslogSink `yaml:"syslog"` // RFC 5424
	HTTP   *HTTPSink   `yaml:"http"`   // POST of lines of JSON
}

// SyslogSink is a syslog server.
type SyslogSink struct {
	// Address is unix:/dev/log, or udp: or tcp: followed by address and port.
	Address  string `yaml:"address"`
	Facility int    `yaml:"facility"` // 1 to 23 (RFC 5424, section 6.2.1), default 16, which is local0
}

// HTTPSink is a server that takes records by POST.
type HTTPSink struct {
	URL string `yaml:"url"`
	// Authorization is the header of that name, from the file if that is given.
	Authorization     Secret `yaml:"authorization"`
	AuthorizationFile string `yaml:"authorization_file"`
}

const defaultFacility = 16

func (l *LogStream) config() LogConfig { return LogConfig{GroupID: l.GroupID, StreamID: l.StreamID} }

// LogStream returns where a log configuration leads.
func (inv *Inventory) LogStream(c LogConfig) (*LogStream, bool) {
	i := slices.IndexFunc(inv.LogStreams, func(l LogStream) bool { return l.config() == c })
	if i < 0 {
		return nil, false
	}
	return &inv.LogStreams[i], true
}

// validate checks a stream and fills in its defaults.
func (l *LogStream) validate() error {
	for _, id := range []string{l.GroupID, l.StreamID} {
		if len(id) < 1 || len(id) > 64 {
			return errors.New("group_id: it and stream_id must have 1 to 64 characters")
		}
	}
	given := 0
	for _, there := range []bool{l.Sink.File != "", l.Sink.Syslog != nil, l.Sink.HTTP != nil} {
		if there {
			given++
		}
	}
	if given != 1 {
		return errors.New("sink: one of file, syslog and http is wanted")
	}
	switch {
	case l.Sink.Syslog != nil:
		if err := l.Sink.Syslog.validate(); err != nil {
			return fmt.Errorf("sink.syslog.%w", err)
		}
	case l.Sink.HTTP != nil:
		if err := l.Sink.HTTP.validate(); err != nil {
			return fmt.Errorf("sink.http.%w", err)
		}
	case !filepath.IsAbs(l.Sink.File):
		return errors.New("sink.file: an absolute path is wanted")
	}
	return nil
}

func (s *SyslogSink) validate() error {
	if s.Facility == 0 {
		s.Facility = defaultFacility
	}
	if s.Facility < 0 || s.Facility > 23 {
		return errors.New("facility: 1 to 23 is wanted")
	}
	network, address, _ := strings.Cut(s.Address, ":")
	switch network {
	case "unix":
		if filepath.IsAbs(address) {
			return nil
		}
	case "udp", "tcp":
		if ap, err := netip.ParseAddrPort(address); err == nil && ap.Port() != 0 {
			return nil
		}
	}
	return errors.New("address: wanted is unix:/path, udp:address:port or tcp:address:port")
}

func (h *HTTPSink) validate() error {
	u, err := url.Parse(h.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("url: an http or https URL without user and password is wanted")
	}
	if h.AuthorizationFile == "" {
		return nil
	}
	if !h.Authorization.IsZero() {
		return errors.New("authorization: is given twice, here and as a file")
	}
	text, err := readBounded(h.AuthorizationFile, true)
	if err != nil {
		return fmt.Errorf("authorization_file: %w", err)
	}
	h.Authorization = NewSecret(strings.TrimSpace(string(text)))
	return nil
}
