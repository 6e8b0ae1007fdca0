#!/usr/bin/env bash
# Builds weir-proxy with a profile of its own load (profile-guided optimisation): target/pgo/weir-proxy.
#
#     bench/pgo.sh
#
# Three steps: a build that counts, the scenarios of run.sh as load, a build that uses the counts. Needs what run.sh needs
# (wrk, h2load) and `rustup component add llvm-tools`. Only the crates of this workspace are counted and laid out anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$target/pgo
merge=$(echo "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata)
[ -x "$merge" ] || { echo "llvm-profdata is missing: rustup component add llvm-tools" >&2; exit 1; }
rm -rf "$work"
mkdir -p "$work/counts"

build() { # name of the wrapper, by which cargo tells the builds apart; what rustc is given for the crates of this workspace
    printf '#!/bin/sh\nexec "$@" %s\n' "$2" >"$work/$1"
    chmod +x "$work/$1"
    RUSTC_WORKSPACE_WRAPPER=$work/$1 cargo build --release --bin weir-proxy --target-dir "$target"
}

build count "-Cprofile-generate=$work/counts"
cp "$target/release/weir-proxy" "$work/counting"
for scenario in h1_small routes_10k tls_h1 h2 h1_64k h1_large tcp_conns; do
    WEIR_PROXY=$work/counting OUT=$work/load DUR=2 ROUNDS=1 WARM=1 bench/run.sh "$scenario" weir
done
"$merge" merge -o "$work/profile" "$work/counts"
build use "-Cprofile-use=$work/profile"
cp "$target/release/weir-proxy" "$work/weir-proxy"
echo "$work/weir-proxy"
