"""A gRPC client without a proxy takes its configuration from our control plane and calls a real gRPC origin."""

import json
import os
import subprocess
import sys
import tempfile
from concurrent import futures

from xds_lab import Control, api_listener, cluster, endpoints, route, skipped, until

try:
    import grpc
except ImportError:
    skipped("grpcio is not installed (pip install grpcio)")

METHOD = "/lab.Echo/Say"


def origin(name):
    handler = grpc.unary_unary_rpc_method_handler(lambda request, _: name + b" " + request)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lab.Echo", {"Say": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def bootstrap(control):
    return json.dumps({
        "xds_servers": [{"server_uri": f"127.0.0.1:{control}", "channel_creds": [{"type": "insecure"}],
                         "server_features": ["xds_v3"]}],
        "node": {"id": "grpc-1", "locality": {"zone": "z"}}})


def client():
    """In a process of its own, since the bootstrap is read once: one answer per line of input."""
    channel = grpc.insecure_channel("xds:///svc.example")
    say = channel.unary_unary(METHOD)
    for line in sys.stdin:
        try:
            answer = say(line.strip().encode(), timeout=5, wait_for_ready=True).decode()
        except grpc.RpcError as error:
            answer = f"error {error.code()} {error.details()}"
        print(answer, flush=True)


def main(binary):
    control = Control(binary)
    first, second = origin(b"first"), origin(b"second")
    shared = [api_listener("svc.example", "r"), cluster("a")]
    control.publish([*shared, route("r", "a", "svc.example"), endpoints("a", first[1])])
    environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": bootstrap(control.port), "no_proxy": "*"}
    child = subprocess.Popen([sys.executable, __file__, "--client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             text=True, env=environment)

    def say():
        child.stdin.write("hi\n")
        child.stdin.flush()
        return child.stdout.readline().strip()

    try:
        until("grpc: calls the origin", lambda: say() == "first hi")
        # One stream for the channel and one for the servers, of one node.
        until("grpc: the control plane sees it in sync", lambda: in_sync(control))
        control.publish([*shared, route("r", "a", "svc.example"), endpoints("a", second[1])])
        until("grpc: endpoints move", lambda: say() == "second hi")
        move = [route("r", "b", "svc.example"), endpoints("a", second[1]), cluster("b"), endpoints("b", first[1])]
        control.publish([*shared, *move])
        until("grpc: a route moves to a new cluster", lambda: say() == "first hi")
    except BaseException:
        print(control.nodes(), file=sys.stderr)
        raise
    finally:
        child.stdin.close()
        child.wait(20)
        control.stop()


def in_sync(control):
    nodes = control.nodes()
    if [node["class"] for node in nodes] != ["grpc"]:
        return False
    return all(kind["status"] == "Synced" for kind in nodes[0]["kinds"].values())


if __name__ == "__main__":
    if sys.argv[1:] == ["--client"]:
        client()
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        sys.exit("usage: xds_grpc.py PATH-OF-xds_server")
