package main

import (
	"fmt"
	"time"

	"github.com/vpngw/vpngw/control"
)

// certificateNotice is how long before the end of a certificate the doctor
// tells of it.
const certificateNotice = 30 * 24 * time.Hour

// certificates looks at the server certificates of the inventory. Clients refuse
// a server whose certificate is not in force.
func certificates(list []control.Certificate, now time.Time) []finding {
	var findings []finding
	for i := range list {
		from, to := list[i].Validity()
		f := finding{verdictOK, "certificate " + list[i].ID, "valid until " + to.Format(time.DateOnly), ""}
		fix := fmt.Sprintf("a new certificate in %s and its key in %s, then SIGHUP", list[i].CertificateFile, list[i].KeyFile)
		switch {
		case now.Before(from):
			f.Verdict, f.Detail = verdictWarn, "valid from "+from.Format(time.DateTime)+" on: clients refuse it until then"
		case now.After(to):
			f.Verdict, f.Detail, f.Fix = verdictFail, "ended on "+to.Format(time.DateOnly)+": clients refuse it", fix
		case now.Add(certificateNotice).After(to):
			f.Verdict, f.Detail, f.Fix = verdictWarn, "ends on "+to.Format(time.DateOnly), fix
		}
		findings = append(findings, f)
	}
	return findings
}
