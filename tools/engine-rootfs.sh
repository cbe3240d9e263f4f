#!/bin/sh
# Makes the root file system of a Debian whose Docker Engine the tests can run instead of this machine's (ENGINE=SUITE, host.sh);
# does nothing, quickly, where it is there.
#
#   engine-rootfs.sh SUITE [DIR]     default directory: SUITE in $CALICO_ENGINES, by default ~/.cache/calico-libnetwork/engines
#   engine-rootfs.sh --where SUITE   print that default directory
#
# trixie has Docker 26.1, forky 28.5. The directory is what the suite had on the day it was made: remove it to have today's.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"

# The engine and its client, and the programs that host.sh and the tests run on the host.
packages=docker.io,docker-cli,containerd,runc,iptables,nftables,iproute2,busybox-static,util-linux

where() {
    cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}
    echo "${CALICO_ENGINES:-$cache/calico-libnetwork/engines}/$1"
}

build() {
    # Older debootstraps know no newer suites by name; one script serves them all.
    script=/usr/share/debootstrap/scripts/$suite
    [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
    # In namespaces of its own: what a package mounts or starts ends with it. No mirror named is debootstrap's own.
    unshare --mount --pid --fork debootstrap --variant=minbase --include="$packages" "$suite" "$new" "" "$script" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        echo "engine-rootfs: debootstrap could not make $suite" >&2
        return 1
    }
    rm -rf "$new/debootstrap" "$new/var/lib/apt/lists" "$new/var/cache/apt"
    chmod 755 "$new"
}

case ${1:-} in
--where) where "${2:?usage: engine-rootfs.sh --where SUITE}"; exit ;;
"" | -*) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
suite=$1
dir=${2:-$(where "$suite")}
[ ! -d "$dir" ] || exit 0
[ "$(id -u)" = 0 ] || { echo "engine-rootfs: only root can make $dir" >&2; exit 1; }
"$(dirname "$0")/setup.sh" engines
mkdir -p "$(dirname "$dir")"
exec 9>"$dir.lock"
flock 9 # another run may be making it
[ ! -d "$dir" ] || exit 0

echo "making the root file system of Debian $suite in $dir"
new=$dir.new
log=$dir.log
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
trap 'exit 1' INT TERM HUP
build
mv "$new" "$dir"
rm -f "$log"
