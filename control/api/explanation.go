package api

import (
	"context"
	"time"

	"github.com/vpngw/vpngw/control"
)

// defaultHistory is how many events an answer has where the request does not say.
const defaultHistory = 200

// ShowVpnConnectionDiagnosis tells how a connection is and why.
func (h *handlers) ShowVpnConnectionDiagnosis(ctx context.Context, req ShowVpnConnectionDiagnosisRequestObject) (ShowVpnConnectionDiagnosisResponseObject, error) {
	x, err := h.server.service.ExplainConnection(ctx, req.ProjectID, req.VpnConnectionID)
	if err != nil {
		return nil, err
	}
	answer := Explanation{
		VpnConnectionID: req.VpnConnectionID, Name: x.Name, Status: string(x.State), Situation: Situation(x.Situation), Summary: x.Summary,
		Diagnosis: diagnosisAnswer(x.Diagnosis), First: timeOrAbsent(x.First), Last: timeOrAbsent(x.Last),
		Next: x.Next, NextTry: timeOrAbsent(x.NextTry),
	}
	if x.Count > 0 {
		answer.Count = &x.Count
	}
	answer.Facts = make([]struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}, len(x.Facts))
	for i, f := range x.Facts {
		answer.Facts[i].Name, answer.Facts[i].Value = f.Name, f.Value
	}
	return ShowVpnConnectionDiagnosis200JSONResponse{Explanation: answer, RequestID: callOf(ctx).requestID}, nil
}

// ListVpnConnectionEvents shows the history of a connection.
func (h *handlers) ListVpnConnectionEvents(ctx context.Context, req ListVpnConnectionEventsRequestObject) (ListVpnConnectionEventsResponseObject, error) {
	q := control.HistoryQuery{Limit: defaultHistory}
	if req.Params.Limit != nil {
		q.Limit = *req.Params.Limit
	}
	if req.Params.Since != nil {
		q.Since = *req.Params.Since
	}
	events, err := h.server.service.ConnectionHistory(ctx, req.ProjectID, req.VpnConnectionID, q)
	if err != nil {
		return nil, err
	}
	answer := ListVpnConnectionEvents200JSONResponse{Events: make([]ConnectionEvent, len(events)), RequestID: callOf(ctx).requestID}
	for i := range events {
		answer.Events[i] = eventAnswer(&events[i])
	}
	return answer, nil
}

func eventAnswer(e *control.ConnectionEvent) ConnectionEvent {
	answer := ConnectionEvent{
		Time: e.Time, Event: ConnectionEventEvent(e.Event), BegunBy: sideAnswer(e.BegunBy), Local: orAbsent(e.Local), Peer: orAbsent(e.Peer),
		InitiatorSpi: orAbsent(e.InitiatorSPI), ResponderSpi: orAbsent(e.ResponderSPI), Proposal: orAbsent(e.Proposal),
		Child: orAbsent(e.Child), SpiIn: orAbsent(e.SPIIn), SpiOut: orAbsent(e.SPIOut),
		Gateway: orAbsent(e.Gateway), Reason: orAbsent(e.Reason), Cause: orAbsent(e.Cause), Diagnosis: diagnosisAnswer(e.Diagnosis), Since: timeOrAbsent(e.Since),
	}
	if e.IKEVersion > 0 {
		answer.IkeVersion = &e.IKEVersion
	}
	if len(e.NAT) > 0 {
		sides := make([]Side, len(e.NAT))
		for i, s := range e.NAT {
			sides[i] = Side(s)
		}
		answer.Nat = &sides
	}
	if e.UDP {
		answer.UDP = &e.UDP
	}
	if len(e.LocalSelectors) > 0 {
		answer.LocalSelectors = &e.LocalSelectors
	}
	if len(e.PeerSelectors) > 0 {
		answer.PeerSelectors = &e.PeerSelectors
	}
	if e.Count > 0 {
		answer.Count = &e.Count
	}
	return answer
}

func diagnosisAnswer(d *control.Diagnosis) *Diagnosis {
	if d == nil {
		return nil
	}
	answer := &Diagnosis{
		Cause: orAbsent(d.Cause), Exchange: orAbsent(d.Exchange), BegunBy: sideAnswer(d.BegunBy),
		Parameter: d.Parameter, Ours: d.Ours, Theirs: d.Theirs, Detail: orAbsent(d.Detail),
		Changes: remediesAnswer(d.Changes), PeerChanges: remediesAnswer(d.PeerChanges),
	}
	if d.AnyOf {
		answer.AnyOf = &d.AnyOf
	}
	return answer
}

func remediesAnswer(list []control.Remedy) *[]Remedy {
	if len(list) == 0 {
		return nil
	}
	answer := make([]Remedy, len(list))
	for i, r := range list {
		answer[i] = Remedy{Field: r.Field, From: orAbsent(r.From), To: orAbsent(r.To)}
	}
	return &answer
}

func sideAnswer(s control.Side) *Side {
	if s == "" {
		return nil
	}
	return pointer(Side(s))
}

func timeOrAbsent(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return pointer(t.UTC())
}
