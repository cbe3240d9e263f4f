#!/bin/sh
# Shows the plugin at work and removes every trace: in the running Docker Engine, or in a private one where none runs.
# Ends non-zero with the failing step named.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
top=$(cd "$(dirname "$0")/.." && pwd)
plugin=calico:latest
image=calico-demo:busybox
# Documentation ranges, for the namespace that plays the world outside; no real host is ever called.
host4=198.51.100.1 host6=2001:db8:ffff::1
outside4=198.51.100.2 outside6=2001:db8:ffff::2
subnet4=10.211.0.0/16 subnet6=fd00:211::/64

say() { printf '\n%s\n' "$1"; }

# step SENTENCE COMMAND...: the command must work; prints the sentence as something seen, or as the failure that ends the demo.
step() {
    sentence=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        printf 'ok   %s\n' "$sentence"
    else
        printf 'FAIL %s\n' "$sentence"
        sed 's/^/     /' "$work/out"
        if [ -f "$work/host/dockerd.log" ]; then
            echo "     what the engine and the plugin said last:"
            grep -E 'plugin=|level=(error|warning)' "$work/host/dockerd.log" | tail -n 15 | sed 's/^/     /'
        fi
        exit 1
    fi
}

on_host() { if [ "$private" = yes ]; then "$top/tools/host.sh" in "$work/host" "$@"; else "$@"; fi; }
outside() { if [ "$private" = yes ]; then "$top/tools/host.sh" outside "$work/host" "$@"; else nsenter --target "$outside_pid" --net "$@"; fi; }
inside() {
    container=$1
    shift
    docker exec "calico-demo-$container" "$@"
}

# --- the engine ---

start_private_engine() {
    mkdir -m 755 "$work/host"
    mkfifo "$work/hold"
    "$top/tools/host.sh" up "$work/host" <"$work/hold" >/dev/null &
    host_pid=$!
    exec 9>"$work/hold" # the host lives until this end of the pipe is closed, by us or by our death
    wait_until test -e "$work/host/pid"
    "$top/tools/host.sh" dockerd "$work/host" 9>&- &
    DOCKER_HOST=unix://$work/host/docker.sock
    export DOCKER_HOST
    wait_until docker version
}

# Beside the running engine: a namespace that plays the world outside, on a veth of its own.
start_outside() {
    mkdir -p "$work/www/cgi-bin"
    install -m 755 "$top/tools/who" "$work/www/cgi-bin/who"
    unshare --net busybox httpd -f -p 80 -h "$work/www" &
    outside_pid=$!
    wait_until separate_namespace
    ip link add calico-demo type veth peer name eth0 netns "$outside_pid"
    echo 0 >/proc/sys/net/ipv6/conf/calico-demo/accept_dad
    ip address add "$host4/24" dev calico-demo
    ip address add "$host6/64" dev calico-demo nodad
    ip link set calico-demo up
    outside ip address add "$outside4/24" dev eth0
    outside ip address add "$outside6/64" dev eth0 nodad
    outside ip link set eth0 up
}

separate_namespace() { [ "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$outside_pid/ns/net")" ]; }

wait_until() {
    tries=200
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "gave up waiting for: $*" >&2; return 1; }
        sleep 0.1
    done
}

# --- what is looked at ---

fetch() {
    case $1 in *:*) echo "http://[$1]:${2:-80}/cgi-bin/who" ;; *) echo "http://$1:${2:-80}/cgi-bin/who" ;; esac
}

pings() { inside "$1" ping -c 1 -W 3 "$2"; }

# cut_off FROM ADDRESS: neither ping nor a TCP connection works.
cut_off() {
    ! inside "$1" ping -c 1 -W 1 "$2" && ! inside "$1" timeout 2 wget -q -O - "$(fetch "$2")"
}

# The page tells under which address its server sees the caller, with brackets or an IPv4 address in IPv6 form.
page() { "$@" | sed 's/^\[//; s/\]$//; s/^::ffff://'; }

# sees_me_as FROM ADDRESS EXPECTED [PORT]: a TCP connection works and its other end sees the expected address.
sees_me_as() {
    seen=$(page inside "$1" timeout 5 wget -q -O - "$(fetch "$2" "${4:-80}")")
    [ "$seen" = "$3" ] || { echo "the other end sees '$seen' instead of $3"; return 1; }
}

host_reaches() {
    on_host busybox ping -c 1 -W 3 "$1" && on_host busybox timeout 5 busybox wget -q -O - "$(fetch "$1")"
}

resolves() {
    inside "$1" nslookup "$2" | grep -F "$3"
}

address() { docker inspect --format "{{(index .NetworkSettings.Networks \"calico-demo-$2\").$3}}" "calico-demo-$1"; }

run() {
    name=$1
    network=$2
    shift 2
    docker run --detach --name "calico-demo-$name" --network "calico-demo-$network" --network-alias "$name" "$@" "$image"
}

create_network() {
    network=$1
    shift
    docker network create --driver "$plugin" --ipam-driver "$plugin" "$@" "calico-demo-$network"
}

import_image() {
    "$top/tools/busybox-image.sh" | docker import --change 'CMD ["httpd","-f","-p","80","-h","/www"]' - "$image"
}

install_plugin() {
    docker plugin create "$plugin" "$top/plugin" && docker plugin enable "$plugin"
}

# --- the end, in all cases ---

remove_ours() {
    docker ps --all --quiet --filter name='^/calico-demo-' | xargs -r docker rm --force
    docker network ls --quiet --filter name='^calico-demo-' | xargs -r docker network rm
    docker image rm --force "$image"
    [ "$installed_before" = yes ] || remove_plugin
}

remove_plugin() {
    docker plugin inspect "$plugin" || return 0
    on_host "$top/tools/uninstall.sh" "$plugin"
}

finish() {
    status=$?
    trap - EXIT
    set +e
    remove_ours >"$work/out" 2>&1 || sed 's/^/     /' "$work/out"
    if [ "$private" = no ]; then
        ip link delete calico-demo 2>/dev/null
        [ -z "$outside_pid" ] || kill "$outside_pid"
    fi
    [ -z "$server_pid" ] || kill "$server_pid"
    left >"$work/left"
    exec 9>&-
    if [ -n "$host_pid" ]; then wait "$host_pid" || echo "$work/host is not gone" >>"$work/left"; fi
    wait
    if [ -s "$work/left" ]; then
        echo "FAIL everything is removed again; left are:"
        sed 's/^/     /' "$work/left"
        status=1
    elif [ "$status" = 0 ]; then
        echo "ok   everything is removed again: links, routes, packet filter, sockets, plugin"
    fi
    rm -rf "$work"
    exit "$status"
}

# Everything of ours that is still there, a line each.
left() {
    if [ "$installed_before" = yes ]; then return; fi
    on_host ip -brief link | grep -E '^(cali|calico-demo)' | sed 's/^/link /'
    { on_host ip -4 route show table all; on_host ip -6 route show table all; } | grep -E 'dev cali|calico' | sed 's/^/route /'
    on_host nft list tables | grep calico | sed 's/^/nft /'
    for save in iptables-save ip6tables-save iptables-legacy-save ip6tables-legacy-save; do
        on_host "$save" 2>/dev/null | grep -i cali | sed "s/^/$save /"
    done
    on_host find /run/docker/plugins -name 'calico*' 2>/dev/null | sed 's/^/socket /'
    docker plugin ls --format '{{.Name}}' | grep -x "$plugin" | sed 's/^/plugin /'
    docker network ls --format '{{.Name}}' | grep '^calico-demo-' | sed 's/^/network /'
    docker ps --all --format '{{.Names}}' | grep '^calico-demo-' | sed 's/^/container /'
}

[ "$(id -u)" = 0 ] || { echo "demo: only root can make namespaces and install plugins" >&2; exit 1; }
work=$(mktemp -d)
chmod 755 "$work"
private=yes host_pid='' outside_pid='' server_pid='' installed_before=no
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

say "The engine"
if docker info >/dev/null 2>&1; then
    private=no
    step "a Docker Engine runs here" docker version
    if docker plugin inspect "$plugin" >/dev/null 2>&1; then installed_before=yes; fi
    step "a namespace plays the world outside, $outside4 and $outside6" start_outside
else
    start_private_engine
    step "no Docker Engine runs here: a private one is started" docker version
fi
step "a busybox image is made from this machine's busybox" import_image
if [ "$installed_before" = yes ]; then
    echo "ok   plugin $plugin is installed already and is used as it is"
else
    step "plugin $plugin is installed and enabled" install_plugin
fi

say "A network with IPv4 and IPv6"
step "network web is created on $subnet4 and $subnet6" create_network web --ipv6 --subnet "$subnet4" --subnet "$subnet6"
for container in c1 c2 c3; do
    step "container $container runs" run "$container" web
    printf '     it has %s and %s\n' "$(address "$container" web IPAddress)" "$(address "$container" web GlobalIPv6Address)"
done

say "Container to container, each with its own address, no NAT between them"
for pair in c1:c2 c2:c3 c3:c1; do
    from=${pair%:*} to=${pair#*:}
    for family in IPAddress:IPv4 GlobalIPv6Address:IPv6; do
        field=${family%:*} version=${family#*:}
        step "$from reaches $to over $version (ping)" pings "$from" "$(address "$to" web "$field")"
        step "$from reaches $to over $version (TCP), and $to sees $from's own address" \
            sees_me_as "$from" "$(address "$to" web "$field")" "$(address "$from" web "$field")"
    done
done

say "Container to host and host to container"
mkdir -p "$work/hostwww/cgi-bin"
install -m 755 "$top/tools/who" "$work/hostwww/cgi-bin/who"
on_host busybox httpd -f -p 18080 -h "$work/hostwww" 9>&- &
server_pid=$!
wait_until on_host busybox wget -q -O - "$(fetch "$host4" 18080)"
for version in IPv4 IPv6; do
    case $version in
    IPv4) field=IPAddress host=$host4 ;;
    IPv6) field=GlobalIPv6Address host=$host6 ;;
    esac
    step "c1 reaches the host over $version (ping)" pings c1 "$host"
    step "c1 reaches the host over $version (TCP)" sees_me_as c1 "$host" "$(address c1 web "$field")" 18080
    step "the host reaches c2 over $version (ping and TCP)" host_reaches "$(address c2 web "$field")"
done

say "Docker's names"
step "c1 resolves c2 to its IPv4 address" resolves c1 c2 "$(address c2 web IPAddress)"
step "c1 resolves c3 to its IPv6 address" resolves c1 c3 "$(address c3 web GlobalIPv6Address)"
step "c1 reaches c2 by name (ping)" pings c1 c2

say "To the world outside"
step "c1 reaches outside over IPv4; outside sees the host's address, for the pool asks for NAT" sees_me_as c1 "$outside4" "$host4"
outside ip -6 route add "$(address c1 web GlobalIPv6Address)" via "$host6"
step "c1 reaches outside over IPv6; outside sees c1's own address, for the pool asks for none" \
    sees_me_as c1 "$outside6" "$(address c1 web GlobalIPv6Address)"

say "A second network"
step "network shop is created" create_network shop
step "container c4 runs" run c4 shop
printf '     it has %s\n' "$(address c4 shop IPAddress)"
step "c4 reaches the host (ping)" pings c4 "$host4"
step "the host reaches c4 (ping and TCP)" host_reaches "$(address c4 shop IPAddress)"
step "c4 does not reach c1 on web over IPv4: networks are closed to each other" cut_off c4 "$(address c1 web IPAddress)"
step "c1 does not reach c4 on shop either" cut_off c1 "$(address c4 shop IPAddress)"
step "c4 joins web as well" docker network connect calico-demo-web calico-demo-c4
step "c4 reaches c1 on web (ping)" pings c4 "$(address c1 web IPAddress)"
step "c4 leaves web" docker network disconnect calico-demo-web calico-demo-c4

say "Restart"
step "c1 is restarted" docker restart --time 0 calico-demo-c1
step "c1 reaches c2 again over IPv4 (ping)" pings c1 "$(address c2 web IPAddress)"
step "c1 reaches c2 again over IPv6 (ping)" pings c1 "$(address c2 web GlobalIPv6Address)"

say "The end"
