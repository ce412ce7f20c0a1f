package netlab

// openVPN3 runs the services of OpenVPN 3 on a message bus of their own, and the
// client on them with a profile until SIGTERM, again where one of them was too slow for
// the others. Its log is what the services write.
// The rest of the arguments answers what the client asks for, a line each.
const openVPN3 = `set -e
mount -t tmpfs none /run
mount -t tmpfs none /var/lib
mkdir -p /run/dbus/services /var/lib/openvpn3/configs
echo _openvpn:x:990:990::/:/bin/false >>/etc/passwd
echo _openvpn:x:990: >>/etc/group
chown -R _openvpn: /var/lib/openvpn3
# The bus of a system would start each with the rights of its user by a helper.
for f in /usr/share/dbus-1/system-services/net.openvpn.v3.*; do
	sed -e '/^Exec.*netcfg/s|$| --resolv-conf /etc/resolv.conf|' -e '/^Exec.*netcfg/!s|^Exec=|Exec=/usr/bin/setpriv --reuid=990 --regid=990 --clear-groups |' \
		-e '/^User=/d' "$f" >"/run/dbus/services/${f##*/}"
done
cat >/run/dbus/bus.conf <<END
<busconfig>
<type>session</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><servicedir>/run/dbus/services</servicedir>
<limit name="service_start_timeout">60000</limit>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/></policy>
</busconfig>
END
dbus-daemon --config-file=/run/dbus/bus.conf --nofork --nopidfile &
bus=$!
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
profile=$0
trap 'openvpn3 session-manage --disconnect --config "$profile"; kill $bus; exit 0' TERM
until printf '%s\n' "$@" | openvpn3 session-start --config "$profile" --timeout 60; do sleep 1; done
wait $bus
`

// StartOpenVPN3 is StartOpenVPN for the client of OpenVPN 3, which installs the
// server's DNS servers by itself, where this client alone sees them. It is up once more
// with each change of its settings.
func (n *Namespace) StartOpenVPN3(name, profile, user, password string) (*OpenVPN, error) {
	file, err := n.openVPNFile(name, "client.ovpn", profile)
	if err != nil {
		return nil, err
	}
	args := NewerDebian("bash", "-c", openVPN3, file)
	if user != "" {
		args = append(args, user, password)
	}
	c := &OpenVPN{name: name, up: "Client INFO: Connected:"}
	c.process, err = n.Start(name, nil, args...)
	return c, err
}
