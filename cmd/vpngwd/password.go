package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vpngw/vpngw/control"
)

// maxPasswordLine bounds what is read of a password, in octets.
const maxPasswordLine = 4096

// hashPassword reads a password, a line, and prints the hash that
// api.users[].password_hash takes.
func hashPassword(stdin io.Reader, stdout, stderr io.Writer) int {
	password, err := readPassword(stdin, stderr)
	if err == nil {
		var hash control.PasswordHash
		if hash, err = control.HashPassword(password, nil); err == nil {
			fmt.Fprintln(stdout, hash.Encode())
			return exitOK
		}
	}
	fmt.Fprintln(stderr, "vpngwd:", err)
	return exitUsage
}

// readPassword reads a line. A terminal is asked, and does not show what is
// typed.
func readPassword(stdin io.Reader, stderr io.Writer) (control.Secret, error) {
	if f, ok := stdin.(*os.File); ok {
		if shown, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			quiet := *shown
			quiet.Lflag &^= unix.ECHO
			if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &quiet); err != nil {
				return control.Secret{}, fmt.Errorf("terminal: %w", err)
			}
			defer func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, shown) }()
			fmt.Fprint(stderr, "password: ")
			defer fmt.Fprintln(stderr)
		}
	}
	line, err := bufio.NewReader(io.LimitReader(stdin, maxPasswordLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return control.Secret{}, fmt.Errorf("read the password: %w", err)
	}
	return control.NewSecret(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")), nil
}
