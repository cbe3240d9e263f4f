#!/bin/sh
# Installs what building, demonstrating and testing need and this machine lacks; does nothing, quickly, where all is there.
#
#   setup.sh [build|run|test|engines|bench]...    default: the first three
#
# build: the musl target and a compiler of .proto files   run: a Docker Engine, iptables, BIRD, ip, a static busybox   test: etcd, nft, BIRD, openssl
# bench: qperf, for figures of traffic   engines: debootstrap, for the root file systems of newer Debians
set -eu
export PATH="$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin"
[ $# -gt 0 ] || set -- build run test

wanted=
updated=

# want COMMAND PACKAGE: the package, unless its command is there.
want() {
    command -v "$1" >/dev/null 2>&1 || wanted="$wanted $2"
}

want_bird() {
    command -v bird >/dev/null 2>&1 || install_quietly bird2 bird.service
}

install_wanted() {
    [ -n "$wanted" ] || return 0
    [ "$(id -u)" = 0 ] || { echo "setup: these Debian packages are missing and only root can install them:$wanted" >&2; exit 1; }
    [ -n "$updated" ] || apt-get update --quiet
    updated=yes
    # shellcheck disable=SC2086 # one word a package
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $wanted
    wanted=
}

setup_build() {
    command -v cargo >/dev/null 2>&1 || { echo "setup: no cargo here: install Rust 1.90 or newer (https://rustup.rs) first" >&2; exit 1; }
    want cc gcc
    want git git
    [ -e /usr/include/stdio.h ] || wanted="$wanted libc6-dev"
    install_wanted
    target=$(uname -m)-unknown-linux-musl
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target/lib" ]; then
        command -v rustup >/dev/null 2>&1 || { echo "setup: rustc lacks the target $target and there is no rustup to add it" >&2; exit 1; }
        rustup target add "$target"
    fi
    compiles_protos || cargo install protox --features bin --locked
}

# Debian's protoc without libprotobuf-dev lacks the well-known .proto files that etcd-client's import.
compiles_protos() {
    command -v protox >/dev/null 2>&1 && return 0
    command -v protoc >/dev/null 2>&1 || return 1
    probe=$(mktemp -d)
    printf 'syntax = "proto3";\nimport "google/protobuf/descriptor.proto";\n' >"$probe/probe.proto"
    protoc --proto_path="$probe" --descriptor_set_out=/dev/null probe.proto >/dev/null 2>&1 && works=0 || works=1
    rm -rf "$probe"
    return "$works"
}

setup_run() {
    want dockerd docker.io
    want xtables-legacy-multi iptables
    want ip iproute2
    want nsenter util-linux
    busybox=$(command -v busybox || true)
    if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then wanted="$wanted busybox-static"; fi
    install_wanted
    [ "${WITH_BIRD:-1}" = 0 ] || want_bird
    want docker docker-cli # part of docker.io up to Debian 12, a package of its own after
    install_wanted
}

setup_test() {
    want nft nftables
    want openssl openssl
    command -v etcd >/dev/null 2>&1 || install_quietly etcd-server etcd.service
    want_bird
    install_wanted
}

setup_engines() {
    want debootstrap debootstrap
    want unshare util-linux
    install_wanted
}

setup_bench() {
    want qperf qperf
    install_wanted
}

# Of some packages only the programs are wanted: what runs is started by the plugin or by tests, and the package's service would
# only sit on the machine's ports.
install_quietly() {
    package=$1
    service=$2
    policy=/usr/sbin/policy-rc.d
    wanted="$wanted $package"
    if [ -e "$policy" ]; then
        install_wanted
    else
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        install_wanted
        rm -f "$policy"
    fi
    if [ -d /run/systemd/system ]; then systemctl disable --quiet "$service"; fi
}

for part in "$@"; do
    case $part in
    build | run | test | engines | bench) "setup_$part" ;;
    *) echo "setup: no part $part; there are build, run, test, engines and bench" >&2; exit 2 ;;
    esac
done
