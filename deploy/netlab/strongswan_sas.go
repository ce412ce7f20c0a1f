package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// SwanIKE is an IKE SA as strongSwan lists it.
type SwanIKE struct {
	Name, State                 string // state such as "ESTABLISHED"
	InitiatorSPI, ResponderSPI  string // 16 hexadecimal digits
	Initiator                   bool
	RemoteHost                  netip.Addr
	RemotePort                  uint16
	RemoteID                    string
	Encryption, Integrity       string
	EncryptionBits              string
	PRF, Group                  string
	Additional                  string // the first additional key exchange, such as "ML_KEM_768"
	PPK                         bool
	NATLocal, NATRemote, NATAny bool
	Children                    []SwanChildSA
}

// SwanChildSA is a CHILD_SA as strongSwan lists it.
type SwanChildSA struct {
	Name, State           string // state such as "INSTALLED"
	SPIIn, SPIOut         string // 8 hexadecimal digits
	Encap                 bool
	Encryption, Integrity string
	EncryptionBits, Group string
	Additional            string // as of an IKE SA
	BytesIn, BytesOut     uint64
	PacketsIn, PacketsOut uint64
	Local, Remote         []string // traffic selectors
}

// SAs lists the IKE SAs and their CHILD_SAs.
func (s *StrongSwan) SAs(ctx context.Context) ([]SwanIKE, error) {
	out, err := s.Control(ctx, "--list-sas", "--raw")
	if err != nil {
		return nil, err
	}
	return parseSAs(out)
}

func parseSAs(out string) ([]SwanIKE, error) {
	var sas []SwanIKE
	for line := range strings.Lines(out) {
		event, ok := strings.CutPrefix(strings.TrimSpace(line), "list-sa event ")
		if !ok {
			continue
		}
		root, err := parseVICI(event)
		if err != nil {
			return nil, fmt.Errorf("read swanctl's list of SAs: %w", err)
		}
		for _, entry := range root.sections {
			sas = append(sas, entry.section.ike(entry.name))
		}
	}
	return sas, nil
}

func (v *viciSection) ike(name string) SwanIKE {
	host, _ := netip.ParseAddr(v.values["remote-host"])
	port, _ := strconv.ParseUint(v.values["remote-port"], 10, 16)
	ike := SwanIKE{
		Name:           name,
		State:          v.values["state"],
		InitiatorSPI:   v.values["initiator-spi"],
		ResponderSPI:   v.values["responder-spi"],
		Initiator:      v.values["initiator"] == "yes",
		RemoteHost:     host,
		RemotePort:     uint16(port),
		RemoteID:       v.values["remote-id"],
		Encryption:     v.values["encr-alg"],
		EncryptionBits: v.values["encr-keysize"],
		Integrity:      v.values["integ-alg"],
		PRF:            v.values["prf-alg"],
		Group:          v.values["dh-group"],
		Additional:     v.values["ake1"],
		PPK:            v.values["ppk"] == "yes",
		NATLocal:       v.values["nat-local"] == "yes",
		NATRemote:      v.values["nat-remote"] == "yes",
		NATAny:         v.values["nat-any"] == "yes",
	}
	for _, children := range v.sections {
		if children.name != "child-sas" {
			continue
		}
		for _, entry := range children.section.sections {
			ike.Children = append(ike.Children, entry.section.child())
		}
	}
	return ike
}

func (v *viciSection) child() SwanChildSA {
	number := func(key string) uint64 {
		n, _ := strconv.ParseUint(v.values[key], 10, 64)
		return n
	}
	return SwanChildSA{
		Name:           v.values["name"],
		State:          v.values["state"],
		SPIIn:          v.values["spi-in"],
		SPIOut:         v.values["spi-out"],
		Encap:          v.values["encap"] == "yes",
		Encryption:     v.values["encr-alg"],
		EncryptionBits: v.values["encr-keysize"],
		Integrity:      v.values["integ-alg"],
		Group:          v.values["dh-group"],
		Additional:     v.values["ake1"],
		BytesIn:        number("bytes-in"),
		BytesOut:       number("bytes-out"),
		PacketsIn:      number("packets-in"),
		PacketsOut:     number("packets-out"),
		Local:          slices.Clone(v.lists["local-ts"]),
		Remote:         slices.Clone(v.lists["remote-ts"]),
	}
}

// viciSection is one section of a VICI message as swanctl prints it with --raw:
// {key=value name {…} list=[a b]}.
type viciSection struct {
	values   map[string]string
	lists    map[string][]string
	sections []viciEntry // names may repeat
}

type viciEntry struct {
	name    string
	section *viciSection
}

func parseVICI(text string) (*viciSection, error) {
	section, rest, err := parseVICISection(strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	if rest = strings.TrimSpace(rest); rest != "" {
		return nil, fmt.Errorf("unexpected %q after the message", rest)
	}
	return section, nil
}

func parseVICISection(text string) (*viciSection, string, error) {
	text, ok := strings.CutPrefix(text, "{")
	if !ok {
		return nil, "", errors.New("a section does not begin with a brace")
	}
	v := &viciSection{values: map[string]string{}, lists: map[string][]string{}}
	for {
		text = strings.TrimLeft(text, " \n")
		if rest, ok := strings.CutPrefix(text, "}"); ok {
			return v, rest, nil
		}
		end := strings.IndexAny(text, "={")
		if end < 0 {
			return nil, "", errors.New("a section does not end")
		}
		name := strings.TrimSpace(text[:end])
		if text[end] == '{' {
			sub, rest, err := parseVICISection(text[end:])
			if err != nil {
				return nil, "", err
			}
			v.sections = append(v.sections, viciEntry{name, sub})
			text = rest
			continue
		}
		text = text[end+1:]
		if list, ok := strings.CutPrefix(text, "["); ok {
			items, rest, ok := strings.Cut(list, "]")
			if !ok {
				return nil, "", fmt.Errorf("list %s does not end", name)
			}
			v.lists[name], text = strings.Fields(items), rest
			continue
		}
		end = strings.IndexAny(text, " }")
		if end < 0 {
			return nil, "", fmt.Errorf("value %s does not end", name)
		}
		v.values[name], text = text[:end], text[end:]
	}
}
