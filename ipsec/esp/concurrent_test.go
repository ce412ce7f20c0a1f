package esp

import (
	"bytes"
	"errors"
	"sync"
	"testing"
)

// TestWorkersShareAnSA has several workers seal and open packets of one SA:
// every packet is accepted once, and a copy never.
func TestWorkersShareAnSA(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[6]} {
		t.Run(s.name, func(t *testing.T) {
			const workers, each = 4, 200
			out, in := pair(t, s.sa(true))
			wire := make(chan []byte, 2*workers*each)
			var sealing sync.WaitGroup
			for range workers {
				sealing.Go(func() {
					sealer, packet := out.NewSealer(), room(counting(7, 90))
					for range each {
						sealed, err := sealer.Seal(nil, packet, 4)
						if err != nil {
							t.Error(err)
							return
						}
						wire <- sealed
						wire <- bytes.Clone(sealed)
					}
				})
			}
			sealing.Wait()
			close(wire)

			var opening sync.WaitGroup
			for range workers {
				opening.Go(func() {
					opener := in.NewOpener()
					for packet := range wire {
						if _, _, err := opener.Open(packet); err != nil && !errors.Is(err, ErrReplay) {
							t.Error(err)
						}
						in.State()
					}
				})
			}
			opening.Wait()
			const total = workers * each
			if st := out.State(); st.Packets != total || st.Bytes != total*90 {
				t.Errorf("sealed: %+v", st)
			}
			if st := in.State(); st.Packets != total || st.Drops["replay"] != total || st.Sequence != total {
				t.Errorf("opened: %+v", st)
			}
		})
	}
}

// TestWipeUnderWay deletes an SA while workers use it.
func TestWipeUnderWay(t *testing.T) {
	for _, s := range []suite{suites()[0], suites()[6]} {
		out, in := pair(t, s.sa(false))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				sealer, opener, packet := out.NewSealer(), in.NewOpener(), room(counting(7, 90))
				for {
					sealed, err := sealer.Seal(nil, packet, 4)
					if errors.Is(err, ErrWiped) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					// A worker that sleeps in between finds its packet left of the window.
					if _, _, err := opener.Open(sealed); err != nil && !errors.Is(err, ErrWiped) && !errors.Is(err, ErrReplay) {
						t.Error(err)
						return
					}
				}
			})
		}
		for out.State().Packets < 100 {
			in.State()
		}
		in.Wipe()
		out.Wipe()
		wg.Wait()
	}
}
