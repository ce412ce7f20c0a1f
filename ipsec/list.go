package ipsec

import (
	"fmt"
	"strings"
)

// maxListed bounds how many items a list in a message names. Peers fill such
// lists, and messages become lines of log.
const maxListed = 32

// List joins the names of items for a message. Of a long list it names the
// first ones and how many more there are; an empty list reads "none".
func List[T fmt.Stringer](items []T, separator string) string {
	if len(items) == 0 {
		return "none"
	}
	names := make([]string, 0, min(len(items), maxListed+1))
	for _, item := range items[:min(len(items), maxListed)] {
		names = append(names, item.String())
	}
	if more := len(items) - maxListed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, separator)
}

// TransformList joins transforms for a message, as List does.
func TransformList(list []Transform) string { return List(list, ", ") }

// SelectorList joins selectors for a message, as List does.
func SelectorList(list []TrafficSelector) string { return List(list, ", ") }
