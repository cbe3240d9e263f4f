#!/usr/bin/env bash
# Measures the plugin against its peers in one run, on a private engine, and prints a table. What other programs do to the machine
# meanwhile hits all kinds alike: their turns alternate, so read the ratios, not the milliseconds.
#
#   run.sh [ROUNDS]      default 30 rounds of single starts, 5 rounds of 20 at once, and 300 turns of traffic
set -euo pipefail
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
top=$(cd "$(dirname "$0")/.." && pwd)
rounds=${1:-30}
at_once=20
bursts=5
turns=300
plugin=calico:latest
image=calico-bench:busybox
kinds=(none bridge calico)

[ "$(id -u)" = 0 ] || { echo "bench: only root can make namespaces and install plugins" >&2; exit 1; }
[ -x "$top/plugin/rootfs/calico-libnetwork" ] || { echo "bench: no plugin here; run 'make plugin'" >&2; exit 1; }
"$top/tools/setup.sh" run
cd "$top"
built=$(cargo bench --locked --bench streams --no-run 2>&1) || { echo "$built" >&2; exit 1; }
streams=$(readlink -f "$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' <<<"$built")")
work=$(mktemp -d)
chmod 755 "$work"
mkdir -m 755 "$work/host"
mkfifo "$work/hold"
finish() {
    exec 9>&- || true
    wait "$host"
    rm -rf "$work"
}
trap finish EXIT

"$top/tools/host.sh" up "$work/host" <"$work/hold" >/dev/null &
host=$!
exec 9>"$work/hold"
until [ -e "$work/host/pid" ]; do sleep 0.05; done
on_host() { "$top/tools/host.sh" in "$work/host" "$@"; }

now() { echo "${EPOCHREALTIME/./}"; } # microseconds

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# median FILE: of one number a line, microseconds in, milliseconds out.
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { if (NR) printf "%.1f", (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2000 }'; }

# --- time from process start to a socket that accepts, as a plain daemon, before the engine is there ---

# Runs inside the host: prints the microseconds until the v1 socket is there.
socket_time() {
    local run state begin
    run=$(mktemp -d) state=$(mktemp -d)
    mkdir -p "$run/docker/plugins"
    begin=${EPOCHREALTIME/./}
    env CALICO_LIBNETWORK_HOST_RUN="$run" CALICO_LIBNETWORK_STATE_DIR="$state" "$@" >"$state/log" 2>&1 &
    for ((turn = 0; turn < 2000000; turn++)); do
        if [ -S "$run/docker/plugins/calico-ipam.sock" ]; then break; fi
    done
    echo $((${EPOCHREALTIME/./} - begin))
    kill %1 && wait %1 || true
    rm -rf "$run" "$state"
}
in_host_time() { on_host bash -c "$(declare -f socket_time)"'; socket_time "$@"' bash "$@"; }
for _ in 1 2 3 4 5 6 7 8 9 10; do
    in_host_time "$top/plugin/rootfs/calico-libnetwork" serve >>"$work/socket"
    in_host_time env ETCD_ENDPOINTS=http://127.0.0.1:1 "$top/plugin/rootfs/calico-libnetwork" serve >>"$work/socket-etcd-down"
done
on_host "$top/plugin/rootfs/calico-libnetwork" cleanup >/dev/null

# --- container starts ---

"$top/tools/host.sh" dockerd "$work/host" 9>&- &
disown # it ends with the host
export DOCKER_HOST=unix://$work/host/docker.sock DOCKER_CONFIG=$work/client
until docker version >/dev/null 2>&1; do sleep 0.05; done
"$top/tools/busybox-image.sh" | docker import --change 'CMD ["sleep","3600"]' - "$image" >/dev/null
docker plugin create "$plugin" "$top/plugin" >/dev/null
docker plugin enable "$plugin" >/dev/null
docker network create bench-bridge >/dev/null
docker network create --driver "$plugin" --ipam-driver "$plugin" bench-calico >/dev/null

plugin_pid() { on_host cat "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/plugins.moby/$(docker plugin inspect -f '{{.Id}}' "$plugin")/init.pid"; }
rss() { on_host awk '/VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$(plugin_pid)/status"; }

network() { [ "$1" = none ] && echo none || echo "bench-$1"; }
create() { docker create --network "$(network "$1")" --name "$2" "$image" >/dev/null; }
timed_start() {
    local begin
    begin=$(now)
    docker start "$2" >/dev/null
    echo $(($(now) - begin)) >>"$work/$1"
}

sleep 2
idle=$(rss)

for ((round = 0; round < rounds; round++)); do
    for kind in "${kinds[@]}"; do
        create "$kind" single
        timed_start "one-$kind" single
        docker rm --force single >/dev/null
    done
done

for ((burst = 0; burst < bursts; burst++)); do
    for kind in "${kinds[@]}"; do
        for ((number = 0; number < at_once; number++)); do create "$kind" "c$number"; done
        starters=()
        begin=$(now)
        for ((number = 0; number < at_once; number++)); do
            timed_start "many-$kind" "c$number" &
            starters+=($!)
        done
        wait "${starters[@]}"
        echo $(($(now) - begin)) >>"$work/all-$kind"
        [ "$kind" = calico ] && busy=$(rss)
        docker ps --all --quiet | xargs docker rm --force >/dev/null
    done
done

# --- throughput and round trips between two containers of one kind ---

links=()
for kind in calico bridge; do
    links+=("$kind")
    for end in from to; do
        create "$kind" "$kind-$end"
        docker start "$kind-$end" >/dev/null
        links+=("/proc/$(docker inspect -f '{{.State.Pid}}' "$kind-$end")/ns/net")
    done
    links+=("$(docker inspect -f "{{(index .NetworkSettings.Networks \"bench-$kind\").IPAddress}}" "$kind-to")")
done
on_host "$streams" "$turns" "${links[@]}" >"$work/traffic"
bridged=$(on_host cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0)

# --- the tables ---

row() {
    local none bridge calico
    none=$(median "$work/$2-none") bridge=$(median "$work/$2-bridge") calico=$(median "$work/$2-calico")
    echo "| $1 | $none ms | $bridge ms | $calico ms | $(ratio "$calico" "$bridge") | $(ratio "$calico" "$none") |"
}
version=$("$top/plugin/rootfs/calico-libnetwork" --version)
echo
echo "$version, Docker Engine $(docker version --format '{{.Server.Version}}'), kernel $(uname -r), $(nproc) cores"
echo
echo "| container start, median | \`none\` | bridge | calico | calico / bridge | calico / none |"
echo "|---|---|---|---|---|---|"
row "one at a time ($rounds)" one
row "$at_once at once, each ($((at_once * bursts)))" many
row "$at_once at once, all ($bursts)" all
echo
cat "$work/traffic"
echo
echo "Frames of a bridge are shown to iptables (bridge-nf-call-iptables): $bridged"
echo
echo "| figure | value | target |"
echo "|---|---|---|"
echo "| process start to socket, embedded store, median of 10 | $(median "$work/socket") ms | 50 ms |"
echo "| process start to socket, etcd down, median of 10 | $(median "$work/socket-etcd-down") ms | 50 ms |"
echo "| resident memory, idle | $idle MiB | 10 MB |"
echo "| resident memory with $at_once containers | $busy MiB | - |"
echo "| binary | $(($(wc -c <"$top/plugin/rootfs/calico-libnetwork") / 1024)) KiB | 12 MB |"
echo "| root file system with iptables-legacy | $(du -sk "$top/plugin/rootfs" | cut -f1) KiB | - |"
