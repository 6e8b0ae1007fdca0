"""Retries, timeouts, hedging, breakers, drops: the same requests through stock Envoy and weir-proxy, and what client, origin and log saw.

    resilience.py PATH_OF_WEIR_PROXY [--verbose]
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request

from xds_envoy import find_envoy
from xds_lab import free_port

TYPE = "type.googleapis.com/envoy.extensions."
LOG = "%REQ(X-KEY)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %UPSTREAM_REQUEST_ATTEMPT_COUNT%"
FLAGS = "%RESPONSE_FLAGS%"
PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Of what differs on purpose: %RESPONSE_FLAGS% are compared as a set, and details lose what a library calls an error.
IGNORED = {"date", "server", "x-envoy-upstream-service-time", "content-length", "connection"}


def retry(on, **fields):
    return {"retry_policy": {"retry_on": on, "num_retries": 2, "retry_back_off": {"base_interval": "0.01s"}, **fields}}


def drop(percent):
    return {"policy": {"drop_overloads": [{"category": "a", "drop_percentage": {"numerator": percent}}]}}


# Name: what the route says, what the cluster says, what the assignment says, whether anybody listens.
ROUTES = {
    "5xx": (retry("5xx"), {}, {}, True),
    "4xx": (retry("retriable-4xx"), {}, {}, True),
    "codes": (retry("retriable-status-codes", retriable_status_codes=[418]), {}, {}, True),
    "headers": (retry("retriable-headers", retriable_headers=[{"name": "x-again", "present_match": True}]), {}, {}, True),
    "gateway": (retry("gateway-error"), {}, {}, True),
    "reset": (retry("reset"), {}, {}, True),
    "before": (retry("reset-before-request"), {}, {}, True),
    "pertry": ({"timeout": "5s", **retry("5xx", per_try_timeout="0.3s")}, {}, {}, True),
    "pertryidle": ({"timeout": "0s", **retry("reset", per_try_idle_timeout="0.3s")}, {}, {}, True),
    "hedged": ({"timeout": "5s", "hedge_policy": {"hedge_on_per_try_timeout": True}, **retry("5xx", per_try_timeout="0.3s")}, {}, {}, True),
    "timeout": ({"timeout": "0.3s"}, {}, {}, True),
    "idle": ({"timeout": "0s", "idle_timeout": "0.3s"}, {}, {}, True),
    "stream": ({"timeout": "0s", "max_stream_duration": {"max_stream_duration": "0.3s"}}, {}, {}, True),
    "upstream": ({"timeout": "0s"}, {"typed_extension_protocol_options": {PROTOCOL: {
        "@type": "type.googleapis.com/" + PROTOCOL, "common_http_protocol_options": {"max_stream_duration": "0.3s"},
        "explicit_http_config": {"http_protocol_options": {}}}}}, {}, True),
    "dead": ({}, {}, {}, False),
    "deadagain": (retry("connect-failure"), {}, {}, False),
    "none": ({}, {}, {"endpoints": []}, True),
    "nopanic": ({}, {"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}, {"health": "UNHEALTHY"}, True),
    "draining": ({}, {}, {"health": "DRAINING"}, True),
    "drop": ({}, {}, drop(100), True),
    "full": ({}, {"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}, {}, True),
}
GRPC = {"content-type": "application/grpc"}
# The first tries get the status, or are slow (`slow`), or reset (`reset`).
REQUESTS = [(route, first, {}) for route, firsts in {
    "5xx": ["503", "500 500", "502 502 502", "599 599 599 599", "reset", "404"],
    "4xx": ["409", "404", "409 409 409"],
    "codes": ["418", "500"],
    "headers": ["200x", "404x 404x", "404x 404x 404x"],
    "gateway": ["502", "500", "504", "reset"],
    # Not three resets: a request on a connection that had served before gets one try more (docs/load-balancing.md).
    "reset": ["reset", "503"],
    "before": ["reset"],
    "pertry": ["slow", "slow slow slow", "503"],
    "pertryidle": ["slow", "slow slow slow"],
    "hedged": ["slow", "slow 503"],
    "timeout": ["slow", "503"],
    "idle": ["slow"],
    "stream": ["slow"],
    "upstream": ["slow"],
    "dead": [""], "deadagain": [""], "none": [""], "nopanic": [""], "draining": [""], "drop": [""], "full": [""],
}.items() for first in firsts]
REQUESTS += [(route, first, GRPC) for route, first in [
    ("timeout", "slow"), ("idle", "slow"), ("stream", "slow"), ("upstream", "slow"), ("none", ""), ("dead", ""), ("full", "")]]


class Origin:
    """Answers as the request's `x-first` says for each try, by `x-key`; afterwards 200. The body tells what came."""

    def __init__(self):
        self.tries, self.port = {}, free_port()

    async def connection(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(re.findall(r"\r\n([^:]+): ([^\r]*)", head.decode()))
                number = self.tries[fields["x-key"]] = self.tries.get(fields["x-key"], 0) + 1
                plan = fields.get("x-first", "").split()
                what = plan[number - 1] if number <= len(plan) else "200"
                if what == "reset":
                    return writer.transport.abort()
                if what == "slow":
                    await asyncio.sleep(0.7)
                status = what[:3] if what[:1].isdigit() else "200"
                timeout = fields.get("x-envoy-expected-rq-timeout-ms")
                # How long a try took before is chance; a tenth of the time is not.
                told = {"try": number, "attempt": fields.get("x-envoy-attempt-count"), "timeout": timeout and round(int(timeout) / 500)}
                body = json.dumps(told).encode()
                again = b"x-again: 1\r\n" if what.endswith("x") else b""
                writer.write(b"HTTP/1.1 %s X\r\n%scontent-length: %d\r\n\r\n%s" % (status.encode(), again, len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


def cluster(name, route, origin):
    _, fields, assignment, alive = route
    address = {"socket_address": {"address": "127.0.0.1", "port_value": origin if alive else 1}}
    endpoint = {"endpoint": {"address": address}, "health_status": assignment.get("health", "UNKNOWN")}
    load = {"cluster_name": name, "endpoints": assignment.get("endpoints", [{"lb_endpoints": [endpoint]}])}
    load |= {key: value for key, value in assignment.items() if key == "policy"}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": load, **fields}


def bootstrap(port, admin, origin, log):
    router = {"name": "router", "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}
    routes = [{"match": {"path": f"/{name}"}, "route": {"cluster": name, **route[0]}} for name, route in ROUTES.items()]
    host = {"name": "all", "domains": ["*"], "routes": routes, "include_request_attempt_count": True,
            "include_attempt_count_in_response": True}
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "it",
        "route_config": {"name": "r", "virtual_hosts": [host]}, "http_filters": [router],
        "access_log": [{"name": "file", "typed_config": {
            "@type": TYPE + "access_loggers.file.v3.FileAccessLog", "path": log,
            "log_format": {"text_format_source": {"inline_string": f"{LOG} {FLAGS}\n"}}}}],
    }
    socket = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    listener = {"name": "main", "address": socket(port), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}
    return {"admin": {"address": socket(admin)}, "static_resources": {
        "listeners": [listener], "clusters": [cluster(name, route, origin) for name, route in ROUTES.items()]}}


class Proxy:
    """A child process, ended with the `with` block."""

    def __init__(self, command, name, origin, directory):
        self.name, self.port, self.admin = name, free_port(), free_port()
        self.log = os.path.join(directory, name + ".access")
        path = os.path.join(directory, name + ".json")
        with open(path, "w") as out:
            json.dump(bootstrap(self.port, self.admin, origin, self.log), out)
        with open(os.path.join(directory, name + ".log"), "w") as out:
            self.child = subprocess.Popen(command + ["-c", path, "--concurrency", "1"], stdout=out, stderr=out)

    def ready(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.child.poll() is None:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=2)
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"FAILED {self.name} does not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.terminate()
        self.child.wait(20)

    async def ask(self, number, route, first, headers):
        """Status, fields and body of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        fields = {"x-key": f"{self.name}-{number}", "x-first": first, "connection": "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"GET /{route} HTTP/1.1\r\nhost: a\r\n{head}\r\n".encode())
        answer = (await asyncio.wait_for(reader.read(), 20)).decode()
        writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        told = sorted(line.lower() for line in lines if line.split(":")[0].lower() not in IGNORED)
        return status.split(" ")[1], told, body

    def logged(self):
        """By request, with the flags as a set."""
        with open(self.log) as lines:
            rows = [line.split() for line in lines]
        # What a failure is called in a library is left out of details.
        return {row[0].split("-")[1]: (row[1], row[2].split("|")[0], row[3], set(row[4].split(","))) for row in rows}


async def run(arguments, directory):
    origin = Origin()
    server = await asyncio.start_server(origin.connection, "127.0.0.1", origin.port)
    commands = {"envoy": [find_envoy(), "--use-dynamic-base-id", "-l", "error", "--file-flush-interval-msec", "100"],
                "weir": [arguments.weir_proxy, "-l", "error"]}
    differ = 0
    with Proxy(commands["envoy"], "envoy", origin.port, directory) as envoy, Proxy(commands["weir"], "weir", origin.port, directory) as weir:
        await asyncio.to_thread(envoy.ready)
        await asyncio.to_thread(weir.ready)
        for number, (route, first, headers) in enumerate(REQUESTS):
            answers = await asyncio.gather(*(proxy.ask(number, route, first, headers) for proxy in (envoy, weir)))
            if answers[0] != answers[1]:
                differ += 1
                print(f"/{route} first {first!r} {headers}\n  Envoy {answers[0]}\n  Weir  {answers[1]}")
            elif arguments.verbose:
                print("ok", route, first, answers[0])
        await asyncio.sleep(0.5)
    server.close()
    logs = envoy.logged(), weir.logged()
    for number, (route, first, _) in enumerate(REQUESTS):
        rows = [log.get(str(number)) for log in logs]
        if rows[0] != rows[1]:
            differ += 1
            print(f"log of /{route} first {first!r}\n  Envoy {rows[0]}\n  Weir  {rows[1]}")
    if differ:
        raise SystemExit(f"FAILED {differ} differences")
    print(f"ok: {len(REQUESTS)} requests, by {len(ROUTES)} routes, the same for client, origin and log")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weir_proxy")
    parser.add_argument("--verbose", action="store_true")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(parser.parse_args(), directory))


if __name__ == "__main__":
    main()
