//go:build ignore

// Command edit_document writes the documentation of what edits do to tunnels.
package main

import (
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/vpngw/vpngw/control"
)

const head = `<!-- Generated from control/edit.go by "make generate". Do not edit. -->
# Edits and what they do to tunnels
No edit drops traffic that is wanted before and after it, save for those of class ` + "`drop`" + `. Before an edit, ` + "`vpnctl plan -f FILE`" + ` asks the daemon for
the class of each tunnel ([vpnctl](vpnctl.md#plan)).

| class | what happens |
| --- | --- |
| ` + "`nothing`" + ` | All SAs stay. Routes that are new come before those that go. |
| ` + "`child_rekey`" + ` | A new CHILD_SA with the new selectors and algorithms is negotiated under the IKE SA that stands, or in IKEv1 by a new quick mode. Traffic moves over, the old one receives for two more seconds, and is deleted. |
| ` + "`make_before_break`" + ` | A new IKE SA is negotiated beside the one that stands, with all its CHILD_SAs; then the old one is deleted. In IKEv1 a new phase 1 takes over, and new quick modes replace the CHILD_SAs. |
| ` + "`drop`" + ` | The tunnel is between other addresses, or what proved the peer is not trusted any more: it ends, and is negotiated anew. Another address of the gateway alone is ` + "`nothing`" + ` where it began the IKE SA and MOBIKE is agreed on. |

## When the peer changes later, or earlier
Both ends hardly ever change at the same moment. A peer that has not changed yet refuses what is new. Then what stands goes on, and the gateway tries
again after 1, 2, 4 … up to 60 seconds: the connection stays ACTIVE, and its ` + "`status_message`" + ` says that the peer has not agreed to the last change, and why.
A peer that accepts less than was asked for (fewer traffic selectors) is asked again in the same rhythm, thirty times at most.

- A CHILD_SA that is not as configured is not rekeyed: it ends with its lifetime.
- An IKE SA that is not as configured ends with the lifetime that it had when the configuration changed, whatever rekeys come in between. An edit that is taken back
  before lets it go on as if nothing had been.
- A pre-shared key that is changed because it has become known is out of use at once only after ` + "`vpnctl reset`" + `, which drops the tunnel.
- Where only the peer can begin (its address is not known, or behind a NAT), a new IKE SA comes with the peer's next authentication.

## All fields
`

func main() {
	var b strings.Builder
	b.WriteString(head)
	object := ""
	for _, e := range control.Edits {
		if e.Object != object {
			object = e.Object
			fmt.Fprintf(&b, "\n### %s\n| field | class | remark |\n| --- | --- | --- |\n", strings.ReplaceAll(object, "_", " "))
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", e.Field, e.Disruption, e.Note)
	}
	if err := os.WriteFile(os.Args[1], []byte(b.String()), 0o644); err != nil {
		log.Fatal(err)
	}
}
