package connlog

import (
	"bytes"
	"context"
	"errors"
	"os"
)

// fileSink appends lines to a file.
type fileSink struct {
	path string
	file *os.File
}

func (s *fileSink) deliver(_ context.Context, batch []Record) (int, error) {
	if s.file == nil {
		f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
		if err != nil {
			return 0, err
		}
		s.file = f
	}
	var text bytes.Buffer
	ends := make([]int, len(batch))
	for i := range batch {
		text.Write(batch[i].line())
		text.WriteByte('\n')
		ends[i] = text.Len()
	}
	written, err := s.file.Write(text.Bytes())
	if err == nil {
		return len(batch), nil
	}
	// A disk that is full may have taken a part. A line that was cut is ended,
	// and comes again whole.
	taken := 0
	for taken < len(ends) && ends[taken] <= written {
		taken++
	}
	if written > 0 && (taken == 0 || ends[taken-1] < written) {
		_, endErr := s.file.WriteString("\n")
		err = errors.Join(err, endErr)
	}
	return taken, err
}

func (s *fileSink) close() {
	if s.file != nil {
		_ = s.file.Close() // every line was written by now, or was counted
		s.file = nil
	}
}
