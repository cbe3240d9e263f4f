#!/bin/sh
# Makes plugin/ into what `docker plugin create` takes, without Docker: rootfs/ with the static binary, and config.json beside it.
#
#   assemble.sh BINARY [PLUGIN_DIR]     default directory: plugin/ of this repository
#
# WITH_IPTABLES_LEGACY=0 leaves out the iptables-legacy program (2.5 MB with its libraries). The binary programs nftables by
# itself; it needs the program only on hosts whose FORWARD chain is filtered by legacy iptables.
# WITH_BIRD=0 leaves out BIRD (4.9 MB with its libraries), which only CALICO_NETWORKING_BACKEND=bird needs.
# WITH_CONTAINER_ROUTES=1 asks for CAP_SYS_ADMIN as well, with which the plugin makes routes inside containers (README, "Several networks").
# SOURCE_DATE_EPOCH (default: the time of the last commit) is the time every file gets, so that one source makes one rootfs.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"

top=$(cd "$(dirname "$0")/.." && pwd)
binary=${1:?usage: assemble.sh BINARY [PLUGIN_DIR]}
plugin=${2:-$top/plugin}
epoch=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || echo 0)}

fail() {
    echo "assemble.sh: $1" >&2
    exit 1
}

# One shared library or program, at the path it has here.
put() {
    mkdir -p "$rootfs$(dirname "$1")"
    cp --dereference "$1" "$rootfs$1"
}

put_iptables_legacy() {
    multi=$(command -v xtables-legacy-multi) || fail "no xtables-legacy-multi here: install Debian's iptables, or set WITH_IPTABLES_LEGACY=0"
    mkdir -p "$rootfs/usr/sbin"
    cp "$multi" "$rootfs/usr/sbin/iptables-legacy"
    ln -s iptables-legacy "$rootfs/usr/sbin/ip6tables-legacy"
    extensions=$(dirname "$(find /usr/lib /lib -name libxt_standard.so 2>/dev/null | head -n 1)")
    # What our rules in FORWARD use: the ACCEPT target, a mark, a comment.
    for extension in standard mark comment; do
        [ -e "$extensions/libxt_$extension.so" ] || fail "no libxt_$extension.so in '$extensions'"
        put "$extensions/libxt_$extension.so"
    done
    put_libraries_of "$multi" "$extensions/libxt_standard.so" "$extensions/libxt_mark.so" "$extensions/libxt_comment.so"
}

# The shared libraries that programs and libraries need.
put_libraries_of() {
    libraries=$(ldd "$@" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' | sort -u)
    for library in $libraries; do put "$library"; done
}

put_bird() {
    bird=$(command -v bird) || fail "no bird here: install Debian's bird2, or set WITH_BIRD=0"
    case $("$bird" --version 2>&1) in
    *"version 2."*) ;;
    *) fail "$bird is no BIRD 2: $("$bird" --version 2>&1)" ;;
    esac
    mkdir -p "$rootfs/usr/sbin"
    cp "$bird" "$rootfs/usr/sbin/bird"
    put_libraries_of "$bird"
}

# The capability is the manifest's, so it is chosen here and not by a setting.
ask_for_container_routes() {
    sed -i 's/"capabilities": \["CAP_NET_ADMIN"\]/"capabilities": ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]/' "$1"
    grep -q CAP_SYS_ADMIN "$1" || fail "no list of capabilities to extend in $1"
}

[ -f "$binary" ] || fail "no binary $binary: run 'make binary'"
rootfs=$plugin/rootfs.new
rm -rf "$rootfs"
trap 'rm -rf "$rootfs"' EXIT

# The places Docker and config.json mount on; the engine would make them, but not the same way each time.
mkdir -p "$rootfs/dev" "$rootfs/etc" "$rootfs/host/run" "$rootfs/host/sysnet" "$rootfs/host/var/lib" "$rootfs/proc" "$rootfs/run" \
    "$rootfs/sys" "$rootfs/tmp" "$rootfs/var/lib/calico-libnetwork"
install -m 755 "$binary" "$rootfs/calico-libnetwork"
[ "${WITH_IPTABLES_LEGACY:-1}" = 0 ] || put_iptables_legacy
[ "${WITH_BIRD:-1}" = 0 ] || put_bird

chmod -R u+rwX,go+rX,go-w "$rootfs"
chmod 1777 "$rootfs/tmp"
find "$rootfs" -depth -exec touch --no-dereference --date="@$epoch" {} +

rm -rf "$plugin/rootfs"
mv "$rootfs" "$plugin/rootfs"
install -m 644 "$top/config.json" "$plugin/config.json"
[ "${WITH_CONTAINER_ROUTES:-0}" = 0 ] || ask_for_container_routes "$plugin/config.json"
touch --date="@$epoch" "$plugin/config.json"
