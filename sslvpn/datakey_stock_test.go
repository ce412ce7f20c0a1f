package sslvpn

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// stockExchange is recorded data packets of one cipher.
type stockExchange struct {
	client, server dataKeys // as each of them seals and opens
	packets        []struct {
		fromClient bool
		sealed     []byte
	}
}

func readStockExchanges(t *testing.T, file string) (list []*stockExchange) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var e *stockExchange
	for line := range strings.Lines(string(content)) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "", "#":
		case "cipher":
			e = &stockExchange{client: dataKeys{cipher: Cipher(value)}, server: dataKeys{cipher: Cipher(value)}}
			list = append(list, e)
		case "client-key":
			e.client.sendKey = unhex(t, value)
			e.server.recvKey = e.client.sendKey
		case "client-iv":
			e.client.sendIV = unhex(t, value)
			e.server.recvIV = e.client.sendIV
		case "server-key":
			e.server.sendKey = unhex(t, value)
			e.client.recvKey = e.server.sendKey
		case "server-iv":
			e.server.sendIV = unhex(t, value)
			e.client.recvIV = e.server.sendIV
		case "client", "server":
			e.packets = append(e.packets, struct {
				fromClient bool
				sealed     []byte
			}{word == "client", unhex(t, value)})
		default:
			t.Fatalf("%s: %q", file, line)
		}
	}
	return list
}

// TestStockExchange opens what stock OpenVPN has sealed, and seals the same
// octets again.
func TestStockExchange(t *testing.T) {
	exchanges := readStockExchanges(t, "testdata/openvpn-2.6.14.txt")
	if len(exchanges) != len(ciphers) {
		t.Fatalf("%d ciphers", len(exchanges))
	}
	for i, e := range exchanges {
		t.Run(string(ciphers[i]), func(t *testing.T) {
			if e.client.cipher != ciphers[i] {
				t.Fatalf("cipher %s", e.client.cipher)
			}
			client, err := newDataKey(0, 0, e.client)
			if err != nil {
				t.Fatal(err)
			}
			server, err := newDataKey(0, 0, e.server)
			if err != nil {
				t.Fatal(err)
			}
			pings, echoes := 0, 0
			for n, p := range e.packets {
				sender, receiver := server, client
				if p.fromClient {
					sender, receiver = client, server
				}
				payload, _, why := receiver.openIn(bytes.Clone(p.sealed))
				if why != reasonNone {
					t.Fatalf("packet %d: %s", n, why)
				}
				var h innerHeader
				switch {
				case isPing(payload):
					pings++
				case h.parse(payload) == reasonNone && h.protocol == protocolICMP:
					echoes++
				}
				if again := mustSeal(t, sender, payload); !bytes.Equal(again, p.sealed) {
					t.Errorf("packet %d: sealed %x, want %x", n, again, p.sealed)
				}
			}
			if pings == 0 || echoes == 0 {
				t.Errorf("%d pings and %d echo requests among %d packets", pings, echoes, len(e.packets))
			}
		})
	}
}
