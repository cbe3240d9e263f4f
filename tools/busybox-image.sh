#!/bin/sh
# Writes a root file system to standard output, for `docker import -`: Debian's static busybox with a link for every applet, and
# two pages for `httpd -f -p 80 -h /www`: one that only answers, and `who` (`wget -qO- http://ADDRESS/cgi-bin/who` tells the caller's address).
set -eu
busybox=$(command -v busybox) || { echo "busybox-image.sh: no busybox here; run 'make setup'" >&2; exit 1; }
if ldd "$busybox" >/dev/null 2>&1; then
    echo "busybox-image.sh: $busybox is not static; run 'make setup'" >&2
    exit 1
fi
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$stage/bin" "$stage/etc" "$stage/tmp" "$stage/www/cgi-bin"
cp "$busybox" "$stage/bin/busybox"
"$busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$stage/bin/$applet"
done
echo "a container answers" >"$stage/www/index.html"
install -m 755 "$(dirname "$0")/who" "$stage/www/cgi-bin/who"
tar -C "$stage" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -c .
