#!/bin/sh
# A host of its own on this machine: network, mount, process and UTS namespaces with a /run, a /var/lib and an /etc/docker that
# nobody else sees, joined to a second namespace that plays the world outside. Everything a Docker Engine leaves behind dies with it.
#
#   host.sh up DIR               make the host in the fresh directory DIR, print "up", and take it all down (DIR too) when
#                                standard input ends, so also when the caller is killed
#   host.sh dockerd DIR [OPTION] run a Docker Engine there in the foreground; its API is DIR/docker.sock, its log DIR/dockerd.log
#   host.sh in DIR COMMAND...    run a command inside the host
#   host.sh outside DIR COMMAND  run a command in the world outside, which is 198.51.100.2 and 2001:db8:ffff::2 on the host's
#                                eth0, knows no way to any container, and serves the page `who` on port 80
#
# ENGINE=trixie or ENGINE=forky at `up` makes it a host of that Debian, with its engine, client and tools, from the root file
# system of engine-rootfs.sh. It is not written to: what the host changes is in DIR.
#
# For lab.sh, at `up`: WIRE=no leaves the network to the caller, and there is no world outside; KEEP=yes leaves DIR, the host's disk,
# when the host ends, so that `up` can start it again; CGROUP=NAME is the containers' cgroup, by default DIR's last part.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
top=$(cd "$(dirname "$0")/.." && pwd)

# Entered by nsenter and never by `ip netns exec`, which would mount another /sys and hide the cgroups from the engine.
enter() {
    init=$1
    shift
    exec nsenter --target "$init" --mount --uts --net --pid -- "$@"
}

# Makes the other Debian the root of this mount namespace; this repository and DIR keep their names. With chroot instead runc
# could not make a container's root private: a chroot's root is no mount.
pivot() {
    rootfs=$("$top/tools/engine-rootfs.sh" --where "$ENGINE")
    root=$dir/root
    mkdir -p "$root" "$dir/root-changes" "$dir/root-work"
    mount -t overlay -o "lowerdir=$rootfs,upperdir=$dir/root-changes,workdir=$dir/root-work" overlay "$root"
    mkdir -p "$root$top" "$root$dir" "$root/etc/docker" "$root/old"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount --bind "$top" "$root$top"
    mount --bind "$dir" "$root$dir"
    cd "$root"
    pivot_root . old
    cd /
    umount --lazy /old
}

# Process 1 of the host. Its shell reaps what engines orphan; when standard input ends it exits and the kernel kills the rest.
init() {
    dir=$1
    read -r pid rest </proc/self/stat # still the caller's /proc: the number by which the caller knows us
    mount --make-rprivate /
    if [ -n "${ENGINE:-}" ]; then pivot; else mount -t proc proc /proc; fi
    mount -t tmpfs -o mode=755 tmpfs /run
    mount --make-shared /run # as systemd has it: managed plugins follow what is mounted below
    mkdir -p /run/lock "$dir/var-lib"
    mount --bind "$dir/var-lib" /var/lib
    mount -t tmpfs -o mode=755 tmpfs /etc/docker
    echo "${dir##*/}" >/proc/sys/kernel/hostname
    ip link set lo up

    mkdir -p "$dir/www/cgi-bin"
    install -m 755 "$top/tools/who" "$dir/www/cgi-bin/who"
    [ "${WIRE:-yes}" = no ] || join_outside
    echo "$pid" >"$dir/pid.new"
    mv "$dir/pid.new" "$dir/pid" # whoever waits for it finds it whole
    echo up
    cat >/dev/null
}

join_outside() {
    unshare --net busybox httpd -f -p 80 -h "$dir/www" &
    outside=$!
    while [ "$(readlink /proc/self/ns/net)" = "$(readlink "/proc/$outside/ns/net")" ]; do sleep 0.01; done
    ip link add eth0 type veth peer name eth0 netns "$outside"
    wire "" 1
    wire "nsenter --target $outside --net" 2
    ip route add default via 198.51.100.2
    ip -6 route add default via 2001:db8:ffff::2
    echo "$outside" >"$dir/outside"
}

# Addresses from the ranges kept for documentation: no such packet ever belongs anywhere else. Without duplicate address
# detection the host is from the first moment as it stays.
wire() {
    $1 sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad'
    $1 ip link set lo up
    $1 ip address add "198.51.100.$2/24" dev eth0
    $1 ip address add "2001:db8:ffff::$2/64" dev eth0 nodad
    $1 ip link set eth0 up
}

# The engine makes its containers' cgroups under --cgroup-parent and a managed plugin's, named by its ID, wherever its own one is;
# nobody else removes them.
remove_cgroups() {
    for name in "$(cat "$dir/cgroup" 2>/dev/null)" $(ls "$dir/var-lib/docker/plugins" 2>/dev/null | grep -xE '[0-9a-f]{64}'); do
        for group in $(find /sys/fs/cgroup -type d -name "$name"); do
            find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || return 1
        done
    done
}

remove_disk() { [ "${KEEP:-no}" = yes ] || rm -rf "$dir" 2>/dev/null; }

up() {
    dir=$1
    [ -d "$dir" ] || { echo "host.sh: $dir is no directory" >&2; exit 2; }
    if [ -n "${ENGINE:-}" ] && [ ! -d "$("$top/tools/engine-rootfs.sh" --where "$ENGINE")" ]; then
        echo "host.sh: there is no Debian $ENGINE; make it with tools/engine-rootfs.sh $ENGINE" >&2
        exit 2
    fi
    rm -f "$dir/pid" # of a host that was switched off
    echo "${CGROUP:-${dir##*/}}" >"$dir/cgroup"
    trap '' INT TERM HUP # only the end of standard input takes the host down: its caller decides when
    unshare --net --mount --uts --pid --fork "$0" init "$dir" || true
    tries=50
    until remove_cgroups && remove_disk; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "host.sh: cannot remove what is left of $dir" >&2; exit 1; }
        sleep 0.1
    done
}

command=${1:-}
[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=$2
shift 2
case $command in
up) up "$dir" ;;
init) init "$dir" ;;
in) enter "$(cat "$dir/pid")" "$@" ;;
outside) enter "$(cat "$dir/pid")" nsenter --target "$(cat "$dir/outside")" --net -- "$@" ;;
dockerd)
    # In a session of its own: Ctrl-C at the caller's terminal must not stop the engine under a clean-up that needs it.
    enter "$(cat "$dir/pid")" setsid --wait dockerd --host unix:///run/docker.sock --host "unix://$dir/docker.sock" \
        --cgroup-parent "/$(cat "$dir/cgroup")" "$@" </dev/null >>"$dir/dockerd.log" 2>&1
    ;;
*) echo "host.sh: no command $command" >&2; exit 2 ;;
esac
