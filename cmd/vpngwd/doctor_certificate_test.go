package main

import (
	"testing"
	"time"

	"github.com/vpngw/vpngw/control"
	"github.com/vpngw/vpngw/control/certtest"
)

func TestDoctorOnCertificates(t *testing.T) {
	root := certtest.New(t, "root")
	certificateFile, keyFile := root.Server(t, "vpn").Files(t, root)
	inv := control.Inventory{Certificates: []control.Certificate{{ID: "c1", CertificateFile: certificateFile, KeyFile: keyFile}}}
	if err := inv.Validate(); err != nil {
		t.Fatal(err)
	}
	from, to := certtest.Valid.AddDate(-1, 0, 0), certtest.Valid.AddDate(1, 0, 0)
	for _, test := range []struct {
		now  time.Time
		want verdict
		fix  bool
	}{
		{from.Add(-time.Second), verdictWarn, false},
		{from, verdictOK, false},
		{to.Add(-certificateNotice), verdictOK, false},
		{to.Add(-certificateNotice + time.Second), verdictWarn, true},
		{to, verdictWarn, true},
		{to.Add(time.Second), verdictFail, true},
	} {
		f := certificates(inv.Certificates, test.now)
		if len(f) != 1 || f[0].Verdict != test.want || (f[0].Fix != "") != test.fix {
			t.Errorf("at %s: %+v, want %s", test.now, f, test.want)
		}
	}
}
