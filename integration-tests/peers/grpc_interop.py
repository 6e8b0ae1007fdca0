"""gRPC through weir-proxy: Python's grpcio on both sides. Every case runs directly, through the proxy in clear text (h2c on
both sides) and through the proxy within TLS (on both sides); what the client saw, and what the server saw, must be equal.

    grpc_interop.py PATH_OF_WEIR_PROXY [CASE…]
"""

import concurrent.futures
import hashlib
import json
import sys
import tempfile
import threading
import time

from xds_lab import certificate, free_port, skipped, start_proxy

try:
    import grpc
except ImportError:
    skipped("grpcio is not installed")

T = "type.googleapis.com/envoy."
# What a proxy says of itself, and what differs with the connection.
OWN = ("x-forwarded-", "x-envoy-", "x-request-id", "date", "server", "user-agent", "grpc-accept-encoding")


def kept(metadata):
    return sorted((key, value) for key, value in metadata or () if not key.startswith(OWN))


def digest(message):
    return len(message), hashlib.sha256(message).hexdigest()[:16]


# --- the server ---

class Service(grpc.GenericRpcHandler):
    """Messages are bytes as they are; what the server saw of a call is asked for by another call."""

    def __init__(self):
        self.seen = {}
        self.lock = threading.Condition()

    def note(self, context, what):
        name = dict(context.invocation_metadata()).get("case", "")
        with self.lock:
            self.seen.setdefault(name, []).append(what)
            self.lock.notify_all()

    def service(self, call):
        name = call.method.rsplit("/", 1)[1]
        handler = getattr(self, name, None)
        if not call.method.startswith("/it.Test/") or handler is None:
            return None
        kinds = {"stream_unary": grpc.stream_unary_rpc_method_handler, "unary_stream": grpc.unary_stream_rpc_method_handler,
                 "stream_stream": grpc.stream_stream_rpc_method_handler}
        return kinds.get(handler.__doc__, grpc.unary_unary_rpc_method_handler)(handler)

    def Seen(self, request, context):
        end = time.monotonic() + 20
        with self.lock:
            while not self.seen.get(request.decode()) and time.monotonic() < end:
                self.lock.wait(1)
            return json.dumps(self.seen.pop(request.decode(), [])).encode()

    def Echo(self, request, context):
        self.note(context, [list(pair) if isinstance(pair[1], str) else [pair[0], pair[1].hex()]
                            for pair in kept(context.invocation_metadata())])
        context.send_initial_metadata((("initial", "one"), ("initial-bin", b"\x00\x01\xff")))
        context.set_trailing_metadata((("trailing", "two"), ("trailing-bin", bytes(range(256)))))
        return request

    def Zipped(self, request, context):
        context.set_compression(grpc.Compression.Gzip)
        return request

    def Fail(self, request, context):
        code, details = json.loads(request)
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05\x12\x04oops"), ("why", "because")))
        context.abort(next(c for c in grpc.StatusCode if c.value[0] == code), details)

    def Age(self, request, context):
        self.note(context, 0 < (context.time_remaining() or 1e9) <= 5.5)
        return b""

    def Stuck(self, request, context):
        ended = threading.Event()
        context.add_callback(ended.set)
        self.note(context, "ended" if ended.wait(20) else "not told")
        return b"late"

    def Sum(self, requests, context):
        """stream_unary"""
        total = hashlib.sha256()
        count = 0
        for message in requests:
            total.update(message)
            count += 1
        return f"{count} {total.hexdigest()}".encode()

    def First(self, requests, context):
        """stream_unary"""
        return next(requests)

    def Down(self, request, context):
        """unary_stream"""
        for size in json.loads(request):
            yield bytes(i % 251 for i in range(size))

    def DownThenFail(self, request, context):
        """unary_stream"""
        yield b"one"
        yield b"two"
        context.set_trailing_metadata((("why", "enough"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more: 100 % \u2713")

    def Endless(self, request, context):
        """unary_stream"""
        # grpcio may drop the generator of a call that has ended, so that what follows the loop never runs: the callback tells.
        context.add_callback(lambda: self.note(context, "ended"))
        for number in range(100000):
            yield str(number).encode()
            time.sleep(0.001)

    def Both(self, requests, context):
        """stream_stream"""
        for message in requests:
            yield message

    def GiveUp(self, requests, context):
        """stream_stream"""
        yield b"hello"
        next(requests)
        context.abort(grpc.StatusCode.ABORTED, "no")


def serve(credentials=None, options=()):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64), options=(("grpc.so_reuseport", 0), *options))
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_secure_port("127.0.0.1:0", credentials) if credentials else server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


# --- the client ---

class Calls:
    def __init__(self, channel, case):
        self.channel, self.case = channel, case

    def metadata(self, more=()):
        return (("case", self.case), *more)

    def outcome(self, call, messages=()):
        """What a finished call ended with."""
        return {"code": call.code().name, "details": call.details(), "initial": kept(call.initial_metadata()),
                "trailing": kept(call.trailing_metadata()), "messages": [digest(message) for message in messages]}

    def unary(self, method, request=b"", more=(), **options):
        try:
            answer, call = self.channel.unary_unary(f"/it.Test/{method}").with_call(
                request, metadata=self.metadata(more), timeout=options.pop("timeout", 30), **options)
            return self.outcome(call, [answer])
        except grpc.RpcError as error:
            return self.outcome(error)

    def stream(self, call):
        messages = []
        try:
            messages.extend(call)
        except grpc.RpcError:
            pass
        return self.outcome(call, messages)

    def up(self, method, requests, **options):
        try:
            answer, call = self.channel.stream_unary(f"/it.Test/{method}").with_call(
                requests, metadata=self.metadata(), timeout=30, **options)
            return self.outcome(call, [answer])
        except grpc.RpcError as error:
            return self.outcome(error)

    def down(self, method, request=b"", **options):
        return self.channel.unary_stream(f"/it.Test/{method}")(request, metadata=self.metadata(), timeout=30, **options)

    def both(self, method, requests, **options):
        return self.channel.stream_stream(f"/it.Test/{method}")(requests, metadata=self.metadata(), timeout=30, **options)

    def seen(self):
        """What the server noted of this case's calls."""
        return json.loads(self.channel.unary_unary("/it.Test/Seen")(self.case.encode(), timeout=30))


def case(function):
    CASES[function.__name__] = function
    return function


CASES = {}


@case
def unary_of_all_sizes(c):
    return [c.unary("Echo", b"x" * size) for size in (0, 1, 16384, 65535, 314159, 3 << 20)]


@case
def metadata(c):
    more = (("plain", "a b"), ("twice", "1"), ("twice", "2"), ("empty", ""), ("data-bin", bytes(range(256))), ("large", "v" * 6000))
    return c.unary("Echo", b"m", more), c.seen()


@case
def status_and_details(c):
    codes = [code.value[0] for code in grpc.StatusCode if code.value[0]]
    return [c.unary("Fail", json.dumps([code, text]).encode()) for code in codes for text in ("", "plain", "100 % \u00fcber \u2713\n")]


@case
def client_streaming(c):
    return [c.up("Sum", iter([b"a" * size for size in sizes])) for sizes in ([27182, 8, 1828, 45904], [], [1] * 500)]


@case
def server_answers_before_the_client_has_said_all(c):
    release = threading.Event()

    def requests():
        yield b"first"
        release.wait(10)

    answer = c.up("First", requests())
    release.set()
    return answer


@case
def server_streaming(c):
    lists = ([31415, 9, 2653, 58979], [], [1 << 20] * 3, [0, 0, 0], [10] * 1000)
    return [c.stream(c.down("Down", json.dumps(sizes).encode())) for sizes in lists]


@case
def server_streaming_that_fails(c):
    return c.stream(c.down("DownThenFail"))


@case
def ping_pong(c):
    received, turn = [], threading.Semaphore(1)

    def requests():
        for size in (27182, 8, 1828, 45904, 0, 1):
            turn.acquire()
            yield b"p" * size

    call = c.both("Both", requests())
    for message in call:
        received.append(message)
        turn.release()
    return c.outcome(call, received)


@case
def empty_stream(c):
    return c.stream(c.both("Both", iter([])))


@case
def both_ways_at_once(c):
    return c.stream(c.both("Both", iter([bytes([n % 256]) * 10000 for n in range(300)])))


@case
def server_gives_up_a_stream(c):
    release = threading.Event()

    def requests():
        yield b"one"
        release.wait(10)

    answer = c.stream(c.both("GiveUp", requests()))
    release.set()
    return answer


@case
def unimplemented(c):
    return c.unary("NoSuchMethod"), c.stream(c.both("NoSuchStream", iter([])))


@case
def compression(c):
    text = b"well compressible " * 5000
    return [c.unary("Zipped", text, compression=grpc.Compression.Gzip), c.unary("Zipped", text),
            c.unary("Echo", text, compression=grpc.Compression.Deflate),
            c.stream(c.both("Both", iter([text] * 3), compression=grpc.Compression.Gzip))]


@case
def deadline(c):
    late, seen = c.unary("Stuck", timeout=1.5), c.seen()
    call = c.channel.unary_stream("/it.Test/Endless")(b"", metadata=c.metadata(), timeout=1.5)
    outcome = c.stream(call)
    return late, seen, outcome["code"], outcome["details"], c.seen(), c.unary("Age", timeout=5), c.seen()


@case
def cancelled_before_an_answer(c):
    call = c.channel.unary_unary("/it.Test/Stuck").future(b"", metadata=c.metadata(), timeout=30)
    time.sleep(0.3)
    call.cancel()
    return call.code().name, call.details(), c.seen()


@case
def cancelled_within_a_stream(c):
    call = c.down("Endless")
    first = [next(call) for _ in range(10)]
    call.cancel()
    try:
        for _ in call:
            pass
    except (grpc.RpcError, grpc.FutureCancelledError):
        pass
    return first == [str(n).encode() for n in range(10)], call.code().name, call.details(), c.seen()


@case
def many_streams_on_one_connection(c):
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        calls = [pool.submit(c.unary, "Echo", bytes([n]) * 1000 * n) for n in range(40)]
        streams = [pool.submit(lambda: c.stream(c.both("Both", iter([b"s" * 5000] * 50)))) for _ in range(20)]
        return [call.result() for call in calls + streams]


# --- the proxy ---

def bootstrap(admin, listeners, cert, key):
    def socket(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def tls(kind, common, **more):
        config = {"@type": f"{T}extensions.transport_sockets.tls.v3.{kind}TlsContext", "common_tls_context": common, **more}
        return {"transport_socket": {"name": "tls", "typed_config": config}}

    options = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": T + "extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
    down = tls("Downstream", {"alpn_protocols": ["h2"],
                              "tls_certificates": [{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}]})
    up = tls("Upstream", {"validation_context": {"trusted_ca": {"filename": cert}}}, sni="localhost")
    made, clusters = [], []
    for name, port, origin, secure in listeners:
        route = {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": name, "timeout": "0s"}}
        manager = {
            "@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": name,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": T + "extensions.filters.http.router.v3.Router"}}]}
        chain = {"filters": [{"name": "hcm", "typed_config": manager}], **(down if secure else {})}
        made.append({"name": name, "address": socket(port), "filter_chains": [chain]})
        clusters.append({"name": name, "type": "STATIC", "connect_timeout": "5s", "typed_extension_protocol_options": options,
                         "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(origin)}}]}]},
                         **(up if secure else {})})
    return {"admin": {"address": socket(admin)}, "static_resources": {"listeners": made, "clusters": clusters}}


# A deadline or a cancellation must reach the server; nothing is tried again behind the test's back.
OPTIONS = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.http2.max_pings_without_data", 0))


def goaway(open_channel, port):
    """A server whose connections grow old: calls one after the other, and a stream over several of its connections' lives."""
    with open_channel(port) as channel:
        c, end, failed, count = Calls(channel, "goaway"), time.monotonic() + 4, [], 0
        while time.monotonic() < end:
            outcome = c.unary("Echo", b"x")
            count += 1
            if outcome["code"] != "OK":
                failed.append(outcome)
            time.sleep(0.005)
        return count > 20, failed


def main():
    chosen = {name: CASES[name] for name in sys.argv[2:]} or CASES
    with tempfile.TemporaryDirectory() as work:
        cert, key = certificate(work)
        with open(cert, "rb") as c, open(key, "rb") as k:
            chain, private = c.read(), k.read()
        client_tls = grpc.ssl_channel_credentials(root_certificates=chain)
        server_tls = grpc.ssl_server_credentials([(private, chain)])
        ageing = (("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 5000))
        servers = {"plain": serve(), "tls": serve(server_tls), "ageing": serve(options=ageing)}
        ports = {name: free_port() for name in servers}
        listeners = [(name, ports[name], server[1], name == "tls") for name, server in servers.items()]
        admin = free_port()
        child = start_proxy(sys.argv[1], bootstrap(admin, listeners, cert, key), admin, work)

        def clear(port):
            return grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)

        def secure(port):
            return grpc.secure_channel(f"127.0.0.1:{port}", client_tls, options=(*OPTIONS, ("grpc.ssl_target_name_override", "localhost")))

        try:
            different = 0
            ways = {"directly": clear(servers["plain"][1]), "in clear text": clear(ports["plain"]), "in TLS": secure(ports["tls"])}
            for name, run in chosen.items():
                outcomes = {way: json.dumps(run(Calls(channel, name)), default=repr, sort_keys=True) for way, channel in ways.items()}
                wrong = [way for way in outcomes if outcomes[way] != outcomes["directly"]]
                for way in wrong:
                    print(f"{name}, {way}:\n  directly    {outcomes['directly'][:1500]}\n  the proxy   {outcomes[way][:1500]}")
                print(f"{'DIFFERS' if wrong else 'ok'} {name}", flush=True)
                different += len(wrong)
            if chosen is CASES:
                lost = [goaway(clear, port) for port in (servers["ageing"][1], ports["ageing"])]
                if lost != [(True, [])] * 2:
                    print(f"DIFFERS goaway: directly {lost[0]}, through the proxy {lost[1]}")
                    different += 1
                for server, _ in servers.values():
                    server.stop(0).wait()
                gone = [Calls(ways[way], "gone").unary("Echo")["code"] for way in ways]
                if gone != ["UNAVAILABLE"] * 3:
                    print(f"DIFFERS server that is gone: {gone}")
                    different += 1
            if child.poll() is not None:
                sys.exit(f"weir-proxy ended with {child.returncode}")
        finally:
            child.kill()
            child.wait()
    print(f"{len(chosen) + 2 * (chosen is CASES)} cases in 2 ways through the proxy, {different} other than without it")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
