package control

import (
	"slices"
	"time"
	"unicode/utf8"
)

// MaxLogLines is how many lines the log of a connection keeps.
const MaxLogLines = 200

const maxLogMessage = 1024 // octets

// LogLine is one line of a connection's log.
type LogLine struct {
	Time    time.Time `json:"time"`
	Message string    `json:"message"` // the raw message, time and host included
}

// boundLog returns the latest lines, each cut to a bounded length.
func boundLog(lines []LogLine) []LogLine {
	lines = slices.Clone(lines[max(0, len(lines)-MaxLogLines):])
	for i := range lines {
		l := &lines[i]
		if end := maxLogMessage; len(l.Message) > end {
			for end > 0 && !utf8.RuneStart(l.Message[end]) {
				end--
			}
			l.Message = l.Message[:end]
		}
	}
	return lines
}
