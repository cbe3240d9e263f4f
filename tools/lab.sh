#!/bin/sh
# Several hosts on this machine, each with a Docker Engine of its own, joined by a switch and a router: host.sh for many.
#
#   lab.sh up [--etcd N] HOST[=SUITE][@SUBNET]...
#                              make the hosts, print "up", and take all down when standard input ends or on Ctrl-C.
#                              SUITE: trixie or forky, for that Debian's engine; SUBNET: 1 or 2, by default 1;
#                              N: members of etcd, 0, 1 or 3, by default 1
#   lab.sh open [SETTING=VALUE...] -- HOST...
#                              the same for people: with the plugin on every host and a swarm of them, and told how to use it
#   lab.sh list                hosts, their addresses, engines, and what is wrong with them
#   lab.sh address HOST        its IPv4 address; IPv6: `address HOST 6`
#   lab.sh endpoints           URLs of etcd, for ETCD_ENDPOINTS
#   lab.sh install [SETTING=VALUE...] -- HOST...
#                              install plugin/ as calico:latest, with ETCD_ENDPOINTS and the given settings, and enable it
#   lab.sh swarm N HOST...     a swarm of the hosts, the first N of them managers
#   lab.sh in HOST COMMAND...  run a command on a host, on `router`, or on a member of etcd (etcd1, ...)
#   lab.sh docker HOST ARG...  run the host's docker client
#   lab.sh partition HOST...   cut hosts off: their frames are lost, their link stays up
#   lab.sh heal HOST...        join them again
#   lab.sh slow HOST RATE      what the host sends and receives is limited to RATE, like 256kbit
#   lab.sh delay HOST TIME     what it sends is delayed by TIME, like 50ms, where the kernel has netem
#   lab.sh fast HOST           neither any more
#   lab.sh kill HOST...        switch hosts off without warning; their disks stay
#   lab.sh start HOST...       switch them on again
#   lab.sh engine HOST stop|kill|start
#                              its dockerd alone: SIGTERM, SIGKILL (what it runs lives on), start
#
# $LAB names the lab's directory, by default calico-lab among the temporary files. A host on subnet 1 has 198.51.100.N and 2001:db8:1::N, on subnet 2
# 203.0.113.N and 2001:db8:2::N, its engine's API is $LAB/hosts/HOST/docker.sock and its log $LAB/hosts/HOST/dockerd.log. The
# router is .254 (::fe) of both subnets, the default gateway, knows no way to any container, and serves the page `who`.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
top=$(cd "$(dirname "$0")/.." && pwd)
usual=${TMPDIR:-/tmp}/calico-lab
lab=${LAB:-$usual}
image=busybox:local
plugin=calico:latest

fail() {
    echo "lab: $1" >&2
    exit 1
}

usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

# inside HOST COMMAND...
inside() {
    name=$1
    shift
    known "$name"
    [ -e "$lab/hosts/$name/pid" ] || fail "$name is switched off"
    "$top/tools/host.sh" in "$lab/hosts/$name" "$@"
}

known() { [ -d "$lab/hosts/$1" ] || fail "there is no host '$1' in $lab"; }

# of HOST FIELD: a column of the lab's list: 2 number, 3 subnet, 4 Debian (or -).
of() { awk -v name="$1" -v field="$2" '$1 == name { print $field }' "$lab/list"; }

address4() {
    case $(of "$1" 3) in
    1) echo "198.51.100.$(of "$1" 2)" ;;
    2) echo "203.0.113.$(of "$1" 2)" ;;
    esac
}

address6() { printf '2001:db8:%s::%x\n' "$(of "$1" 3)" "$(of "$1" 2)"; }

members() { awk '$1 ~ /^etcd[0-9]$/ { print $1 }' "$lab/list"; }

engines() { awk '$2 < 200 { print $1 }' "$lab/list"; }

endpoints() {
    for member in $(members); do printf 'http://%s:2379\n' "$(address4 "$member")"; done | paste -sd, -
}

# Waits for a condition for half a minute.
wait_until() {
    tries=600
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "gave up waiting for: $*"
        sleep 0.05
    done
}

# --- a host's power ---

# Lives until the lab's hold ends, or the host is killed; the lock is free when all of it is gone.
power_on() {
    mkdir -p "$lab/hosts/$1"
    chmod 755 "$lab/hosts/$1"
    suite=$(of "$1" 4)
    [ "$suite" != - ] || suite=
    (
        exec 8>"$lab/lock/$1"
        flock --nonblock 8 || fail "$1 is switched on"
        rm -f "$lab/hosts/$1/pid"
        CGROUP="calico-host-${lab##*/}-$1" WIRE=no KEEP=yes ENGINE=$suite \
            setsid "$top/tools/host.sh" up "$lab/hosts/$1" <"$lab/hold" >/dev/null 2>>"$lab/log" &
    )
    wait_until test -e "$lab/hosts/$1/pid"
}

power_off() {
    known "$1"
    kill -KILL "$(cat "$lab/hosts/$1/pid")" 2>/dev/null || fail "$1 is switched off"
    wait_until flock --nonblock "$lab/lock/$1" true
    rm -f "$lab/hosts/$1/pid"
}

# The cable from the switch, which has a bridge for each subnet, to a host.
plug_in() {
    router=$(cat "$lab/hosts/router/pid")
    inside router ip link delete dev "$1" 2>/dev/null || true # the end that a killed host left
    ip link add name "$1" netns "$router" type veth peer name eth0 netns "$(cat "$lab/hosts/$1/pid")"
    inside router ip link set dev "$1" master "subnet$(of "$1" 3)" up
    subnet=$(of "$1" 3)
    gateway4=$(address4 "$1")
    # Nobody answers names here, and the router says so at once: an engine that looks for an image must not wait.
    echo "nameserver ${gateway4%.*}.254" >"$lab/hosts/$1/resolv.conf"
    # Without duplicate address detection the host is from the first moment as it stays.
    inside "$1" sh -c "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
        ip address add $(address4 "$1")/24 dev eth0
        ip address add $(address6 "$1")/64 dev eth0 nodad
        ip link set eth0 up
        ip route add default via ${gateway4%.*}.254
        ip -6 route add default via 2001:db8:$subnet::fe
        mount --bind $lab/hosts/$1/resolv.conf /etc/resolv.conf"
}

make_router() {
    power_on router
    inside router sh -c '
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 0 >/proc/sys/net/ipv4/icmp_ratelimit
        echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
        for subnet in 1 2; do
            ip link add subnet$subnet type bridge stp_state 0 mcast_snooping 0
            echo 0 >/proc/sys/net/ipv6/conf/subnet$subnet/accept_dad
            ip link set subnet$subnet up
            ip address add 2001:db8:$subnet::fe/64 dev subnet$subnet nodad
        done
        ip address add 198.51.100.254/24 dev subnet1
        ip address add 203.0.113.254/24 dev subnet2'
    "$top/tools/host.sh" in "$lab/hosts/router" busybox httpd -f -p 80 -h "$lab/hosts/router/www" </dev/null >/dev/null 2>>"$lab/log" &
}

start_etcd() {
    cluster=$(for member in $(members); do printf '%s=http://%s:2380\n' "$member" "$(address4 "$member")"; done | paste -sd, -)
    url=http://$(address4 "$1")
    "$top/tools/host.sh" in "$lab/hosts/$1" etcd --name "$1" --data-dir "$lab/hosts/$1/etcd" \
        --listen-client-urls "$url:2379" --advertise-client-urls "$url:2379" --listen-peer-urls "$url:2380" \
        --initial-advertise-peer-urls "$url:2380" --initial-cluster "$cluster" --enable-v2=false \
        </dev/null >>"$lab/hosts/$1/etcd.log" 2>&1 &
}

etcd_answers() { inside router busybox timeout 2 busybox wget -q -O - "http://$(address4 "$1"):2379/health" | grep -q '"true"'; }

# --- an engine ---

# Debian's own client where there is one: a newer one refuses an old engine some options.
docker_on() {
    name=$1
    shift
    client=docker
    [ ! -x /usr/bin/docker ] || client=/usr/bin/docker
    inside "$name" env --unset=DOCKER_HOST DOCKER_CONFIG="$lab/hosts/$name/client" "$client" "$@"
}

start_engine() {
    "$top/tools/host.sh" dockerd "$lab/hosts/$1" &
}

end_engine() {
    # shellcheck disable=SC2016 # for the shell on the host
    inside "$1" sh -c 'pid=$(cat /run/docker.pid) && kill -"$0" "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done' "$2"
}

engine_ready() {
    wait_until docker_on "$1" version
    docker_on "$1" image inspect "$image" >/dev/null 2>&1 ||
        docker_on "$1" import --change 'CMD ["httpd","-f","-p","80","-h","/www"]' - "$image" <"$lab/busybox.tar" >/dev/null
}

# Nothing here may hold the caller's pipes: who reads them would wait for the host's end.
switch_on() {
    power_on "$1"
    plug_in "$1"
    case $1 in
    etcd[0-9]) start_etcd "$1" ;;
    *) start_engine "$1" ;;
    esac
}

ready() {
    case $1 in
    etcd[0-9]) wait_until etcd_answers "$1" ;;
    *) engine_ready "$1" ;;
    esac
}

install_on() {
    docker_on "$1" plugin create "$plugin" "$top/plugin" >/dev/null
    # shellcheck disable=SC2086 # one word a setting
    docker_on "$1" plugin set "$plugin" "ETCD_ENDPOINTS=$(endpoints)" $settings
    docker_on "$1" plugin enable "$plugin" >/dev/null
}

install_all() {
    settings=
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        settings="$settings $1"
        shift
    done
    [ "${1:-}" = -- ] || usage
    shift
    in_parallel install_on "$@"
}

# in_parallel FUNCTION HOST...: all must work.
in_parallel() {
    function=$1
    shift
    pids=
    for name in "$@"; do
        "$function" "$name" &
        pids="$pids $!"
    done
    worked=yes
    for pid in $pids; do wait "$pid" || worked=no; done
    [ "$worked" = yes ] || fail "$function did not work on all of: $*"
}

swarm() {
    managers=$1
    shift
    first=$1
    docker_on "$first" swarm init --advertise-addr "$(address4 "$first")" >/dev/null
    manager=$(docker_on "$first" swarm join-token --quiet manager)
    worker=$(docker_on "$first" swarm join-token --quiet worker)
    count=1
    shift
    for name in "$@"; do
        count=$((count + 1))
        if [ "$count" -le "$managers" ]; then token=$manager; else token=$worker; fi
        docker_on "$name" swarm join --advertise-addr "$(address4 "$name")" --token "$token" "$(address4 "$first"):2377" >/dev/null
    done
}

# --- the lab ---

write_list() {
    number=0
    for spec in "$@"; do
        number=$((number + 1))
        subnet=${spec##*@}
        [ "$subnet" != "$spec" ] || subnet=1
        name=${spec%@*}
        suite=${name#*=}
        [ "$suite" != "$name" ] || suite=-
        name=${name%%=*}
        case $name:$subnet in
        router:* | etcd*:* | *[!a-z0-9]*:* | "":*) fail "'$name' is no name for a host: small letters and digits, not router, not etcd" ;;
        *:1 | *:2) ;;
        *) fail "$spec: subnets are 1 and 2" ;;
        esac
        [ "${#name}" -le 15 ] || fail "'$name' is longer than an interface's name can be"
        [ -z "$(of "$name" 1)" ] || fail "two hosts with the name $name"
        echo "$name $number $subnet $suite" >>"$lab/list"
    done
    for member in $(seq "$etcd"); do echo "etcd$member $((200 + member)) 1 -" >>"$lab/list"; done
}

# Makes the directory and everything in it; file descriptor 9 holds the hosts, and no child may have it.
make_lab() {
    [ "$(id -u)" = 0 ] || fail "only root can make namespaces"
    mkdir -m 755 "$lab" 2>/dev/null || fail "$lab is there: a lab is open, or its machine died; another name: LAB=DIRECTORY"
    trap take_down EXIT
    mkdir -p "$lab/hosts" "$lab/lock"
    : >"$lab/list"
    write_list "$@"
    mkfifo "$lab/hold"
    exec 9<>"$lab/hold"
    echo "router 254 1 -" >>"$lab/list"
    make_router 9>&-
    "$top/tools/busybox-image.sh" >"$lab/busybox.tar" 9>&-
    for name in $(members) $(engines); do switch_on "$name" 9>&-; done
    for name in $(members); do ready "$name" 9>&-; done
    in_parallel engine_ready $(engines) 9>&-
}

# The hosts die with the pipe; when their locks are free, all they had is gone but for their disks.
take_down() {
    status=$?
    trap - EXIT
    trap '' INT TERM HUP
    exec 9>&-
    for lock in "$lab"/lock/*; do
        [ -e "$lock" ] || continue
        flock --timeout 30 "$lock" true || { echo "lab: ${lock##*/} does not end" >&2; status=1; }
    done
    [ "$status" = 0 ] || tail -n 20 "$lab/log" >&2 2>/dev/null || true
    rm -rf "$lab" || status=1
    exit "$status"
}

# Returns when standard input ends, or on a signal.
hold() {
    exec 3<&0
    cat <&3 >/dev/null 9>&- &
    reader=$!
    wait "$reader" 2>/dev/null || true
    kill "$reader" 2>/dev/null || true
}

up() {
    etcd=1
    if [ "${1:-}" = --etcd ]; then
        etcd=$2
        shift 2
    fi
    case $etcd in 0 | 1 | 3) ;; *) fail "etcd has 0, 1 or 3 members here, not $etcd" ;; esac
    [ $# -gt 0 ] || usage
    trap : INT TERM HUP
    make_lab "$@"
    echo up
    hold
}

open() {
    settings=
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        settings="$settings $1"
        shift
    done
    [ $# -gt 1 ] || usage
    shift
    etcd=1
    across=no
    for spec in "$@"; do case $spec in *@2) across=yes ;; esac; done
    case $across:$settings in
    no:* | *POOL_VXLAN=*) ;;
    *)
        settings="$settings CALICO_IPV4POOL_VXLAN=CrossSubnet CALICO_IPV6POOL_VXLAN=CrossSubnet"
        echo "two subnets, whose router knows no container: the pools get vxlanMode CrossSubnet"
        ;;
    esac
    for suite in $(printf '%s\n' "$@" | sed -n 's/^[^=]*=\([a-z]*\).*/\1/p' | sort -u); do "$top/tools/engine-rootfs.sh" "$suite"; done
    trap : INT TERM HUP
    echo "making hosts: $*"
    make_lab "$@"
    echo "installing the plugin, joining a swarm"
    # shellcheck disable=SC2046,SC2086 # one word a setting and a host
    install_all $settings -- $(engines) 9>&-
    # shellcheck disable=SC2046
    swarm 1 $(engines) 9>&-
    list 9>&-
    first=$(engines | head -n 1)
    names=$(engines | paste -sd ' ')
    [ "$lab" = "$usual" ] || echo "in the other shell first: export LAB=$lab"
    cat <<EOT

From another shell:
    tools/lab.sh docker $first node ls
    for host in $names; do tools/lab.sh docker \$host network create --config-only --ipam-driver $plugin web-config; done
    tools/lab.sh docker $first network create -d $plugin --scope swarm --attachable --config-from web-config web
    tools/lab.sh docker $first service create --name front --network web --replicas 6 $image
    tools/lab.sh docker $first run -d --name tool --network web $image
    tools/lab.sh docker $first exec tool wget -q -O - http://front/
    tools/lab.sh in $first env ETCD_ENDPOINTS=$(endpoints) $top/plugin/rootfs/calico-libnetwork check
    tools/lab.sh in $first ip route
    tools/lab.sh partition $first; tools/lab.sh heal $first
    tools/lab.sh kill $first; tools/lab.sh start $first
All verbs: tools/lab.sh without any. What a network on a swarm can do: docs/swarm.md. Ctrl-C ends the lab and removes everything.
EOT
    hold
}

list() {
    printf '%-10s %-16s %-18s %s\n' host IPv4 IPv6 state
    while read -r name number subnet suite; do
        state=on
        case $name in
        router) state="on, with 203.0.113.254 and 2001:db8:2::fe as well" ;;
        etcd[0-9]) etcd_answers "$name" 2>/dev/null || state="no healthy etcd" ;;
        *) state=$(docker_on "$name" version --format 'Docker {{.Server.Version}}' 2>/dev/null) || state="no engine" ;;
        esac
        [ -e "$lab/hosts/$name/pid" ] || state="switched off"
        printf '%-10s %-16s %-18s %s\n' "$name" "$(address4 "$name")" "$(address6 "$name")" "$state"
    done <"$lab/list"
}

# State 0 of a bridge's port is disabled: it neither sends nor receives, and its carrier stays.
port() {
    state=$1
    shift
    for name in "$@"; do
        known "$name"
        inside router bridge link set dev "$name" state "$state"
    done
}

slow() {
    inside router tc qdisc replace dev "$1" root tbf rate "$2" burst 32kb latency 400ms
    inside "$1" tc qdisc replace dev eth0 root tbf rate "$2" burst 32kb latency 400ms
}

delay() { inside "$1" tc qdisc replace dev eth0 root netem delay "$2" || fail "this kernel has no netem; see 'slow'"; }

fast() {
    inside router tc qdisc delete dev "$1" root 2>/dev/null || true
    inside "$1" tc qdisc delete dev eth0 root 2>/dev/null || true
}

engine() {
    case $2 in
    stop) end_engine "$1" TERM ;;
    kill) end_engine "$1" KILL ;;
    start) start_engine "$1" && engine_ready "$1" ;;
    *) usage ;;
    esac
}

each() {
    verb=$1
    shift
    for name in "$@"; do "$verb" "$name"; done
}

command=${1:-}
[ $# -ge 1 ] || usage
shift
case $command in
up | open) "$command" "$@"; exit ;;
esac
[ -d "$lab" ] || fail "no lab is open in $lab: 'make lab' opens one, LAB=DIRECTORY names another"
case $command in
list | endpoints) "$command" ;;
address) known "$1" && "address${2:-4}" "$1" ;;
install) install_all "$@" ;;
swarm) swarm "$@" ;;
in) inside "$@" ;;
docker) docker_on "$@" ;;
partition) port 0 "$@" ;;
heal) port 3 "$@" ;;
slow | delay | fast | engine) known "$1" && "$command" "$@" ;;
kill) each power_off "$@" ;;
start) each known "$@" && each switch_on "$@" && each ready "$@" ;;
*) usage ;;
esac
