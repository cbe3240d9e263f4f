# Sourced by bench/lab.sh: TCP throughput and round trips between two network namespaces of several hosts, measured by qperf in turns.
#
# Each end keeps a core of its own: whether the scheduler puts both on one would else be most of what is seen. Of all turns the best
# counts: other programs and other guests of the machine only ever make a turn worse.
#
# Who sources this sets `work` and defines `in_network END KIND COMMAND...`, which runs a command where a kind of traffic begins (END
# `from`) or ends (END `to`).

seconds=1
last_core=$(($(nproc) - 1))

# listen KIND ADDRESS: qperf's server for a kind, until its network namespace's processes end.
listen() {
    local try
    in_network to "$1" taskset -c "$last_core" qperf >/dev/null 2>&1 9>&- &
    disown
    for try in 1 2 3 4 5 6 7 8 9 10; do
        if in_network from "$1" timeout 5 qperf --time 1 --wait_server 4 "$2" tcp_lat >/dev/null; then return; fi
    done
    echo "bench: $2 ($1) did not answer $try times" >&2
    return 1
}

# turn KIND ADDRESS: one measurement of each figure. qperf tells, without units, bytes a second, and nanoseconds for half a round trip.
turn() {
    in_network from "$1" timeout 30 taskset -c 0 qperf --time "$seconds" --unify_units "$2" tcp_bw tcp_lat |
        awk -v bw="$work/bw-$1" -v lat="$work/lat-$1" '/bw +=/ { print $3 >>bw } /latency +=/ { print $3 * 2 / 1000 >>lat }'
}

throughput() { sort -gr "$work/bw-$1" | head -n 1; } # bytes a second
round_trip() { sort -g "$work/lat-$1" | head -n 1; } # microseconds
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

# traffic_row KIND PEER...: a line of a table: the kind's figures, and their ratios to its peers.
traffic_row() {
    local kind=$1 peer bw lat
    bw=$(throughput "$kind") lat=$(round_trip "$kind")
    printf '| %s | %.0f MB/s |' "$kind" "$(awk -v b="$bw" 'BEGIN { print b / 1e6 }')"
    for peer in "${@:2}"; do printf ' %s |' "$(ratio "$bw" "$(throughput "$peer")")"; done
    printf ' %.0f us |' "$lat"
    for peer in "${@:2}"; do printf ' %s |' "$(ratio "$lat" "$(round_trip "$peer")")"; done
    echo
}
