package client

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestBusyCallsAreMadeAgain(t *testing.T) {
	calls := 0
	c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls < 3 {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error_code":"VPN.0030","error_msg":"The system is busy, please try later."}`)
			return
		}
		fmt.Fprint(w, `{"vpn_gateway":{"id":"1"}}`)
	})
	if o, err := c.Create(t.Context(), Gateways, Object{"name": "n"}); err != nil || o.ID() != "1" || calls != 3 {
		t.Errorf("%v after %d calls: %v", o, calls, err)
	}
}

func TestBusyCallsEndWithTheirContext(t *testing.T) {
	c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error_code":"VPN.0030","error_msg":"The system is busy, please try later."}`)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, Gateways, "1"); err == nil {
		t.Error("no error")
	}
}

func TestOtherRefusalsAreFinal(t *testing.T) {
	calls := 0
	c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
		calls++
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error_code":"VPN.0031","error_msg":"clashes"}`)
	})
	if _, err := c.Get(t.Context(), Gateways, "1"); err == nil || calls != 1 {
		t.Errorf("%d calls: %v", calls, err)
	}
}
