package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticks is the unit of CPU times in /proc: USER_HZ is 100 on every Linux.
const ticks = time.Second / 100

// cpuTimes are CPU times used so far.
type cpuTimes struct {
	gateways time.Duration // of the processes in both namespaces
	machine  time.Duration // of everything
}

// sample reads the CPU times. It is called while no iperf3 runs, so that the
// processes in the namespaces are the gateways.
func (p *pair) sample(ctx context.Context) (cpuTimes, error) {
	var t cpuTimes
	for _, s := range []*side{&p.a, &p.b} {
		list, err := s.Run(ctx, "ip", "netns", "pids", s.Name)
		if err != nil {
			return t, err
		}
		for _, pid := range strings.Fields(list) {
			used, err := processTime(pid)
			if err != nil {
				continue // it was the `ip` that listed it
			}
			t.gateways += used
		}
	}
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	t.machine, err = busyTime(string(stat))
	return t, err
}

// processTime returns the user and system time of a process.
func processTime(pid string) (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return 0, err
	}
	return parseProcessTime(string(stat))
}

// parseProcessTime reads fields 14 and 15 of /proc/PID/stat (proc(5)).
func parseProcessTime(stat string) (time.Duration, error) {
	// The command, in parentheses, may hold blanks and parentheses itself.
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:]) // from field 3
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("process state %q: too few fields", stat)
	}
	return sumTicks(fields[11:13])
}

// busyTime reads the first line of /proc/stat: all that is not idle or waiting
// for a disk.
func busyTime(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0, fmt.Errorf("machine state %q: no line of all CPUs", line)
	}
	// user nice system idle iowait irq softirq
	return sumTicks(append(append([]string{}, fields[1:4]...), fields[6:8]...))
}

func sumTicks(fields []string) (time.Duration, error) {
	var sum time.Duration
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time %q: %w", f, err)
		}
		sum += time.Duration(n) * ticks
	}
	return sum, nil
}
