package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"time"
)

// codeBusy is the code of a refusal of which nothing was done: the caller asks
// too often, or too many do at once.
const codeBusy = "VPN.0030"

// Pauses before a call that was refused as busy is made again: the longest that
// the first one takes, the longest of all, and how long to try.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	busyPatience = time.Minute
)

// do makes one call below /v5/{project}; in and out may be nil. It makes the
// call again while the API is busy.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var waited time.Duration
	for longest := firstPause; ; longest = min(2*longest, longestPause) {
		err := c.try(ctx, method, path, query, in, out)
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.Code != codeBusy || waited >= busyPatience {
			return err
		}
		// Callers that were refused together do not come back together.
		pause := longest/2 + rand.N(longest/2)
		waited += pause
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}
