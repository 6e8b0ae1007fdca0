"""The cases of the Autobahn test suite against a WebSocket server, directly and through weir-proxy: every case must end
in the same way.

The cases are Autobahn's own files, run by `kosoku`; the server is Python's `websockets`. The ways through the proxy are
an upgrade by HTTP/1.1, the same within TLS, and an extended CONNECT on one shared HTTP/2 connection (RFC 8441). For the
last two a small bridge stands before the proxy, because the client speaks plain HTTP/1.1 only; it passes bytes on as
they are.

The whole takes about two minutes at most: a way that begins after ENOUGH seconds runs only the groups SHORT, and says so.

    autobahn.py PATH_OF_WEIR_PROXY [--only CASES]
"""

import asyncio
import base64
import collections
import hashlib
import logging
import ssl
import sys
import tempfile
import time

from xds_lab import certificate, free_port, skipped, start_proxy

try:
    import h2.config
    import h2.connection
    import h2.events
    import h2.settings
    import kosoku
    import websockets.asyncio.messages
    from websockets.asyncio.server import serve
except ImportError as error:
    skipped(f"{error.name} is not installed")

T = "type.googleapis.com/envoy."
ENOUGH = 80
SHORT = [f"{group}.*" for group in (1, 2, 5, 7)]


# --- the server, and the bridges ---

async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def copy(reader, writer):
    """Passes bytes on, and their end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def tls_bridge(port, context):
    running = set()  # tasks that nobody holds are not kept

    async def bridge(reader, writer):
        running.add(asyncio.current_task())
        to_proxy = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        await asyncio.gather(copy(reader, to_proxy[1]), copy(to_proxy[0], writer))
        running.discard(asyncio.current_task())

    return bridge


class Http2:
    """One HTTP/2 connection whose streams are WebSockets."""

    def __init__(self, port, context):
        self.port, self.context = port, context
        self.conn = h2.connection.H2Connection(config=h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.incoming, self.room, self.offered = {}, asyncio.Condition(), asyncio.Event()

    async def start(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context,
                                                                 server_hostname="localhost" if self.context else None)
        self.conn.initiate_connection()
        self.conn.increment_flow_control_window(1 << 24)
        self.flush()
        self.task = asyncio.create_task(self.read())
        await asyncio.wait_for(self.offered.wait(), 30)

    def flush(self):
        self.writer.write(self.conn.data_to_send())

    async def read(self):
        while data := await self.reader.read(65536):
            for event in self.conn.receive_data(data):
                self.handle(event)
            self.flush()
            async with self.room:
                self.room.notify_all()
        for queue in self.incoming.values():
            queue.put_nowait(None)

    def handle(self, event):
        queue = self.incoming.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RemoteSettingsChanged):
            if self.conn.remote_settings.enable_connect_protocol:
                self.offered.set()
        elif isinstance(event, h2.events.ResponseReceived):
            queue.put_nowait(dict(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            self.conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            queue.put_nowait(event.data)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)) and queue:
            queue.put_nowait(None)

    async def send(self, stream, data):
        while data:
            async with self.room:
                await self.room.wait_for(lambda: self.conn.local_flow_control_window(stream) > 0)
            size = min(len(data), self.conn.local_flow_control_window(stream), self.conn.max_outbound_frame_size)
            self.conn.send_data(stream, data[:size])
            self.flush()
            await self.writer.drain()
            data = data[size:]

    async def bridge(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        key = fields.pop("sec-websocket-key")
        stream = self.conn.get_next_available_stream_id()
        queue = self.incoming[stream] = asyncio.Queue()
        kept = [(name, value) for name, value in fields.items() if name not in ("host", "connection", "upgrade")]
        scheme = "https" if self.context else "http"
        self.conn.send_headers(stream, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", scheme),
                                        (":path", head[0].split(" ")[1]), (":authority", fields["host"])] + kept)
        self.flush()
        answer = await queue.get()
        accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
        assert answer and answer[":status"] == "200", answer
        answer.update({"connection": "upgrade", "upgrade": "websocket", "sec-websocket-accept": accept})
        lines = "".join(f"{name}: {value}\r\n" for name, value in answer.items() if not name.startswith(":"))
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode())
        up = asyncio.create_task(self.upwards(stream, reader))
        while data := await queue.get():
            writer.write(data)
            await writer.drain()
        writer.close()
        up.cancel()

    async def upwards(self, stream, reader):
        try:
            while data := await reader.read(65536):
                await self.send(stream, data)
            self.conn.end_stream(stream)
        except (OSError, h2.exceptions.ProtocolError):
            pass
        self.flush()


# --- the proxy ---

def bootstrap(admin, ports, origin, cert, key):
    def listener(name, port, tls):
        manager = {
            "@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http2_protocol_options": {"allow_connect": True},
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"],
                             "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]}]},
            "http_filters": [{"name": "router", "typed_config": {"@type": T + "extensions.filters.http.router.v3.Router"}}]}
        chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
        if tls:
            certificate = {"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}
            chain["transport_socket"] = {"name": "tls", "typed_config": {
                "@type": T + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [certificate]}}}
        return {"name": name, "address": address(port), "filter_chains": [chain]}

    def address(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    cluster = {"name": "origin", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(origin)}}]}]}}
    listeners = [listener("plain", ports[0], False), listener("tls", ports[1], True)]
    return {"admin": {"address": address(admin)}, "static_resources": {"listeners": listeners, "clusters": [cluster]}}


# --- the cases ---

async def run(port, only):
    """The outcome of each case. Of compression (12, 13) only a few: more of it is no other to a proxy."""
    chosen = only or [f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10)] + ["12.1.1", "12.5.1", "13.1.1", "13.4.1", "13.7.1"]
    try:
        results = await kosoku.run_fuzzingclient(f"127.0.0.1:{port}", chosen, concurrency=4)
    except kosoku.FailureError as failure:
        results = failure.results

    def outcome(case):
        received = hashlib.sha256(repr(case.received).encode()).hexdigest()
        return (case.behavior.value, case.behavior_close.value, case.remote_close_code, case.remote_close_reason,
                case.was_clean, sorted(case.rx_frame_stats.items()), received)

    return {case.case_id: outcome(case) for case in results}


def passes(outcome):
    # What happens in an INFORMATIONAL case is left open by RFC 6455, and depends on who is faster.
    return outcome[:2] == ("INFORMATIONAL", "INFORMATIONAL") or outcome[0] in ("OK", "NON-STRICT") and outcome[1] == "OK"


async def main():
    binary, only = sys.argv[1], sys.argv[3:] if sys.argv[2:3] == ["--only"] else None
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # it is sent nonsense on purpose
    websockets.asyncio.messages.MAX_FRAGMENTS = 1 << 20  # group 9 sends messages in many pieces
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        cert, key = certificate(work)
        h1, h2_only = ssl.create_default_context(cafile=cert), ssl.create_default_context(cafile=cert)
        h2_only.set_alpn_protocols(["h2"])
        async with serve(echo, "127.0.0.1", 0, max_size=None, max_queue=None) as origin:
            port = origin.sockets[0].getsockname()[1]
            admin, plain, tls = free_port(), free_port(), free_port()
            child = await asyncio.to_thread(start_proxy, binary, bootstrap(admin, (plain, tls), port, cert, key), admin, work)
            try:
                clear, within_tls = Http2(plain, None), Http2(tls, h2_only)
                await clear.start()
                await within_tls.start()
                ways = {"by HTTP/1.1": plain}
                for name, bridge in [("by HTTP/1.1 in TLS", tls_bridge(tls, h1)), ("by HTTP/2", clear.bridge),
                                     ("by HTTP/2 in TLS", within_tls.bridge)]:
                    server = await asyncio.start_server(bridge, "127.0.0.1", 0)
                    ways[name] = server.sockets[0].getsockname()[1]
                started = time.monotonic()
                direct = await run(port, only)
                verdicts = collections.Counter(outcome[:2] for outcome in direct.values())
                print(f"directly: {len(direct)} cases: " + ", ".join(f"{count} {a}/{b}" for (a, b), count in verdicts.items()))
                for name, way in ways.items():
                    began = time.monotonic()
                    short = not only and began - started > ENOUGH
                    through = await run(way, SHORT if short else only)
                    wanted = [case for case in direct if not short or f"{case.split('.')[0]}.*" in SHORT]
                    if short:
                        print(f"{name}: only {' '.join(SHORT)}, for want of time")
                    different = [case for case in wanted if direct[case] != through.get(case)]
                    # A server that gets several frames at once may answer none of them when the last is wrong: both pass.
                    either = [case for case in different if case in through and passes(direct[case]) and passes(through[case])]
                    different = [case for case in different if case not in either]
                    for case in different[:10]:
                        print(f"{name}: {case}: directly {direct[case]}, through the proxy {through.get(case)}")
                    if either:
                        print(f"{name}: passed both ways, though not with the same frames: {' '.join(either)}")
                    print(f"{name}: {len(wanted) - len(different)} of {len(wanted)} cases as without the proxy ({time.monotonic() - began:.0f} s)", flush=True)
                    failed += len(different)
                if child.poll() is not None:
                    sys.exit(f"weir-proxy ended with {child.returncode}")
            finally:
                child.kill()
                child.wait()
    print(f"up to {len(direct)} cases in {len(ways)} ways through the proxy, {failed} other than without it")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    asyncio.run(main())
