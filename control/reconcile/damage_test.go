package reconcile

import (
	"testing"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/store"
)

func TestDamagedStatusIsWrittenAnew(t *testing.T) {
	inWorld(t, func(w *world) {
		g := w.gateway()
		id := w.connection(g, eip1, w.customer("198.51.100.7"))
		w.engines.up(id)
		w.settle()
		_, err := w.db.Txn(w.ctx, nil, []store.Op{
			store.Put("status/"+string(control.KindConnection)+"/"+project+"/"+id, []byte("{")),
			store.Put("status/"+string(control.KindGateway)+"/"+project+"/"+g, []byte("{")),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.pass()
		w.wantState(id, control.ConnectionActive)
		w.wantGateway(g, control.GatewayActive)
		s, err := w.objects.Snapshot(w.ctx)
		if err != nil || len(s.DamagedStatus) != 0 {
			t.Errorf("still damaged: %v, %v", s.DamagedStatus, err)
		}
		if n := len(w.engines.connections); n != 1 {
			t.Errorf("the key exchange has %d connections, want 1", n)
		}
	})
}
