#!/bin/sh
# Replaces the installed plugin by plugin/ under the same name: upgrade.sh NAME:TAG
# `docker plugin rm` deletes a plugin's state with it, so the state is carried over, and with it the settings that were changed.
# Running containers keep their traffic and their networks; starts in between wait for the plugin (the engine tries for 15 s).
set -eu
name=$1
top=$(cd "$(dirname "$0")/.." && pwd)

docker info >/dev/null 2>&1 || { echo "upgrade: no Docker Engine answers; start it first" >&2; exit 1; }
docker plugin inspect "$name" >/dev/null 2>&1 || { echo "upgrade: there is no plugin $name; 'make install' installs it" >&2; exit 1; }

state() {
    echo "$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)/plugins/$(docker plugin inspect --format '{{.Id}}' "$name")/propagated-mount"
}

keep=$(mktemp -d)
kept=no
trap '[ "$kept" = yes ] && echo "upgrade: failed; the state of $name is kept in $keep" >&2 || rm -rf "$keep"' EXIT
docker plugin inspect --format '{{range .Settings.Env}}{{println .}}{{end}}' "$name" | sort >"$keep/settings"
docker plugin inspect --format '{{range .Config.Env}}{{.Name}}={{if .Value}}{{.Value}}{{end}}{{println}}{{end}}' "$name" | sort >"$keep/defaults"

docker plugin disable --force "$name" >/dev/null 2>&1 || true # it may be disabled already
cp -a "$(state)" "$keep/state"
kept=yes
docker plugin rm --force "$name" >/dev/null
docker plugin create "$name" "$top/plugin" >/dev/null
mkdir -p "$(state)"
cp -a "$keep/state/." "$(state)/"
comm -23 "$keep/settings" "$keep/defaults" | while IFS= read -r setting; do
    [ -z "$setting" ] || docker plugin set "$name" "$setting" || echo "upgrade: setting dropped, the new version has no ${setting%%=*}" >&2
done
docker plugin enable "$name" >/dev/null
kept=no
echo "upgraded: $name"
