#!/bin/sh
# Installs plugin/ in the running Docker Engine and enables it: install.sh NAME:TAG [SETTING=VALUE]...
# An installed plugin of that name is left alone; `make upgrade` replaces it.
set -eu
name=$1
shift
top=$(cd "$(dirname "$0")/.." && pwd)

docker info >/dev/null 2>&1 || { echo "install: no Docker Engine answers; start it first" >&2; exit 1; }
if docker plugin inspect "$name" >/dev/null 2>&1; then
    echo "install: plugin $name is there already; 'make upgrade' replaces it, 'make uninstall' removes it and its state" >&2
    exit 1
fi
docker plugin create "$name" "$top/plugin" >/dev/null
installed=no
trap '[ "$installed" = yes ] || docker plugin rm --force "$name" >/dev/null 2>&1' EXIT
[ $# -eq 0 ] || docker plugin set "$name" "$@"
if ! docker plugin enable "$name" >/dev/null; then
    echo "install: the plugin does not start; what it says stands in the engine's log (journalctl --unit docker)" >&2
    exit 1
fi
installed=yes
echo "installed: docker network create -d $name --ipam-driver $name NETWORK"
