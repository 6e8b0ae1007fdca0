"""Random route configurations and random requests through stock Envoy and through weir-proxy: both must do the same.

Both run the same bootstrap on different loopback addresses of equal length (127.0.0.2 and 127.0.0.3), so that ports and
lengths are equal too. Compared: status, response headers and body; the body of the origin is what the origin saw.

    differential.py PATH_OF_WEIR_PROXY [--seed N] [--configs N] [--requests N] [--only CONFIG] [--show N] [--keep DIR]
"""

import argparse
import asyncio
import collections
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

from random_requests import Client, origin, request
from random_routes import Random, bootstrap
from xds_envoy import find_envoy
from xds_lab import free_port

ENVOY, WEIR = "127.0.0.2", "127.0.0.3"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
GIVEN_ID = "11111111-2222-4333-8444-555555555555"  # the one that requests bring
IGNORED = {"date", "x-envoy-upstream-service-time"}

# What differs on purpose: (name, whether this request is one of them, why). Such a request is counted apart.
DELIBERATE = [
    ("fragment", lambda data, lines: b"#" in data.split(b" HTTP/1.", 1)[0],
     "a `#` in the target is refused by the codec (CVE-2021-32779), in Envoy by the connection manager: other local reply"),
    ("no host", lambda data, lines: b"\r\nhost:" not in data.lower(),
     "a request without `host` is refused by the codec even when its target is absolute (RFC 9112 section 3.2), and operators see no head"),
    ("refused head", lambda data, lines: data.startswith(b"FOO ") or b" HTTP/1.0\r\n" in data,
     "operators in the answer to a head that was refused: Envoy shows parts of that head, Weir none"),
    ("early answer", lambda data, lines: lines[0].startswith("status ") and lines[1:2] == ["response only Envoy: connection: close"],
     "Envoy closes after an answer that it gives before it noted the end of the request; Weir can go on"),
    ("codec details", lambda data, lines: any("invalid_url" in line for line in lines),
     "why a head cannot be parsed has names of its own in %RESPONSE_CODE_DETAILS%"),
    ("asterisk", lambda data, lines: b" * HTTP/1" in data and not data.startswith(b"OPTIONS"),
     "`*` is a target for OPTIONS only (RFC 9112 section 3.2.4): 400, where Envoy looks for a route"),
    ("empty port", lambda data, lines: re.match(rb"[A-Z]+ http://[^/]*:/", data),
     "an authority may end in `:` (RFC 3986 section 3.2.3); Envoy refuses it in absolute targets"),
]


class Proxy:
    """A child process with a bootstrap, ended with the `with` block."""

    def __init__(self, command, ip, admin, origin_port, listeners, directory):
        path = os.path.join(directory, ip + ".json")
        with open(path, "w") as out:
            json.dump(bootstrap(ip, admin, origin_port, listeners), out, indent=1)
        self.ip, self.log_path = ip, os.path.join(directory, ip + ".log")
        self.url = f"http://{ip}:{admin}/ready"
        with open(self.log_path, "w") as log:
            self.child = subprocess.Popen(command + ["-c", path, "--concurrency", "1"], stdout=log, stderr=log)

    def __enter__(self):
        end = time.monotonic() + 60
        while self.child.poll() is None and time.monotonic() < end:
            try:
                if urllib.request.urlopen(self.url, timeout=2).status == 200:
                    return self
            except OSError:
                time.sleep(0.1)
        with open(self.log_path) as log:
            text = log.read()[-900:]
        self.__exit__()
        sys.exit(f"{self.ip} did not start:\n{text}")

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()


def normal(answer):
    """An answer without what may differ: the time, generated ids, the address of the proxy, the order of names."""

    def text(value):
        value = value.replace(WEIR, ENVOY)
        return UUID.sub(lambda found: found[0] if found[0] == GIVEN_ID else "<uuid>", value)

    first, headers, body = answer
    kept = sorted(((name, text(value)) for name, value in headers if name not in IGNORED), key=lambda header: header[0])
    status = first.split(" ")[1] if first.startswith("HTTP/") else first
    try:
        seen = json.loads(body)
        seen["headers"] = [[name, text(value)] for name, value in seen["headers"]]
        body = seen
    except (ValueError, TypeError, KeyError):
        body = text(body.decode("latin-1"))
    return {"status": status, "headers": kept, "body": body}


def differences(envoy, weir):
    """One line for each thing that differs."""
    lines = []

    def pairs(what, left, right):
        left, right = collections.Counter(map(tuple, left)), collections.Counter(map(tuple, right))
        lines.extend(f"{what} only Envoy: {name}: {value}" for name, value in left - right)
        lines.extend(f"{what} only Weir:  {name}: {value}" for name, value in right - left)

    if envoy["status"] != weir["status"]:
        lines.append(f"status Envoy {envoy['status']} Weir {weir['status']}")
    pairs("response", envoy["headers"], weir["headers"])
    left, right = envoy["body"], weir["body"]
    if isinstance(left, dict) and isinstance(right, dict) and "headers" in left and "headers" in right:
        pairs("origin saw", left["headers"], right["headers"])
        for part in ("line", "body"):
            if left.get(part) != right.get(part):
                lines.append(f"origin saw {part} Envoy {left.get(part)!r} Weir {right.get(part)!r}")
    elif left != right:
        lines.append(f"body Envoy {str(left)[:200]!r} Weir {str(right)[:200]!r}")
    if lines and envoy["status"] == weir["status"]:
        lines.insert(0, f"status {envoy['status']} of both")
    if not lines and envoy != weir:
        lines.append(f"order Envoy {envoy} Weir {weir}")
    return lines


async def compare(number, port, rng, count, results):
    envoy, weir = Client(ENVOY, port), Client(WEIR, port)
    for _ in range(count):
        data, is_head = request(rng)
        left, right = await asyncio.gather(envoy.ask(data, is_head), weir.ask(data, is_head))
        left, right = normal(left), normal(right)
        if b"\r\ntransfer-encoding:" in data.lower() or b"\r\ncontent-length:" in data.lower():
            # Envoy closes when it answers before it has read the body, Weir reads the rest of a short one.
            for answer in (left, right):
                answer["headers"] = [header for header in answer["headers"] if header != ("connection", "close")]
        if is_head:
            # An own answer without body says `chunked` to HEAD in Envoy, but `content-length: 0` as to GET in Weir.
            for answer in (left, right):
                framing = [("transfer-encoding", "chunked"), ("content-length", "0")]
                answer["headers"] = [header for header in answer["headers"] if header not in framing]
        lines = differences(left, right)
        reason = next((name for name, applies, _ in DELIBERATE if lines and applies(data, lines)), None)
        results.append((number, data, lines, reason))
    envoy.close()
    weir.close()


async def run(arguments, directory):
    numbers = [arguments.only] if arguments.only is not None else range(arguments.configs)
    ports = set()
    while len(ports) < len(numbers):
        ports.add(free_port())
    listeners = [(port, Random(random.Random(f"{arguments.seed} config {n}")).manager())
                 for port, n in zip(sorted(ports), numbers)]
    server, origin_port = await origin()
    results, admins = [], (free_port(), free_port())
    start = asyncio.to_thread
    envoy = Proxy([find_envoy(), "--use-dynamic-base-id", "-l", "error"], ENVOY, admins[0], origin_port, listeners, directory)
    weir = Proxy([arguments.weir_proxy, "-l", "error"], WEIR, admins[1], origin_port, listeners, directory)
    try:
        await start(envoy.__enter__)
        await start(weir.__enter__)
        gate = asyncio.Semaphore(4)

        async def one(number, port):
            async with gate:
                await compare(number, port, random.Random(f"{arguments.seed} requests {number}"), arguments.requests, results)

        await asyncio.gather(*(one(number, port) for number, (port, _) in zip(numbers, listeners)))
        for proxy in (envoy, weir):
            if proxy.child.poll() is not None:
                results.append((None, b"", [f"{proxy.ip} ended with {proxy.child.returncode}"], None))
    finally:
        envoy.__exit__()
        weir.__exit__()
        server.close()
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("weir_proxy")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--configs", type=int, default=64)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--only", type=int)
    parser.add_argument("--show", type=int, default=10)
    parser.add_argument("--keep")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = asyncio.run(run(arguments, arguments.keep or temporary))
    different = [result for result in results if result[2] and not result[3]]
    for number, data, lines, _ in different[:arguments.show]:
        print(f"--- config {number} of seed {arguments.seed}")
        print("  > " + " | ".join(data.decode("latin-1").rstrip("\r\n").split("\r\n")))
        print("\n".join("  " + line for line in lines))
    apart = collections.Counter(reason for _, _, lines, reason in results if lines and reason)
    for name, _, why in DELIBERATE:
        if apart[name]:
            print(f"{apart[name]} differ on purpose: {name}: {why}")
    equal = sum(not result[2] for result in results)
    configs = len({result[0] for result in results})
    print(f"{len(results)} compared over {configs} configs, {equal} equal, {sum(apart.values())} different on purpose, {len(different)} different")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
