#!/usr/bin/env bash
# h2spec against weir-proxy, by prior knowledge (h2c) and by TLS with ALPN: every case must pass.
#
#     h2spec.sh PATH_OF_WEIR_PROXY PATH_OF_H2SPEC
set -euo pipefail
proxy=$1
h2spec=$2
[ -x "$h2spec" ] || { echo "SKIPPED: h2spec is not installed"; exit 0; }
work=$(mktemp -d)
pids=()
stop() { for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done; rm -rf "$work"; }
trap stop EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
plain=$(port); tls=$(port); admin=$(port)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null

manager() { cat <<YAML
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: h2spec
          codec_type: HTTP2  # with AUTO a wrong preface is an HTTP/1 request, which is answered as one
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: "a body of more than a few bytes"}}}]
          http_filters:
          # Holds the request up to its end, so that cases about its body get to send it.
          - name: buffer
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1048576}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
YAML
}
cat > "$work/proxy.yaml" <<YAML
admin: {address: {socket_address: {address: 127.0.0.1, port_value: $admin}}}
static_resources:
  listeners:
  - name: plain
    address: {socket_address: {address: 127.0.0.1, port_value: $plain}}
    filter_chains:
    - filters:
$(manager)
  - name: tls
    address: {socket_address: {address: 127.0.0.1, port_value: $tls}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates: [{certificate_chain: {filename: $work/cert.pem}, private_key: {filename: $work/key.pem}}]
      filters:
$(manager)
YAML
"$proxy" -c "$work/proxy.yaml" --concurrency 1 -l error &
pids+=($!)
for _ in $(seq 300); do curl -sf "http://127.0.0.1:$admin/ready" >/dev/null 2>&1 && break; sleep 0.1; done

failed=0
run() { # name, arguments
    local out="$work/$1.txt"
    timeout 150 "$h2spec" -h 127.0.0.1 -p "$2" "${@:3}" >"$out" 2>&1 || true
    local total
    total=$(grep -E '^[0-9]+ tests, ' "$out" | tail -1 || true)
    echo "$1: ${total:-no result}"
    if ! grep -qE '^[0-9]+ tests, [0-9]+ passed, 0 skipped, 0 failed' "$out"; then
        sed -n '/^Failures:/,$p' "$out"
        failed=1
    fi
}
# 2.6.0 has a case more than 2.2.1, hpack/2.3.3/2: a literal field whose name has an index outside of the tables.
literal_index() { # name, port
    python3 - "$@" <<'PYTHON' || failed=1
import socket, ssl, struct, sys
name, port = sys.argv[1], int(sys.argv[2])
stream = socket.create_connection(("127.0.0.1", port), timeout=20)
if name == "tls":
    context = ssl._create_unverified_context()
    context.set_alpn_protocols(["h2"])
    stream = context.wrap_socket(stream)
block = b"\x82\x87\x84\x41\x09localhost" + b"\x7f\x07\x05value"  # :method, :scheme, :path, :authority; index 70
frame = lambda kind, flags, number, data: struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", number) + data
stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, block))
data = b""
while piece := stream.recv(65536):
    data += piece
codes = []
while len(data) >= 9:
    size = int.from_bytes(data[:3], "big")
    if data[3] == 7:
        codes.append(int.from_bytes(data[13:17], "big"))
    data = data[9 + size:]
# As h2spec judges: a connection that ends passes, whatever its GOAWAY says. RFC 9113 wants 9, COMPRESSION_ERROR; h2 0.4 says 1.
print(f"{name}: hpack/2.3.3/2 of 2.6.0: GOAWAY {codes}, connection closed")
PYTHON
}
case $("$h2spec" --version 2>&1) in *2.6.*) ;; *) literal_index h2c "$plain"; literal_index tls "$tls" ;; esac
run h2c "$plain"
run tls "$tls" -t -k
exit $failed
