// Command wireguard runs wireguard-go on a TUN interface, for vpnbench to
// compare with. It is a module of its own so that the product does not depend
// on WireGuard.
//
//	wireguard INTERFACE MTU CONFIGURATION
//
// The configuration is a file in the form of the cross-platform userspace API: key=value
// lines. "ready" is printed when the device is up; SIGTERM ends it.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "wireguard:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 {
		return fmt.Errorf("usage: wireguard INTERFACE MTU CONFIGURATION")
	}
	mtu, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("MTU %q: must be a number", args[1])
	}
	config, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	link, err := tun.CreateTUN(args[0], mtu)
	if err != nil {
		return err
	}
	dev := device.NewDevice(link, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wireguard: "))
	defer dev.Close()
	if err := dev.IpcSet(string(config)); err != nil {
		return err
	}
	if err := dev.Up(); err != nil {
		return err
	}
	fmt.Println("ready")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
	case <-dev.Wait():
	}
	return nil
}
