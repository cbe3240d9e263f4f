#!/usr/bin/env bash
# Measures the plugin between hosts, in a lab (tools/lab.sh), against Docker's overlay and against the hosts themselves, and prints
# tables. Turns alternate, so what other programs do to the machine hits all kinds alike: read the ratios.
#
#   lab.sh [ROUNDS]      default 5 rounds of traffic, of three turns each, and half as many of all else
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
top=$(cd "$(dirname "$0")/.." && pwd)
rounds=${1:-5}
tasks=30
plugin=calico:latest
image=busybox:local
hosts=(h1 h2 h3)

[ "$(id -u)" = 0 ] || { echo "bench: only root can make namespaces and install plugins" >&2; exit 1; }
[ -x "$top/plugin/rootfs/calico-libnetwork" ] || { echo "bench: no plugin here; run 'make plugin'" >&2; exit 1; }
"$top/tools/setup.sh" run test bench
work=$(mktemp -d)
export LAB=$work/calico-lab
mkfifo "$work/hold" "$work/said"
lab() { "$top/tools/lab.sh" "$@" 9>&-; }
finish() {
    exec 9>&- || true
    wait "$holder" || true
    rm -rf "$work"
}
trap finish EXIT
chmod 755 "$work"
"$top/tools/lab.sh" up "${hosts[@]}" h4 <"$work/hold" >"$work/said" &
holder=$!
exec 9>"$work/hold"
read -r said <"$work/said"
[ "$said" = up ] || exit 1

now() { echo "${EPOCHREALTIME/./}"; } # microseconds

# median FILE: the middle of one number a line.
median() { sort -g "$1" | awk '{ v[NR] = $1 } END { if (NR) print (v[int((NR + 1) / 2)] + v[int((NR + 2) / 2)]) / 2 }'; }

# --- the networks ---

lab install -- "${hosts[@]}"
lab swarm 1 "${hosts[@]}" h4
etcd=$(lab endpoints)
lab in h1 env ETCD_ENDPOINTS="$etcd" "$top/plugin/rootfs/calico-libnetwork" apply -f - >/dev/null <<EOT
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: bench-vxlan}
spec: {cidr: 10.231.0.0/16, vxlanMode: Always, natOutgoing: false}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: bench-direct}
spec: {cidr: 10.232.0.0/16, natOutgoing: false}
EOT
for host in "${hosts[@]}" h4; do
    lab docker "$host" network create --config-only --ipam-driver "$plugin" --subnet 10.232.0.0/16 direct-config >/dev/null
    lab docker "$host" network create --config-only --ipam-driver "$plugin" --subnet 10.231.0.0/16 vxlan-config >/dev/null
done
for kind in direct vxlan; do
    lab docker h1 network create -d "$plugin" --scope swarm --attachable --config-from "$kind-config" "$kind" >/dev/null
done
lab docker h1 network create -d overlay --attachable overlay >/dev/null
for host in "${hosts[@]}"; do
    for kind in direct vxlan overlay; do lab docker "$host" run -d --name "$kind" --network "$kind" "$image" >/dev/null; done
done

address() { lab docker "$1" inspect -f "{{.NetworkSettings.Networks.$2.IPAddress}}" "${3:-$2}"; }
# Runs a command in the network of a kind's container on a host, or of the host itself.
on_host() {
    local host=$1 kind=$2
    shift 2
    if [ "$kind" = host ]; then lab in "$host" "$@"; return; fi
    lab in "$host" nsenter --target "$(lab docker "$host" inspect -f '{{.State.Pid}}' "$kind")" --net "$@"
}

# --- throughput and round trips, h1 to h2 ---

in_network() {
    case $1 in
    from) on_host h1 "${@:2}" ;;
    to) on_host h2 "${@:2}" ;;
    esac
}
. "$top/bench/traffic.sh"
kinds=(host direct vxlan overlay)
declare -A target
for kind in "${kinds[@]}"; do
    if [ "$kind" = host ]; then target[host]=$(lab address h2); else target[$kind]=$(address h2 "$kind"); fi
    listen "$kind" "${target[$kind]}"
done
turns() {
    local round kind
    for ((round = 0; round < 3 * rounds; round++)); do
        for kind in "${kinds[@]}"; do turn "$kind" "${target[$kind]}"; done
    done
}
turns

# The same over links of 10 Gbit/s: between namespaces of one machine there is no link, and the processor is all that limits.
limited=$work/limited
mkdir "$limited"
for host in h1 h2; do lab in "$host" tc qdisc replace dev eth0 root tbf rate 10gbit burst 2mb latency 10ms; done
work=$limited turns
for host in h1 h2; do lab fast "$host"; done

# --- from service create to all tasks reachable from all hosts ---

serve() {
    local kind=$1 begin addresses=() pids=()
    begin=$(now)
    lab docker h1 service create --detach --no-resolve-image --name bench --network "$kind" --replicas "$tasks" --endpoint-mode dnsrr \
        --constraint node.hostname!=h4 --stop-signal KILL "$image" >/dev/null
    until lab docker h1 service ls --format '{{.Replicas}}' | grep -qx "$tasks/$tasks"; do :; done
    for host in "${hosts[@]}"; do
        mapfile -t -O "${#addresses[@]}" addresses < <(lab docker "$host" ps -q --filter label=com.docker.swarm.service.name=bench |
            xargs "$top/tools/lab.sh" docker "$host" inspect -f "{{.NetworkSettings.Networks.$kind.IPAddress}}" 9>&-)
    done
    [ "${#addresses[@]}" = "$tasks" ] || { echo "bench: ${#addresses[@]} addresses instead of $tasks" >&2; exit 1; }
    for host in "${hosts[@]}"; do
        lab docker "$host" exec "$kind" sh -c 'for a; do until ping -q -c 1 -W 1 "$a" >/dev/null; do :; done; done' sh "${addresses[@]}" &
        pids+=($!)
    done
    wait "${pids[@]}"
    echo $((($(now) - begin) / 1000)) >>"$work/service-$kind"
    lab docker h1 service rm bench >/dev/null
    for host in "${hosts[@]}"; do until [ -z "$(lab docker "$host" ps -q --filter label=com.docker.swarm.service.name=bench)" ]; do sleep 0.2; done; done
}
for ((round = 0; round < (rounds + 1) / 2; round++)); do
    for kind in overlay direct vxlan; do serve "$kind"; done
done

# --- a node joins ---

# The time from the return of `docker run` on the new node to the first answer at each of the others, in milliseconds.
joins() {
    local kind=$1 begin to pids=()
    lab docker h4 run -d --name "$kind" --network "$kind" "$image" >/dev/null
    begin=$(now)
    to=$(address h4 "$kind")
    for host in "${hosts[@]}"; do
        on_host "$host" "$kind" busybox sh -c 'until busybox ping -q -c 1 -W 1 "$0" >/dev/null 2>&1; do :; done' "$to" & pids+=($!)
    done
    wait "${pids[@]}"
    echo $((($(now) - begin) / 1000)) >>"$work/join-$kind"
}
lab install -- h4
for kind in overlay direct vxlan; do joins "$kind"; done

# --- the tables ---

echo
echo "engine $(lab docker h1 version --format '{{.Server.Version}}'), kernel $(uname -r | cut -d- -f1), $(nproc) cores, best of $((3 * rounds)) turns, medians of the rest"
echo
traffic_table() {
    echo "| h1 to h2, $1 | TCP throughput | to host to host | to overlay | round trip | to host to host | to overlay |"
    echo "|---|---|---|---|---|---|---|"
    for kind in "${kinds[@]}"; do traffic_row "$kind" host overlay; done
    echo
}
traffic_table "links without limit"
work=$limited traffic_table "links of 10 Gbit/s"
echo "| time | overlay | direct | vxlan | direct / overlay |"
echo "|---|---|---|---|---|"
row() {
    local o d v
    o=$(median "$work/$1-overlay") d=$(median "$work/$1-direct") v=$(median "$work/$1-vxlan")
    echo "| $2 | $o ms | $d ms | $v ms | $(ratio "$d" "$o") |"
}
row service "service create to $tasks tasks on 3 hosts, each reachable from each host"
row join "first container of a new node started, to reachable from all others"
