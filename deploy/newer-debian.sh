#!/usr/bin/env bash
# newer-debian.sh - unpacks programs of Debian's testing suite, newer than those of
# this host: OpenVPN 2.7 and 3, and strongSwan 6, with the libraries they need. The host's
# own packages and its apt stay as they are: netlab lays usr/ of the tree over the
# /usr that such a program sees.
#
#   newer-debian.sh missing   succeeds when the tree is not there, or another one is
#   newer-debian.sh setup     makes it: needs root, and the host's package lists
set -euo pipefail

suite=forky
tree=/var/cache/vpngw-newer-debian
packages=(
  openvpn openvpn3-client
  charon-systemd strongswan-swanctl libstrongswan-standard-plugins
  libstrongswan-extra-plugins libcharon-extra-plugins libcharon-extauth-plugins
)
# These want more to be installed than what their programs use here.
assumed=(adduser debconf libcurl4t64 libip4tc2 libldap2 libtss2-sys1t64 python3 systemd)

fail() {
  echo "newer-debian.sh: $*" >&2
  exit 1
}
contents() { printf '%s\n' "$suite" "${packages[@]}" "without ${assumed[*]}"; }
missing() { [ "$(cat $tree/contents 2>/dev/null)" != "$(contents)" ]; }

setup() {
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -1)
  [ -n "$mirror" ] || fail "apt has no mirror of Debian, or its lists are not there (apt-get update)"
  work=$(mktemp -d)
  trap 'rm -rf "$work" $tree.new' EXIT
  chmod 755 "$work" # apt fetches as a user of its own
  mkdir -p "$work"/{lists,archives}/partial "$work"/preferences
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
  for p in "${assumed[@]}"; do
    printf '%s\n' "Package: $p" 'Status: install ok installed' 'Version: 9999' \
      "Architecture: $(dpkg --print-architecture)" 'Multi-Arch: allowed' 'Maintainer: none' 'Description: assumed' ''
  done >"$work/status"
  apt=(
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=-
    -o Dir::Etc::Preferences="$work/none" -o Dir::Etc::PreferencesParts="$work/preferences"
    -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::State::extended_states="$work/extended"
    -o Dir::Cache::archives="$work/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
    -o Acquire::Retries=3 -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    -o APT::Update::Error-Mode=any
  )
  "${apt[@]}" update || fail "cannot fetch the package lists of $suite from $mirror"
  "${apt[@]}" install --download-only --no-install-recommends -y "${packages[@]}" >/dev/null ||
    fail "cannot fetch from $suite of $mirror: ${packages[*]}"
  rm -rf $tree.new
  mkdir $tree.new
  for file in "$work"/archives/*.deb; do
    dpkg-deb -x "$file" $tree.new
  done
  rm -rf $tree.new/usr/share/{doc,man,lintian,bug}
  contents >$tree.new/contents
  rm -rf $tree
  mv $tree.new $tree
}

case ${1:-} in
  missing) missing ;;
  setup) setup ;;
  *) fail "usage: newer-debian.sh missing | setup" ;;
esac
