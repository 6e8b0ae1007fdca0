"""What the peer scripts share: the example control plane as a child, resources as text, a patient question."""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def skipped(reason):
    print(f"SKIPPED: {reason}", flush=True)
    sys.exit(0)


def until(what, question, seconds=30):
    """Asks until the answer is true; the last answer or error is shown when it never is."""
    last, end = None, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            last = question()
            if last:
                print(f"ok {what}", flush=True)
                return last
        except OSError as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"never: {what}; last: {last!r}")


def free_port():
    """A port that nobody listens on, and that the system gives to no outgoing connection: those come from 32768 upwards."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def certificate(directory):
    """A self-signed certificate for `localhost` and its key, as paths."""
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


def start_proxy(binary, config, admin, directory):
    """weir-proxy as a child that serves."""
    path = os.path.join(directory, "proxy.json")
    with open(path, "w") as out:
        json.dump(config, out)
    child = subprocess.Popen([binary, "-c", path, "--concurrency", "1", "-l", "error"])
    end = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < end:
        try:
            if urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=2).status == 200:
                return child
        except OSError:
            time.sleep(0.1)
    child.kill()
    child.wait()
    sys.exit("weir-proxy did not start")


class Control:
    def __init__(self, binary):
        self.directory = tempfile.TemporaryDirectory()
        self.child = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.line("listening ").rsplit(":", 1)[1])

    def line(self, prefix):
        line = self.child.stdout.readline().rstrip()
        assert line.startswith(prefix), line
        return line[len(prefix):]

    def ask(self, command, prefix):
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        return self.line(prefix)

    def publish(self, resources):
        path = os.path.join(self.directory.name, "resources.json")
        with open(path, "w") as out:
            json.dump({"resources": resources}, out)
        return int(self.ask(f"publish {path}", "published "))

    def nodes(self):
        return json.loads(self.ask("status", "status "))

    def stop(self):
        self.child.stdin.close()
        self.child.wait(20)


def origin(text):
    """A real HTTP origin that answers with `text`; gives its port."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = text.encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


T = "type.googleapis.com/envoy."
ADS = {"ads": {}, "resource_api_version": "V3"}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name, timeout="1s"):
    return {"@type": T + "config.cluster.v3.Cluster", "name": name, "type": "EDS", "connect_timeout": timeout,
            "lb_policy": "ROUND_ROBIN", "eds_cluster_config": {"eds_config": ADS}}


def endpoints(name, *ports):
    lbs = [{"endpoint": {"address": address(port)}, "health_status": "HEALTHY", "load_balancing_weight": 1} for port in ports]
    locality = {"locality": {"zone": "z"}, "load_balancing_weight": 1, "lb_endpoints": lbs}
    return {"@type": T + "config.endpoint.v3.ClusterLoadAssignment", "cluster_name": name, "endpoints": [locality]}


def connection_manager(route):
    router = {"name": "envoy.filters.http.router",
              "typed_config": {"@type": T + "extensions.filters.http.router.v3.Router"}}
    return {"@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "h", "rds": {"route_config_name": route, "config_source": ADS}, "http_filters": [router]}


def listener(name, port, route):
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager",
                          "typed_config": connection_manager(route)}]}
    return {"@type": T + "config.listener.v3.Listener", "name": name, "address": address(port), "filter_chains": [chain]}


def api_listener(name, route):
    return {"@type": T + "config.listener.v3.Listener", "name": name,
            "api_listener": {"api_listener": connection_manager(route)}}


def route(name, target, domain="*"):
    hosts = [{"name": "all", "domains": [domain], "routes": [{"match": {"prefix": ""}, "route": {"cluster": target}}]}]
    return {"@type": T + "config.route.v3.RouteConfiguration", "name": name, "virtual_hosts": hosts}
