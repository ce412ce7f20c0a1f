package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrTimeout is the cause of a wait that ended before its object was ready.
var ErrTimeout = errors.New("timed out")

// poll calls look until it is done. Every zero means a second.
func poll(ctx context.Context, every time.Duration, look func() (done bool, err error)) error {
	if every == 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		done, err := look()
		// A call that the end of the wait cut short tells nothing.
		if done || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ErrTimeout
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// WaitSettled waits until no change of an object is in work and returns it. A
// kind without a status is settled at once.
func (c *Client) WaitSettled(ctx context.Context, kind Kind, id string, every time.Duration) (Object, error) {
	var o Object
	err := poll(ctx, every, func() (bool, error) {
		now, err := c.Get(ctx, kind, id)
		if err != nil {
			return false, err
		}
		o = now
		return !strings.HasPrefix(o.Status(), "PENDING_"), nil
	})
	if err != nil {
		return nil, waitError(kind, o, id, err)
	}
	return o, nil
}

// WaitActive waits until an object is ACTIVE. FAULT, ERROR and a freeze do not
// mend themselves: they end the wait.
func (c *Client) WaitActive(ctx context.Context, kind Kind, id string, every time.Duration) (Object, error) {
	var o Object
	err := poll(ctx, every, func() (bool, error) {
		now, err := c.Get(ctx, kind, id)
		if err != nil {
			return false, err
		}
		o = now
		switch o.Status() {
		case "FAULT", "ERROR", "FREEZED", "FROZEN":
			return false, errors.New("does not become ACTIVE")
		}
		return o.Status() == "ACTIVE", nil
	})
	if err != nil {
		return o, waitError(kind, o, id, err)
	}
	return o, nil
}

// WaitGone waits until an object is not found.
func (c *Client) WaitGone(ctx context.Context, kind Kind, id string, every time.Duration) error {
	var o Object
	err := poll(ctx, every, func() (bool, error) {
		now, err := c.Get(ctx, kind, id)
		if err != nil {
			if IsNotFound(err) {
				return true, nil
			}
			return false, err
		}
		o = now
		if o.Status() == "ERROR" || o.Status() == "FAULT" {
			return false, errors.New("cannot be deleted")
		}
		return false, nil
	})
	if err != nil {
		return waitError(kind, o, id, err)
	}
	return nil
}

func waitError(kind Kind, o Object, id string, err error) error {
	name := id
	if o.Name() != "" {
		name = o.Name()
	}
	if o.Status() == "" {
		return fmt.Errorf("%s %s: %w", kind.Name, name, err)
	}
	status := o.Status()
	if message := o.StatusMessage(); message != "" {
		status += " (" + message + ")"
	}
	return fmt.Errorf("%s %s is %s: %w", kind.Name, name, status, err)
}
