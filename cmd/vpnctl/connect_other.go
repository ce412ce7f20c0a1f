//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func connectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "connect PROFILE",
		Short: "Connect this host to a client-to-cloud VPN server (Linux only)",
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(*cobra.Command, []string) error {
			return errors.New("connect needs Linux; on other systems use an OpenVPN client with the same profile")
		},
	}
}
