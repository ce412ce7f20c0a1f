package reconcile

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/ike"
	"github.com/vpngw/vpngw/ike/sa"
	"github.com/vpngw/vpngw/ipsec"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestChildSAs(t *testing.T) {
	inWorld(t, func(w *world) {
		id := w.connection(w.gateway(), eip1, w.customer("198.51.100.7"))
		if list, served := w.r.ChildSAs(id); !served || len(list) != 0 {
			t.Errorf("a connection that is down: %v, %v", list, served)
		}
		if _, served := w.r.ChildSAs("another"); served {
			t.Error("an unknown connection is served")
		}
		child := ike.ChildStatus{
			ChildStatus: sa.ChildStatus{
				State: sa.Established, In: ipsec.SAID{SPI: 0xc0ffee01}, Out: ipsec.SAID{SPI: 0xbadcafe},
				Local: []ipsec.TrafficSelector{ipsec.SelectorFromPrefix(prefix("10.10.0.0/24"))},
				Remote: []ipsec.TrafficSelector{
					ipsec.SelectorFromPrefix(prefix("192.168.0.0/24")), {Start: addr("192.168.2.0"), End: addr("192.168.4.255"), EndPort: 65535},
				},
			},
			Inbound: ipsec.SAState{Packets: 1, Bytes: 2}, Outbound: ipsec.SAState{Packets: 3, Bytes: 4},
		}
		gone := child
		gone.State = sa.Deleted
		w.engines.mu.Lock()
		w.engines.status[id] = ike.ConnectionStatus{Children: []ike.ChildStatus{child, gone}}
		w.engines.mu.Unlock()
		list, served := w.r.ChildSAs(id)
		want := []control.ChildSA{{
			ID: "c0ffee01-0badcafe", Local: networks(child.Local),
			Remote: append(networks(child.Remote[:1]), prefix("192.168.2.0/23"), prefix("192.168.4.0/24")),
			Sent:   control.Traffic{Packets: 3, Octets: 4}, Received: control.Traffic{Packets: 1, Octets: 2},
		}}
		if !served || !reflect.DeepEqual(list, want) {
			t.Errorf("got %+v, %v; want %+v", list, served, want)
		}
	})
}
