package control

import (
	"slices"
	"time"
	"unicode/utf8"
)

const maxLogMessage = 1024 // octets

// LogLine is one line of a connection's log.
type LogLine struct {
	Time    time.Time `json:"time"`
	Message string    `json:"message"` // the raw message, time and host included
}

// extendLog appends lines to a log and drops the oldest ones beyond the limit.
func extendLog(log, lines []LogLine) []LogLine {
	for _, l := range lines {
		if end := maxLogMessage; len(l.Message) > end {
			for end > 0 && !utf8.RuneStart(l.Message[end]) {
				end--
			}
			l.Message = l.Message[:end]
		}
		log = append(log, l)
	}
	return slices.Delete(log, 0, max(0, len(log)-maxLogLines))
}
