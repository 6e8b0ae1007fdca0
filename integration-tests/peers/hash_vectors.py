"""Which endpoint stock Envoy picks for 200 keys under ring hash and Maglev, for `dp-upstream`'s tests.

Nothing answers at the endpoints: the access log tells which one was tried.

    hash_vectors.py >data-plane/crates/upstream/testdata/envoy_picks.json      needs ENVOY or target/peers/python
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time

from xds_envoy import find_envoy

KEYS = 200
EVEN, UNEVEN = [1] * 10, [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
CASES = [
    ("ring", EVEN, {"lb_policy": "RING_HASH"}),
    ("ring_murmur2", EVEN, {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2"}}),
    ("ring_weighted", UNEVEN, {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 4096}}),
    ("ring_small", UNEVEN, {"lb_policy": "RING_HASH", "ring_hash_lb_config": {"minimum_ring_size": 16, "maximum_ring_size": 64}}),
    ("maglev", EVEN, {"lb_policy": "MAGLEV"}),
    ("maglev_weighted", UNEVEN, {"lb_policy": "MAGLEV"}),
    ("maglev_small", UNEVEN, {"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 251}}),
]


def endpoint(number, weight):
    address = {"address": f"127.77.0.{number + 1}", "port_value": 80}
    return {"load_balancing_weight": weight, "endpoint": {"address": {"socket_address": address}}}


def cluster(name, weights, policy):
    endpoints = [endpoint(number, weight) for number, weight in enumerate(weights)]
    return {"name": name, "connect_timeout": "1s", "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}, **policy}


def bootstrap(log):
    hcm = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"path": f"/{name}"}, "route": {"cluster": name, "hash_policy": [{"header": {"header_name": "x-key"}}]}}
            for name, _, _ in CASES
        ]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
        "access_log": [{"name": "file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": log,
            "log_format": {"text_format_source": {"inline_string": "%REQ(:PATH)% %REQ(X-KEY)% %UPSTREAM_HOST%\n"}},
        }}],
    }
    listener = {
        "name": "l",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {"listeners": [listener], "clusters": [cluster(*case) for case in CASES]},
    }


def wait_for(what, find):
    for _ in range(200):
        found = find()
        if found:
            return found
        time.sleep(0.1)
    sys.exit(f"FAILED: no {what}")


def admin(address, path):
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for name, _, _ in CASES:
        for key in range(KEYS):
            connection.request("GET", f"/{name}", headers={"x-key": f"key-{key}"})
            connection.getresponse().read()


def picks(log):
    """By case, the number of the endpoint for each key."""
    found = {}
    for line in open(log):
        path, key, host = line.split()
        found[path[1:], key] = int(host.split(":")[0].rsplit(".", 1)[1]) - 1
    return {name: [found[name, f"key-{key}"] for key in range(KEYS)] for name, _, _ in CASES}


def main():
    envoy = find_envoy()
    with tempfile.TemporaryDirectory() as work:
        config, log, at = (os.path.join(work, name) for name in ("envoy.json", "access.log", "admin"))
        with open(config, "w") as file:
            json.dump(bootstrap(log), file)
        child = subprocess.Popen([envoy, "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "-l", "error", "--admin-address-path", at])
        try:
            address = wait_for("admin address", lambda: os.path.exists(at) and open(at).read())
            listeners = wait_for("listener", lambda: admin(address, "/listeners?format=json").get("listener_statuses"))
            ask(listeners[0]["local_address"]["socket_address"]["port_value"])
            wait_for("access log", lambda: os.path.exists(log) and sum(1 for _ in open(log)) == KEYS * len(CASES))
            found = picks(log)
        finally:
            child.terminate()
            child.wait(30)
    cases = [{"name": name, "weights": weights, "picks": found[name]} for name, weights, _ in CASES]
    print("{\"cases\": [\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]}")


if __name__ == "__main__":
    main()
