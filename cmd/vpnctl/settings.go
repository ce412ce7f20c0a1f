package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"

	"github.com/vpngw/vpngw/cmd/vpnctl/client"
)

// settings say where the API is and who asks. Each comes from its flag, else
// from its environment variable, else from the configuration file.
type settings struct {
	Endpoint      string `yaml:"endpoint"`
	Project       string `yaml:"project"`
	AccessKey     string `yaml:"access_key"`
	SecretKey     string `yaml:"secret_key"`
	SecretKeyFile string `yaml:"secret_key_file"`
	CA            string `yaml:"ca"`
	Insecure      bool   `yaml:"insecure"`

	config string
}

// variables name the environment variable of each setting. The secret key has
// no flag, since every user of the host sees the arguments of a program.
const (
	envConfig    = "VPNGW_CONFIG"
	envEndpoint  = "VPNGW_ENDPOINT"
	envProject   = "VPNGW_PROJECT"
	envAccessKey = "VPNGW_ACCESS_KEY"
	envSecretKey = "VPNGW_SECRET_KEY"
	envCA        = "VPNGW_CA"
)

func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.config, "config", "", "configuration `file` (default: vpnctl.yaml in the user's vpngw configuration directory) ["+envConfig+"]")
	f.StringVar(&s.Endpoint, "endpoint", "", "`URL` of the API, such as https://127.0.0.1:8443 ["+envEndpoint+"]")
	f.StringVar(&s.Project, "project", "", "project `ID` ["+envProject+"]")
	f.StringVar(&s.AccessKey, "access-key", "", "access `key` ["+envAccessKey+"; its secret: "+envSecretKey+"]")
	f.StringVar(&s.SecretKeyFile, "secret-key-file", "", "`file` that holds the secret key")
	f.StringVar(&s.CA, "ca", "", "`file` of certificates in PEM that the server's has to come from ["+envCA+"]")
	f.BoolVar(&s.Insecure, "insecure", false, "do not check the server's certificate")
}

// client resolves the settings.
func (s *settings) client(getenv func(string) string) (*client.Client, error) {
	file, err := s.readConfig(getenv)
	if err != nil {
		return nil, usageError{err}
	}
	pick := func(flag, variable, fromFile string) string {
		if flag != "" {
			return flag
		}
		if variable != "" && getenv(variable) != "" {
			return getenv(variable)
		}
		return fromFile
	}
	secret := ""
	if s.SecretKeyFile == "" {
		secret = pick("", envSecretKey, file.SecretKey)
	}
	if secret == "" {
		if name := pick(s.SecretKeyFile, "", file.SecretKeyFile); name != "" {
			b, err := os.ReadFile(name)
			if err != nil {
				return nil, usageError{fmt.Errorf("secret key: %w", err)}
			}
			secret = strings.TrimRight(string(b), "\r\n")
		}
	}
	o := client.Options{
		Endpoint:  pick(s.Endpoint, envEndpoint, file.Endpoint),
		ProjectID: pick(s.Project, envProject, file.Project),
		AccessKey: pick(s.AccessKey, envAccessKey, file.AccessKey),
		SecretKey: secret,
		Insecure:  s.Insecure || file.Insecure,
	}
	if name := pick(s.CA, envCA, file.CA); name != "" {
		if o.CA, err = os.ReadFile(name); err != nil {
			return nil, usageError{fmt.Errorf("ca: %w", err)}
		}
	}
	c, err := client.New(o)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// readConfig reads the configuration file. Only one that was asked for has to
// exist.
func (s *settings) readConfig(getenv func(string) string) (settings, error) {
	name, asked := s.config, true
	if name == "" {
		name = getenv(envConfig)
	}
	if name == "" {
		asked = false
		dir := getenv("XDG_CONFIG_HOME")
		if dir == "" {
			dir = filepath.Join(getenv("HOME"), ".config")
		}
		name = filepath.Join(dir, "vpngw", "vpnctl.yaml")
	}
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return settings{}, nil
	}
	if err != nil {
		return settings{}, fmt.Errorf("configuration: %w", err)
	}
	var file settings
	if len(bytes.TrimSpace(b)) == 0 {
		return file, nil
	}
	if err := yaml.UnmarshalWithOptions(b, &file, yaml.Strict()); err != nil {
		// The source lines stay out of the message: one may hold a secret.
		return settings{}, fmt.Errorf("%s: %s", name, yaml.FormatError(err, false, false))
	}
	return file, nil
}
