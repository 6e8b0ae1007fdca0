"""The PROXY protocol between weir-proxy and HAProxy, in both roles of each: who is the client is told right, and so are TLVs.

    proxy_protocol.py PATH_OF_WEIR_PROXY
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from xds_lab import free_port

KIND = "type.googleapis.com/envoy.extensions."
HCM = "filters.network.http_connection_manager.v3.HttpConnectionManager"


def extension(kind, **fields):
    return {"name": kind, "typed_config": {"@type": KIND + kind, **fields}}


def listener(name, port, filters, listener_filters=()):
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "listener_filters": list(listener_filters),
        "filter_chains": [{"filters": filters}],
    }


def answering():
    """Answers every request with who the client is, and its TLV of type 2."""
    seen = "%DOWNSTREAM_REMOTE_ADDRESS% %DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol:authority)%"
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": [{"header": {"key": "x-client", "value": seen}}],
    }
    return extension(
        HCM,
        stat_prefix="h",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[extension("filters.http.router.v3.Router")],
    )


def tcp_proxy(cluster):
    authority = {"type": 2, "value": base64.b64encode(b"a.example").decode()}
    return extension("filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=cluster, cluster=cluster, proxy_protocol_tlvs=[authority])


def cluster(name, port, version):
    config = {"version": version}
    if version == "V2":
        config["pass_through_tlvs"] = {}
    inner = extension("transport_sockets.raw_buffer.v3.RawBuffer")
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
    return {
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": extension(
            "transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport", config=config, transport_socket=inner
        ),
    }


def ask(port):
    """The head of the answer to a request on this port, with the address it was sent from."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        host, number = client.getsockname()
        return answer.decode(), f"{host}:{number}"


def wait_for(port):
    until = time.time() + 20
    while time.time() < until:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens on {port}")


def expect(what, answer, wanted):
    if wanted not in answer:
        sys.exit(f"{what}: {wanted!r} is not in {answer!r}")
    print(f"ok {what}: {wanted}")


def main():
    weir = sys.argv[1]
    haproxy = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not os.access(haproxy, os.X_OK):
        print("SKIPPED: haproxy is not installed (apt-get install haproxy)")
        return
    names = ["take", "v1", "v2", "front_v1", "front_v2", "told_v1", "told_v2"]
    ports = {name: free_port() for name in names}
    proxy_filter = extension(
        "filters.listener.proxy_protocol.v3.ProxyProtocol",
        rules=[{"tlv_type": 2, "on_tlv_present": {"key": "authority"}}],
    )
    bootstrap = {
        "node": {"id": "n", "cluster": "c"},
        "static_resources": {
            "listeners": [
                listener("take", ports["take"], [answering()], [proxy_filter]),
                listener("v1", ports["v1"], [tcp_proxy("told_v1")]),
                listener("v2", ports["v2"], [tcp_proxy("told_v2")]),
            ],
            "clusters": [cluster("told_v1", ports["told_v1"], "V1"), cluster("told_v2", ports["told_v2"], "V2")],
        },
    }
    haproxy_config = f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen front_v1
    bind 127.0.0.1:{ports["front_v1"]}
    server weir 127.0.0.1:{ports["take"]} send-proxy
listen front_v2
    bind 127.0.0.1:{ports["front_v2"]}
    server weir 127.0.0.1:{ports["take"]} send-proxy-v2
"""
    for name in ("told_v1", "told_v2"):
        haproxy_config += f"""
frontend {name}
    mode http
    bind 127.0.0.1:{ports[name]} accept-proxy
    http-request return status 200 content-type text/plain lf-string "told %[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority]"
"""
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("weir.json", "haproxy.cfg")]
        with open(paths[0], "w") as out:
            json.dump(bootstrap, out)
        with open(paths[1], "w") as out:
            out.write(haproxy_config)
        commands = [[weir, "-c", paths[0], "--concurrency", "1"], [haproxy, "-db", "-f", paths[1]]]
        running = [subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr) for command in commands]
        try:
            for name in names:
                if name not in ("take", "told_v1", "told_v2"):  # these want a header
                    wait_for(ports[name])
            for name in ("front_v1", "front_v2"):
                answer, client = ask(ports[name])
                expect(f"HAProxy {name[-2:]} tells weir-proxy", answer, f"x-client: {client} \r\n")  # no TLV is nothing, as in Envoy
            for name, authority in (("v1", ""), ("v2", "a.example")):
                answer, client = ask(ports[name])
                expect(f"weir-proxy {name} tells HAProxy", answer, f"told {client} 127.0.0.1:{ports[name]} {authority}")
        finally:
            for process in running:
                process.kill()
                process.wait()
    print("ok: who the client is, both ways, versions 1 and 2")


main()
