package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpngw/vpngw/control/store"
)

func marked(t *testing.T, caller, text, request string) context.Context {
	return WithClientToken(t.Context(), ClientToken{Caller: caller, Text: text, Digest: sha256.Sum256([]byte(request))})
}

func (w *world) peers() int {
	w.t.Helper()
	l, err := w.ListCustomerGateways(w.t.Context(), project, CustomerGatewayFilter{})
	if err != nil {
		w.t.Fatal(err)
	}
	return l.Total
}

func TestClientToken(t *testing.T) {
	w := newWorld(t)
	create := func(ctx context.Context) (CustomerGateway, error) {
		return w.CreateCustomerGateway(ctx, project, CustomerGatewayCreate{IDValue: new("198.51.100.1")})
	}
	first, err := create(marked(t, "alice", "1", "a"))
	if err != nil {
		t.Fatal(err)
	}
	w.clock = w.clock.Add(clientTokenLifetime - time.Second)
	again, err := create(marked(t, "alice", "1", "a"))
	if err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("repeated: %+v (%v), want %+v", again, err, first)
	}
	_, err = create(marked(t, "alice", "1", "b"))
	wantRefusal(t, err, CodeRepeated, "Repeated operation.")
	if n := w.peers(); n != 1 {
		t.Errorf("there are %d objects, want 1", n)
	}
	for i, ctx := range []context.Context{marked(t, "alice", "2", "a"), marked(t, "bob", "1", "a"), t.Context(), t.Context()} {
		if v, err := create(ctx); err != nil || v.ID == first.ID || w.peers() != i+2 {
			t.Errorf("another request %d made no object of its own (%v)", i, err)
		}
	}
	w.clock = w.clock.Add(time.Second)
	if v, err := create(marked(t, "alice", "1", "a")); err != nil || v.ID == first.ID {
		t.Errorf("a token was still known after %s (%v)", clientTokenLifetime, err)
	}
}

// The result outlives the object, and a refused request leaves none.
func TestClientTokenOutcome(t *testing.T) {
	w := newWorld(t)
	ctx := marked(t, "alice", "1", "a")
	_, err := w.CreateCustomerGateway(ctx, project, CustomerGatewayCreate{IDValue: new("not an address")})
	wantRefusal(t, err, CodeInvalid)
	first, err := w.CreateCustomerGateway(ctx, project, CustomerGatewayCreate{IDValue: new("198.51.100.1")})
	if err != nil {
		t.Fatalf("after a refusal: %v", err)
	}
	if err := w.DeleteCustomerGateway(t.Context(), project, first.ID); err != nil {
		t.Fatal(err)
	}
	again, err := w.CreateCustomerGateway(ctx, project, CustomerGatewayCreate{IDValue: new("198.51.100.1")})
	if err != nil || again.ID != first.ID || w.peers() != 0 {
		t.Errorf("after the deletion: %+v (%v) and %d objects", again, err, w.peers())
	}
}

func TestClientTokenOfEveryKind(t *testing.T) {
	w := newWorld(t)
	ctx := marked(t, "alice", "1", "a")
	gateway, err := w.CreateGateway(ctx, project, gatewayRequest())
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.CreateGateway(ctx, project, gatewayRequest())
	if err != nil || !reflect.DeepEqual(again, gateway) {
		t.Errorf("gateway: %+v (%v), want %+v", again, err, gateway)
	}
	w.settleGateway(project, gateway.ID, false)
	peer := w.peer("198.51.100.1")
	ctx = marked(t, "alice", "2", "a")
	connection, err := w.CreateConnection(ctx, project, connectionRequest(gateway.ID, peer.ID))
	if err != nil {
		t.Fatal(err)
	}
	repeated, err := w.CreateConnection(ctx, project, connectionRequest(gateway.ID, peer.ID))
	if err != nil || encode(t, repeated) != encode(t, connection) {
		t.Errorf("connection: %+v (%v), want %+v", repeated, err, connection)
	}
	entries, _, err := w.store.List(t.Context(), prefixClientTokens)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%d results are kept (%v), want 2", len(entries), err)
	}
	for _, e := range entries {
		if strings.Contains(string(e.Value), goodPSK) {
			t.Errorf("a result holds a secret: %s", e.Value)
		}
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestClientTokenAtOnce(t *testing.T) {
	w := newWorld(t)
	ids := make([]string, 16)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			v, err := w.CreateCustomerGateway(marked(t, "alice", "1", "a"), project, CustomerGatewayCreate{IDValue: new("198.51.100.1")})
			if err != nil {
				t.Error(err)
			}
			ids[i] = v.ID
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("made %s and %s", ids[0], id)
		}
	}
	if n := w.peers(); n != 1 {
		t.Errorf("there are %d objects, want 1", n)
	}
}

func TestClientTokensAreBounded(t *testing.T) {
	w := newWorld(t)
	for i := range maxProjectTokens / store.MaxTxnSize {
		var ops []store.Op
		for n := range store.MaxTxnSize {
			put, err := w.objects.results.Put(fmt.Sprintf("%s/%d-%d", project, i, n), storedResult{Expires: w.clock.Add(time.Minute)})
			if err != nil {
				t.Fatal(err)
			}
			ops = append(ops, put)
		}
		if _, err := w.store.Txn(t.Context(), nil, ops); err != nil {
			t.Fatal(err)
		}
	}
	create := func(i int) error {
		_, err := w.CreateCustomerGateway(marked(t, "alice", fmt.Sprint(i), "a"), project, CustomerGatewayCreate{IDValue: new("198.51.100.1")})
		return err
	}
	for i := range maxProjectTokens % store.MaxTxnSize {
		if err := create(i); err != nil {
			t.Fatal(err)
		}
	}
	wantRefusal(t, create(-1), CodeBusy)
	if err := create(0); err != nil {
		t.Errorf("a repeated request was refused for the bound: %v", err)
	}
	w.clock = w.clock.Add(clientTokenSweep)
	if err := create(-1); err != nil {
		t.Errorf("after the others expired: %v", err)
	}
	rows, _, err := w.objects.results.List(t.Context(), "")
	if want := maxProjectTokens%store.MaxTxnSize + 1; err != nil || len(rows) != want {
		t.Errorf("%d results are kept (%v), want %d", len(rows), err, want)
	}
}
