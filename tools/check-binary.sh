#!/bin/sh
# Checks what the plugin's root file system relies on: check-binary.sh BINARY MOST_BYTES
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
binary=$1
most=$2

fail() {
    echo "check-binary: $1" >&2
    exit 1
}

if ldd "$binary" 2>/dev/null | grep -q '=>'; then fail "$binary needs shared libraries: $(ldd "$binary" | tr '\n' ' ')"; fi
size=$(wc -c <"$binary")
[ "$size" -le "$most" ] || fail "$binary has $size bytes; the budget is $most"

if [ "$(id -u)" = 0 ]; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    cp "$binary" "$root/calico-libnetwork"
    version=$(chroot "$root" /calico-libnetwork --version) || fail "$binary does not run in an empty root"
else
    version=$("$binary" --version) || fail "$binary does not run"
fi
[ -n "$version" ] || fail "$binary --version printed nothing"
echo "$version: static, $size bytes (budget $most)"
