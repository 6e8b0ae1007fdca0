"""The same cluster under the same faults in stock Envoy and in weir-proxy: who got how much, and what failed.

Both run the same bootstrap: ten origins, health checks, retries. One fault at a time is put on one origin, a fixed number of requests is
sent at a steady pace, and every origin counts what it served. Prints a table for docs/load-balancing.md; fails when weir-proxy answers
more errors than Envoy, or its share to an endpoint differs by more than a bound.

    balancing.py PATH_OF_WEIR_PROXY [--requests N] [--rate N] [--only POLICY]
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

from differential import ENVOY, WEIR
from xds_envoy import find_envoy
from xds_lab import free_port

ORIGINS = 10
HTTP = "type.googleapis.com/envoy.extensions.filters"
POLICIES = {
    "round robin": {"lb_policy": "ROUND_ROBIN"},
    "least request": {"lb_policy": "LEAST_REQUEST"},
    "random": {"lb_policy": "RANDOM"},
    "ring hash": {"lb_policy": "RING_HASH"},
    "Maglev": {"lb_policy": "MAGLEV"},
}
FAULTS = ["none", "killed", "stalls", "resets", "slow", "flaps", "fails checks"]


class Origin:
    """Serves 200 unless it has a fault; counts the requests that it served."""

    def __init__(self):
        self.fault, self.served, self.port, self.server, self.writers = "none", 0, free_port(), None, set()

    async def start(self):
        self.server = await asyncio.start_server(self.connection, "127.0.0.1", self.port, reuse_address=True)

    async def set(self, fault):
        if fault == "killed":
            self.server.close()
            for writer in list(self.writers):
                writer.transport.abort()
        elif self.fault == "killed":
            await self.start()
        self.fault = fault

    async def connection(self, reader, writer):
        self.writers.add(writer)
        asked = 0
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                check, asked = head.startswith(b"GET /health"), asked + 1
                if self.fault == "stalls":
                    await reader.read()
                    return
                if self.fault == "resets":
                    return writer.transport.abort()
                if self.fault == "slow":
                    await asyncio.sleep(0.1)
                bad = self.fault == "flaps" and asked % 2 == 0 or self.fault == "fails checks" and check
                self.served += not check and not bad
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: 0\r\n\r\n" % (b"503 Bad" if bad else b"200 OK"))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()


def bootstrap(ip, admin, port, origins, policy):
    def socket(address, number):
        return {"socket_address": {"address": address, "port_value": number}}

    route = {
        "cluster": "origins",
        "timeout": "15s",
        "hash_policy": [{"header": {"header_name": "x-key"}}],
        "retry_policy": {
            "retry_on": "5xx,reset,connect-failure",
            "num_retries": 3,
            "per_try_timeout": "1s",
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
            "host_selection_retry_max_attempts": 5,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }],
        },
    }
    manager = {
        "@type": f"{HTTP}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "b",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{HTTP}.http.router.v3.Router"}}],
    }
    cluster = {
        "name": "origins",
        "type": "STATIC",
        "connect_timeout": "1s",
        **policy,
        "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 4}}]},
        "health_checks": [{
            "timeout": "1s", "interval": "0.2s", "no_traffic_interval": "0.2s", "unhealthy_threshold": 1, "healthy_threshold": 1,
            "http_health_check": {"path": "/health"},
        }],
        "load_assignment": {"cluster_name": "origins", "endpoints": [{
            "lb_endpoints": [{"endpoint": {"address": socket("127.0.0.1", origin.port)}} for origin in origins],
        }]},
    }
    return {
        "admin": {"address": socket(ip, admin)},
        "static_resources": {
            "listeners": [{"name": "l", "address": socket(ip, port), "filter_chains": [{"filters": [{"name": "h", "typed_config": manager}]}]}],
            "clusters": [cluster],
        },
    }


async def ask(ip, port, total, rate, clients=8):
    """Sends requests at a steady pace; how many were not answered 200."""
    failed, left = 0, iter(range(total))

    async def client():
        nonlocal failed
        reader = writer = None
        following = time.monotonic()
        for number in left:
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(ip, port)
                writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nx-key: %d\r\n\r\n" % number)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
                length = next((int(l[15:]) for l in head.lower().split(b"\r\n") if l.startswith(b"content-length:")), 0)
                await reader.readexactly(length)
                failed += not head.startswith(b"HTTP/1.1 200")
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                failed, writer = failed + 1, None
            following += clients / rate
            await asyncio.sleep(max(0, following - time.monotonic()))
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return failed


def healthy(ip, admin):
    text = get_text(ip, admin, "/stats?filter=origins.membership_healthy")
    return int(text.split(":")[1]) if ":" in text else -1


def get_text(ip, admin, path):
    with urllib.request.urlopen(f"http://{ip}:{admin}{path}", timeout=5) as answer:
        return answer.read().decode()


async def settled(ip, admin, wanted):
    for _ in range(400):
        try:
            if await asyncio.to_thread(healthy, ip, admin) == wanted:
                return
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit(f"FAILED: {ip}: {wanted} healthy origins were awaited")


async def run(command, ip, policy, options, directory):
    """For each fault: errors while it was new, errors after it was found, share of the origin with the fault, spread of the others."""
    origins = [Origin() for _ in range(ORIGINS)]
    for origin in origins:
        await origin.start()
    admin, port = free_port(), free_port()
    path = os.path.join(directory, f"{ip}.json")
    with open(path, "w") as out:
        json.dump(bootstrap(ip, admin, port, origins, policy), out)
    with open(os.path.join(directory, f"{ip}.log"), "w") as log:
        process = subprocess.Popen([*command, "-c", path, "--concurrency", "2"], stdout=log, stderr=log)
    rows = {}
    try:
        await settled(ip, admin, ORIGINS)
        for fault in FAULTS:
            await origins[0].set(fault)
            new = await ask(ip, port, options.requests, options.rate)
            if fault in ("killed", "stalls", "resets", "fails checks"):
                await settled(ip, admin, ORIGINS - 1)
            before = [origin.served for origin in origins]
            found = await ask(ip, port, options.requests, options.rate)
            served = [origin.served - was for origin, was in zip(origins, before)]
            rows[fault] = (new, found, served[0], min(served[1:]), max(served[1:]))
            await origins[0].set("none")
            await settled(ip, admin, ORIGINS)
    finally:
        process.terminate()
        process.wait(20)
        for origin in origins:
            origin.server.close()
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weir")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rate", type=float, default=400)
    parser.add_argument("--only", help="one policy")
    options = parser.parse_args()
    envoy = find_envoy()
    worse = []
    print("| policy | fault | errors, new: Envoy, Weir | errors, found | served by the origin with the fault | by each of the others |")
    print("|---|---|---|---|---|---|")
    cases = {name: policy for name, policy in POLICIES.items() if options.only in (None, name)}
    for name, policy in cases.items():
        with tempfile.TemporaryDirectory() as directory:
            both = [
                asyncio.run(run([envoy, "--disable-hot-restart", "-l", "error"], ENVOY, policy, options, directory)),
                asyncio.run(run([options.weir, "-l", "error"], WEIR, policy, options, directory)),
            ]
        for fault in FAULTS:
            e, w = both[0][fault], both[1][fault]
            print(f"| {name} | {fault} | {e[0]}, {w[0]} | {e[1]}, {w[1]} | {e[2]}, {w[2]} | {e[3]} to {e[4]}, {w[3]} to {w[4]} |", flush=True)
            if w[1] > e[1]:
                worse.append(f"{name}, {fault}: {w[1]} errors, Envoy {e[1]}")
    for line in worse:
        print(f"FAILED: {line}")
    print(f"{len(cases) * len(FAULTS)} cases, weir-proxy worse in {len(worse)}")
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
