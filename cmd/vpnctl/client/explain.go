package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Side is one end of a tunnel: "gateway" or "peer".
type Side string

// Remedy is one value to be changed so that both ends agree.
type Remedy struct {
	Field string `json:"field"`
	From  string `json:"from,omitempty"`
	To    string `json:"to,omitempty"`
}

// Diagnosis says why a negotiation failed, and by which changes both ends agree.
type Diagnosis struct {
	Cause       string   `json:"cause"`
	Exchange    string   `json:"exchange,omitempty"`
	BegunBy     Side     `json:"begun_by,omitempty"`
	Parameter   string   `json:"parameter"`
	Ours        string   `json:"ours"`
	Theirs      string   `json:"theirs"`
	Detail      string   `json:"detail,omitempty"`
	Changes     []Remedy `json:"changes,omitempty"`
	PeerChanges []Remedy `json:"peer_changes,omitempty"`
	AnyOf       bool     `json:"any_of,omitempty"`
}

// Explanation tells how a connection is, why, and what would change it.
type Explanation struct {
	ID        string `json:"vpn_connection_id"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Situation string `json:"situation"`
	Summary   string `json:"summary"`
	Facts     []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"facts"`
	Diagnosis *Diagnosis `json:"diagnosis,omitempty"`
	Count     int        `json:"count,omitempty"`
	First     time.Time  `json:"first,omitzero"`
	Last      time.Time  `json:"last,omitzero"`
	Next      string     `json:"next"`
	NextTry   time.Time  `json:"next_try,omitzero"`
}

// Explain tells how a connection is and why.
func (c *Client) Explain(ctx context.Context, connection string) (Explanation, error) {
	var answer struct {
		Explanation Explanation `json:"explanation"`
	}
	if err := c.do(ctx, http.MethodGet, Connections.path+"/"+url.PathEscape(connection)+"/diagnosis", nil, nil, &answer); err != nil {
		return Explanation{}, fmt.Errorf("diagnosis of connection %s: %w", connection, err)
	}
	return answer.Explanation, nil
}

// Event is one entry of a connection's history.
type Event struct {
	Time           time.Time  `json:"time"`
	Event          string     `json:"event"`
	BegunBy        Side       `json:"begun_by,omitempty"`
	IKEVersion     int        `json:"ike_version,omitempty"`
	Local          string     `json:"local,omitempty"`
	Peer           string     `json:"peer,omitempty"`
	InitiatorSPI   string     `json:"initiator_spi,omitempty"`
	ResponderSPI   string     `json:"responder_spi,omitempty"`
	Proposal       string     `json:"proposal,omitempty"`
	NAT            []Side     `json:"nat,omitempty"`
	UDP            bool       `json:"udp,omitempty"`
	Child          string     `json:"child,omitempty"`
	SPIIn          string     `json:"spi_in,omitempty"`
	SPIOut         string     `json:"spi_out,omitempty"`
	LocalSelectors []string   `json:"local_selectors,omitempty"`
	PeerSelectors  []string   `json:"peer_selectors,omitempty"`
	Gateway        string     `json:"gateway,omitempty"`
	Reason         string     `json:"reason,omitempty"`
	Cause          string     `json:"cause,omitempty"`
	Diagnosis      *Diagnosis `json:"diagnosis,omitempty"`
	Count          int        `json:"count,omitempty"`
	Since          time.Time  `json:"since,omitzero"`
}

// History returns what happened to a connection from a time on, which may be
// zero, the newest event first and at most so many.
func (c *Client) History(ctx context.Context, connection string, since time.Time, limit int) ([]Event, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339))
	}
	var answer struct {
		Events []Event `json:"events"`
	}
	if err := c.do(ctx, http.MethodGet, Connections.path+"/"+url.PathEscape(connection)+"/history", query, nil, &answer); err != nil {
		return nil, fmt.Errorf("history of connection %s: %w", connection, err)
	}
	return answer.Events, nil
}
