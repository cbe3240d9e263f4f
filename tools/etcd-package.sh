#!/bin/sh
# Unpacks, without installing it, the etcd of another Debian for the tests, and prints the path of the program; does nothing,
# quickly, where it is there.
#
#   etcd-package.sh SUITE [DIR]     default directory: etcd-SUITE in ~/.cache/calico-libnetwork
#
# bookworm has etcd 3.4, trixie 3.5.
set -eu
case ${1:-} in
"" | -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
suite=$1
dir=${2:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/calico-libnetwork/etcd-$suite}
program=$dir/usr/bin/etcd
if [ -x "$program" ]; then echo "$program"; exit; fi

mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
flock 9 # another run may be at it
if [ -x "$program" ]; then echo "$program"; exit; fi
new=$dir.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
trap 'exit 1' INT TERM HUP
apt=$new/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/etc"
# The mirror that this machine has its own Debian from; it serves the other suites as well.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' 2>/dev/null | grep -m1 '/debian$') || {
    echo "etcd-package: apt has no Debian mirror to take $suite's etcd from" >&2
    exit 1
}
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/etc/sources.list"
: >"$apt/status"
apt_get() {
    apt-get -qq -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Etc::sourcelist="$apt/etc/sources.list" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root "$@" >&2
}
apt_get update
(cd "$apt" && apt_get download etcd-server)
for package in "$apt"/*.deb; do dpkg-deb --extract "$package" "$new"; done
rm -rf "$apt"
mv "$new" "$dir"
echo "$program"
