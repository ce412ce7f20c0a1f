package peerconfig

import (
	"fmt"
	"strings"

	"github.com/vpngw/vpngw/control"
)

// families are all families, in the order that they are listed in.
var families = []family{
	{
		Device:   Device{Vendor: "strongSwan", Type: "swanctl", Model: "Linux", Version: "5.9"},
		template: "strongswan.tmpl", dpdMost: 3600, ipv6: true,
		ike: words{
			encryption: strongSwanEncryption, authentication: strongSwanIntegrity, group: strongSwanGroups,
			prf: map[control.Authentication]string{
				control.SHA2512: "prfsha512", control.SHA2384: "prfsha384", control.SHA2256: "prfsha256", control.SHA1: "prfsha1", control.MD5: "prfmd5",
			},
		},
		esp: words{encryption: strongSwanEncryption, authentication: strongSwanIntegrity, group: strongSwanGroups},
	},
	{
		Device:   Device{Vendor: "Libreswan", Type: "ipsec.conf", Model: "Linux", Version: "5.0"},
		template: "libreswan.tmpl", dpdMost: 3600, lifetimes: [2]int{1, 86400},
		ike: words{
			encryption: libreswanEncryption, authentication: libreswanHashes, prf: libreswanHashes, group: libreswanGroups,
		},
		esp: words{encryption: libreswanEncryption, authentication: libreswanHashes, group: libreswanGroups},
	},
	{
		Device:   Device{Vendor: "Cisco", Type: "IOS XE", Model: "ISR 4000", Version: "16.9"},
		template: "cisco-ios-xe.tmpl", dpdMost: 3600, routed: true, lifetimes: [2]int{120, 86400},
		ike: words{
			encryption: map[control.Encryption]string{
				control.AES256GCM16: "aes-gcm-256", control.AES256GCM128: "aes-gcm-256",
				control.AES128GCM16: "aes-gcm-128", control.AES128GCM128: "aes-gcm-128",
				control.AES256: "aes-cbc-256", control.AES192: "aes-cbc-192", control.AES128: "aes-cbc-128", control.TripleDES: "3des",
			},
			authentication: ciscoHashes, prf: ciscoHashes, group: ciscoGroups("%s"),
		},
		esp: words{
			encryption: map[control.Encryption]string{
				control.AES256GCM16: "esp-gcm 256", control.AES256GCM128: "esp-gcm 256",
				control.AES128GCM16: "esp-gcm 128", control.AES128GCM128: "esp-gcm 128",
				control.AES256: "esp-aes 256", control.AES192: "esp-aes 192", control.AES128: "esp-aes", control.TripleDES: "esp-3des",
			},
			authentication: map[control.Authentication]string{
				control.SHA2512: "esp-sha512-hmac", control.SHA2384: "esp-sha384-hmac", control.SHA2256: "esp-sha256-hmac",
				control.SHA1: "esp-sha-hmac", control.MD5: "esp-md5-hmac",
			},
			group: ciscoGroups("group%s"),
		},
	},
	{
		Device:   Device{Vendor: "Juniper", Type: "Junos", Model: "SRX", Version: "19.4"},
		template: "juniper-srx.tmpl", dpdMost: 60, routed: true, lifetimes: [2]int{180, 86400},
		ike: words{
			encryption: junosCBC,
			authentication: map[control.Authentication]string{
				control.SHA2512: "sha-512", control.SHA2384: "sha-384", control.SHA2256: "sha-256", control.SHA1: "sha1", control.MD5: "md5",
			},
			group: junosGroups,
		},
		esp: words{
			encryption: map[control.Encryption]string{
				control.AES256GCM16: "aes-256-gcm", control.AES256GCM128: "aes-256-gcm",
				control.AES128GCM16: "aes-128-gcm", control.AES128GCM128: "aes-128-gcm",
				control.AES256: "aes-256-cbc", control.AES192: "aes-192-cbc", control.AES128: "aes-128-cbc", control.TripleDES: "3des-cbc",
			},
			authentication: map[control.Authentication]string{
				control.SHA2256: "hmac-sha-256-128", control.SHA1: "hmac-sha1-96", control.MD5: "hmac-md5-96",
			},
			group: junosGroups,
		},
	},
}

var (
	strongSwanEncryption = map[control.Encryption]string{
		control.AES256GCM16: "aes256gcm16", control.AES256GCM128: "aes256gcm16",
		control.AES128GCM16: "aes128gcm16", control.AES128GCM128: "aes128gcm16",
		control.AES256: "aes256", control.AES192: "aes192", control.AES128: "aes128", control.TripleDES: "3des",
		control.ChaCha20Poly1305: "chacha20poly1305",
	}
	strongSwanIntegrity = map[control.Authentication]string{
		control.SHA2512: "sha512", control.SHA2384: "sha384", control.SHA2256: "sha256", control.SHA1: "sha1", control.MD5: "md5",
	}
	strongSwanGroups = map[control.Group]string{
		control.Group1: "modp768", control.Group2: "modp1024", control.Group5: "modp1536", control.Group14: "modp2048",
		control.Group15: "modp3072", control.Group16: "modp4096", control.Group19: "ecp256", control.Group20: "ecp384", control.Group21: "ecp521",
		control.Group31: "curve25519",
	}

	libreswanEncryption = map[control.Encryption]string{
		control.AES256GCM16: "aes_gcm256", control.AES256GCM128: "aes_gcm256",
		control.AES128GCM16: "aes_gcm128", control.AES128GCM128: "aes_gcm128",
		control.AES256: "aes256", control.AES192: "aes192", control.AES128: "aes128", control.TripleDES: "3des",
		control.ChaCha20Poly1305: "chacha20_poly1305",
	}
	libreswanHashes = map[control.Authentication]string{
		control.SHA2512: "sha2_512", control.SHA2384: "sha2_384", control.SHA2256: "sha2_256", control.SHA1: "sha1",
	}
	// Libreswan has left out the groups below 5.
	libreswanGroups = map[control.Group]string{
		control.Group5: "dh5", control.Group14: "dh14", control.Group15: "dh15", control.Group16: "dh16",
		control.Group19: "dh19", control.Group20: "dh20", control.Group21: "dh21", control.Group31: "dh31",
	}

	ciscoHashes = map[control.Authentication]string{
		control.SHA2512: "sha512", control.SHA2384: "sha384", control.SHA2256: "sha256", control.SHA1: "sha1", control.MD5: "md5",
	}

	junosCBC = map[control.Encryption]string{
		control.AES256: "aes-256-cbc", control.AES192: "aes-192-cbc", control.AES128: "aes-128-cbc", control.TripleDES: "3des-cbc",
	}
	junosGroups = map[control.Group]string{
		control.Group1: "group1", control.Group2: "group2", control.Group5: "group5", control.Group14: "group14", control.Group15: "group15",
		control.Group16: "group16", control.Group19: "group19", control.Group20: "group20", control.Group21: "group21",
	}
)

// ciscoGroups writes the numbers of the groups in a format.
func ciscoGroups(format string) map[control.Group]string {
	groups := map[control.Group]string{}
	for group, word := range junosGroups {
		groups[group] = fmt.Sprintf(format, strings.TrimPrefix(word, "group"))
	}
	return groups
}
