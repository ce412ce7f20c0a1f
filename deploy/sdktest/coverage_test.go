package sdktest

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/httphandler"
	vpn "github.com/huaweicloud/huaweicloud-sdk-go-v3/services/vpn/v5"
)

// operations is how many there are in the version of the SDK that go.mod names.
const operations = 89

// answered has the statuses that each operation of the SDK was answered with.
var answered struct {
	sync.Mutex
	statuses map[string][]int
}

// note is called by the SDK, on the goroutine of the caller, after each answer.
func note(m *httphandler.MonitorMetric) {
	name := callingOperation()
	answered.Lock()
	defer answered.Unlock()
	if answered.statuses == nil {
		answered.statuses = map[string][]int{}
	}
	answered.statuses[name] = append(answered.statuses[name], m.StatusCode)
}

// callingOperation is the method of the SDK's client that is being called.
func callingOperation() string {
	var counters [64]uintptr
	frames := runtime.CallersFrames(counters[:runtime.Callers(2, counters[:])])
	for {
		frame, more := frames.Next()
		if _, name, ok := strings.Cut(frame.Function, "(*VpnClient)."); ok {
			return name
		}
		if !more {
			return ""
		}
	}
}

// clientOperations are the methods of the SDK's client that call the API.
func clientOperations() []string {
	var names []string
	client := reflect.TypeFor[*vpn.VpnClient]()
	for i := range client.NumMethod() {
		if m := client.Method(i); m.Type.NumOut() == 2 { // the others return what invokes them
			names = append(names, m.Name)
		}
	}
	return names
}

// uncovered tells which operations of the SDK were not run, or never succeeded.
func uncovered() error {
	var missing []string
	names := clientOperations()
	if len(names) != operations {
		return fmt.Errorf("the SDK has %d operations, want %d", len(names), operations)
	}
	for _, name := range names {
		statuses := answered.statuses[name]
		succeeded := slices.ContainsFunc(statuses, func(s int) bool { return s < 300 })
		switch {
		case len(statuses) == 0:
			missing = append(missing, name+" was not run")
		case !succeeded:
			missing = append(missing, fmt.Sprintf("%s was answered %v only", name, statuses))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%d of %d operations: %s", len(missing), len(names), strings.Join(missing, "; "))
	}
	fmt.Printf("sdktest: all %d operations of the SDK were run\n", len(names))
	return nil
}
