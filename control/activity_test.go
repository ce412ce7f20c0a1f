package control

import "testing"

func TestStatusMessageTellsWhatIsDone(t *testing.T) {
	for _, tt := range []struct{ state, message, want string }{
		{"ACTIVE", "", ""},
		{"ACTIVE", "1 of 2 CHILD_SAs are up", "1 of 2 CHILD_SAs are up"},
		{"PENDING_CREATE", "", "waits to be applied"},
		{"PENDING_UPDATE", "what was wrong before", "a change waits to be applied; until then the configuration before it is in force"},
		{"PENDING_DELETE", "", "is being taken down"},
		{"ERROR", "no more devices", "no more devices; tried again until it succeeds"},
		{"FAULT", "", "tried again until it succeeds"},
		{"UNKNOWN", "the node that serves it is stopped", "the node that serves it is stopped"},
	} {
		if got := statusMessage(tt.state, tt.message); got != tt.want {
			t.Errorf("%s %q: got %q, want %q", tt.state, tt.message, got, tt.want)
		}
	}
	w := newWorld(t)
	g := w.gateway()
	name := "new"
	view, err := w.UpdateGateway(t.Context(), project, g.ID, GatewayUpdate{Name: &name})
	if err != nil || view.StatusMessage() == "" {
		t.Errorf("a gateway that is %s says %q, %v", view.State, view.StatusMessage(), err)
	}
}
