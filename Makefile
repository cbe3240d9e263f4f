# Thin: what cargo or a script can do is done there. `make help` lists the targets.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin

ARCH := $(shell uname -m)
TARGET := $(ARCH)-unknown-linux-musl
BINARY := target/$(TARGET)/release/calico-libnetwork
SIZE_BUDGET := 12582912
# The Debians whose newer Docker Engines the tests run as well: tools/engine-rootfs.sh
ENGINES := trixie forky
export CC_$(subst -,_,$(TARGET)) ?= cc

# Name under which the engine knows the plugin, and its settings: make install SET="LOG_LEVEL=debug NODENAME=n1"
PLUGIN ?= calico:latest
SET ?=

# The hosts of `make lab`: NAME[=DEBIAN][@SUBNET], see tools/lab.sh.
HOSTS ?= h1 h2=trixie h3=forky

# 0 leaves the iptables-legacy program out of the root file system.
export WITH_IPTABLES_LEGACY ?= 1
# 1 asks for CAP_SYS_ADMIN, too: routes inside containers that are also on a bridge or on several networks.
export WITH_CONTAINER_ROUTES ?= 0
# 0 leaves BIRD out of it; without it there is no BGP.
export WITH_BIRD ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup binary check-binary rootfs plugin install upgrade uninstall demo lab engines test test-programs test-engines lint fmt bench bench-policy bench-datastore bench-lab clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="	" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

setup: ## install what building, running and testing need and this machine lacks
	@tools/setup.sh

binary: ## build the static binary
	@tools/setup.sh build
	cargo build --release --locked --target $(TARGET) --bin calico-libnetwork

check-binary: binary ## see that the binary is static, runs in an empty root and keeps its size
	@tools/check-binary.sh $(BINARY) $(SIZE_BUDGET)

rootfs: binary ## fill plugin/ with the root file system and config.json
	@tools/setup.sh run
	@rootfs-build/assemble.sh $(BINARY)

plugin: check-binary rootfs ## build and check all that `docker plugin create` takes

install: plugin ## install the plugin in the running Docker Engine and enable it (PLUGIN=name:tag, SET="NAME=value ...")
	@tools/install.sh $(PLUGIN) $(SET)

upgrade: plugin ## replace the installed plugin by this build; networks, state, settings and running containers stay
	@tools/upgrade.sh $(PLUGIN)

uninstall: ## remove the plugin, its state and all it left on this host from the running Docker Engine
	@tools/uninstall.sh $(PLUGIN)

demo: plugin ## show it: networks, containers, traffic over IPv4 and IPv6; removes every trace
	@tools/demo.sh

lab: plugin ## several hosts on this machine: a swarm with the plugin, until Ctrl-C (HOSTS="h1 h2=trixie h3=forky@2", SET=...)
	@tools/setup.sh
	@tools/lab.sh open $(SET) -- $(HOSTS)

engines: ## make the root file systems of newer Debians, whose engines the tests run as well (once, cached)
	@tools/setup.sh
	@for suite in $(ENGINES); do tools/engine-rootfs.sh $$suite || echo "without Debian $$suite's Docker Engine, its tests are skipped"; done

test: plugin engines ## all tests
	cargo test --locked --no-fail-fast

test-programs: ## compile all tests
	@tools/setup.sh build
	cargo test --locked --no-run

test-engines: plugin ## the Docker tests on Debian's newer engines, 26.1 and 28.5
	@tools/setup.sh
	@for suite in $(ENGINES); do tools/engine-rootfs.sh $$suite || exit 1; done
	@for suite in $(ENGINES); do echo "--- Debian $$suite"; REQUIRE=docker ENGINE=$$suite cargo test --locked --test docker || exit 1; done

lint: ## formatting, clippy and documentation, warnings refused
	@tools/setup.sh build
	cargo fmt --check
	cargo clippy --locked --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --locked --no-deps --document-private-items

fmt: ## format the code
	cargo fmt

bench: plugin bench-datastore ## measure container starts, time to socket, memory, sizes and etcd, and print them as tables
	@bench/run.sh
	cargo bench --locked --bench policy

bench-policy: ## measure the packet filter: packets, changes, throughput
	cargo bench --locked --bench policy

bench-datastore: ## measure what etcd costs: round trips, latencies, races, memory
	@tools/setup.sh build test
	cargo bench --locked --bench datastore

bench-lab: plugin ## measure traffic and starts between hosts, in a lab, against Docker's overlay and the hosts themselves
	@bench/lab.sh

clean: ## remove what was built
	cargo clean
	rm -rf plugin/rootfs plugin/config.json
