#!/bin/sh
# Removes the plugin from the running Docker Engine and what it left in the host's kernel: uninstall.sh NAME:TAG
# Networks of the plugin are refused first: without it the engine takes a minute for each and the containers lose their way.
set -eu
name=$1

docker info >/dev/null 2>&1 || { echo "uninstall: no Docker Engine answers; start it first" >&2; exit 1; }
docker plugin inspect "$name" >/dev/null 2>&1 || { echo "uninstall: there is no plugin $name" >&2; exit 1; }
networks=$(docker network ls --format '{{.Name}} {{.Driver}}' | awk -v name="$name" '$2 == name || $2 == "calico" { print $1 }')
if [ -n "$networks" ]; then
    echo "uninstall: remove these networks first (docker network rm):" $networks >&2
    exit 1
fi
# Cleaned up by the installed binary itself: it knows best what it made.
binary=$(mktemp)
trap 'rm -f "$binary"' EXIT
id=$(docker plugin inspect --format '{{.Id}}' "$name")
cp "$(docker info --format '{{.DockerRootDir}}')/plugins/$id/rootfs/calico-libnetwork" "$binary"
chmod 700 "$binary"

docker plugin disable --force "$name" >/dev/null 2>&1 || true # it may be disabled already
docker plugin rm --force "$name" >/dev/null
"$binary" cleanup
# Of the commands' socket only the folder is left.
rmdir /run/calico-libnetwork 2>/dev/null || true # there may be none
echo "uninstalled: $name"
