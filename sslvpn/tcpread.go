package sslvpn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// readRoomBehind is the spare octets behind the last frame, for its tag.
const readRoomBehind = tagLen

// maxTogether bounds the frames that are handed over together.
const maxTogether = 512

type readBuffer struct {
	octets []byte
	frames [][]byte
}

var readBuffers = sync.Pool{New: func() any {
	return &readBuffer{octets: make([]byte, readRoom+readRoomBehind), frames: make([][]byte, 0, maxTogether)}
}}

// reader takes a TCP stream apart. While the stream is silent it holds no more
// than the start of a frame.
type reader struct {
	socket *tcpSocket
	guard  func() bool // nil: nothing is fenced
	begun  []byte      // the start of a frame whose end has not come
	gather gather

	buf *readBuffer
	n   int // octets that were read, behind those of begun
}

// borrow gets a buffer that has what has begun, and returns the rest of it.
func (r *reader) borrow() []byte {
	r.buf = readBuffers.Get().(*readBuffer)
	return r.buf.octets[copy(r.buf.octets, r.begun):readRoom]
}

func (r *reader) giveBack() {
	readBuffers.Put(r.buf)
	r.buf = nil
}

// run reads packets until the connection ends or a handler returns an error,
// which is returned. data gets DATA packets that came together, control every
// other packet; both keep the order in which they came. What they are given
// stays valid until they return, and may be changed. The error of a stream
// that ended is io.EOF.
func (l *tcpLink) run(control func(packet []byte) error, data func(packets [][]byte) error) error {
	return l.reader.run(control, data)
}

func (r *reader) run(control func(packet []byte) error, data func(packets [][]byte) error) error {
	for {
		r.gather.before()
		switch err := r.socket.read(r); {
		case r.gather.on && errors.Is(err, os.ErrDeadlineExceeded):
			r.gather.over()
			continue
		case err != nil:
			return err
		case r.n == 0:
			r.giveBack()
			if len(r.begun) > 0 {
				return io.ErrUnexpectedEOF
			}
			return io.EOF
		}
		if r.guard != nil && !r.guard() {
			r.giveBack()
			return errFenced
		}
		r.gather.after(r.n, time.Now)
		err := r.split(r.buf.octets[:len(r.begun)+r.n], control, data)
		r.giveBack()
		if err != nil {
			return err
		}
	}
}

// split hands over the frames of what was read and keeps the rest.
func (r *reader) split(stream []byte, control func([]byte) error, data func([][]byte) error) error {
	frames := r.buf.frames[:0]
	hand := func() error {
		if len(frames) == 0 {
			return nil
		}
		err := data(frames)
		frames = frames[:0]
		return err
	}
	for len(stream) >= frameLen {
		n := int(binary.BigEndian.Uint16(stream))
		if n == 0 || n > maxFrame {
			return errors.Join(hand(), fmt.Errorf("frame of %d octets: %w", n, errFrameLength))
		}
		if len(stream) < frameLen+n {
			break
		}
		// The capacity reaches over the next frames, where a tag finds room.
		packet := stream[frameLen : frameLen+n]
		stream = stream[frameLen+n:]
		if op := packet[0] >> 3; op == opcodeDataV1 || op == opcodeDataV2 {
			if frames = append(frames, packet); len(frames) < maxTogether {
				continue
			}
			if err := hand(); err != nil {
				return err
			}
			continue
		}
		if err := hand(); err != nil {
			return err
		}
		if err := control(packet); err != nil {
			return err
		}
	}
	err := hand()
	r.begun = append(r.begun[:0], stream...)
	return err
}
