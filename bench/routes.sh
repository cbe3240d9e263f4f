#!/usr/bin/env bash
# Measures traffic between two hosts (network namespaces of this machine) against host to host, in one run with alternating turns, and
# what 100 nodes and 10000 endpoints in the datastore cost a host. Prints tables; read the ratios.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: only root can make network namespaces" >&2; exit 1; }
cargo test --locked --release --test routes -- --ignored --nocapture --test-threads 1 figures | grep '^|'
