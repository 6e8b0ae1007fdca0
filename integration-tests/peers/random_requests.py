"""Random HTTP/1 requests as bytes, a client that sends them unchanged, and an origin that answers with what it saw."""

import asyncio
import json
import re

HOSTS = ["a.test", "A.TEST", "b.test", "api.a.test", "x-x.test", "y.x-x.test", "c.test:8080", "c.test", "a.test:80", "api.zzz",
         "api.a.zzz", "bbb", "zzz", "a.test.", "[::1]:80", "[::1]", "deep.api.a.test:99", "a.test:", "test", ".test"]
PATHS = ["/", "/api", "/api/", "/api/x/v1", "/a", "/a/", "/a/b", "/a/b/c", "/A/B", "/aa", "/API/x", "/a%2Fb", "/a%2fb/c", "/v1/users",
         "/v1/users/7", "/a//b", "//a/b", "/x.y", "/index.html", "/a/index.html", "/a/./b", "/a/../b", "/a/%2e%2e/b", "/../a", "/%61/b",
         "/a%5Cb", "/a\\b", "/a;p=1", "/a;p=1/b", "/a/b;x", "/api;v=2/x", "/%", "/%zz", "/a%00b", "/a b".replace(" ", "%20"), "/a#frag",
         "/a/b/", "/b/7", "/b/zz9", "/en/x/y", "/%7Etilde", "/\u00e9", "*", "/a%252Fb", "/...", "/a/.../b", "/a/.%2e/b", "/a/%2F/b"]
QUERIES = ["", "", "", "?q=1", "?q=two&r=1", "?r", "?q=", "?q=%31", "?a=b&q=1", "?q=1&q=two", "?", "?q=1#f", "?x=/../y", "?Q=1"]
HEADERS = [("x-a", ["one", "two", "one,two", "", "ONE", "c1"]), ("x-b", ["two", "b.test", "x"]), ("X-Num", ["5", "-5", "10", "zz"]),
           ("cookie", ["a=1", "a=1; b=2"]), ("content-type", ["text/plain", "application/grpc", "application/json"]), ("accept", ["*/*", "text/html"]),
           ("x-forwarded-for", ["1.2.3.4", "10.0.0.1", "1.2.3.4, 10.0.0.1", "10.1.1.1,5.6.7.8,10.0.0.2", "junk", ""]),
           ("x-forwarded-proto", ["https", "http", "ftp", "HTTPS"]), ("x-forwarded-host", ["fh.test"]), ("x-forwarded-port", ["99"]),
           ("x-envoy-original-path", ["/o"]), ("x-envoy-internal", ["true"]), ("x-request-id", ["mine", "11111111-2222-4333-8444-555555555555"]),
           ("user-agent", ["ua/1"]), ("te", ["trailers", "gzip"]), ("connection", ["keep-alive", "close", "x-b", "TE"]), ("keep-alive", ["timeout=5"]),
           ("proxy-connection", ["keep-alive"]), ("x-envoy-max-retries", ["1", "zz"]), ("x-envoy-upstream-rq-timeout-ms", ["5000"]),
           ("x-envoy-expected-rq-timeout-ms", ["5000"]), ("x-client-trace-id", ["t"]), ("origin", ["http://o.test", "http://bad.other"]),
           ("access-control-request-method", ["POST", ""]), ("under_score", ["u"]), ("x-cluster", ["c0", "c2", "gone"]), ("x-multi", ["m1", "m2"]),
           ("x-forwarded-client-cert", ["By=x"]), ("x-envoy-force-trace", ["1"]), ("x-envoy-external-address", ["9.9.9.9"]), ("via", ["1.1 other"]),
           ("x-envoy-decorator-operation", ["op"]), ("x-envoy-attempt-count", ["7"]), ("x-envoy-retry-on", ["5xx"]), ("referer", ["http://r.test/a"]),
           ("x-envoy-hedge-on-per-try-timeout", ["true"]), ("x-envoy-peer-metadata", ["p"]), ("x-envoy-downstream-service-cluster", ["dc"]),
           ("X-MIXED-Case", ["Keep"]), ("accept-encoding", ["gzip"]), ("range", ["bytes=0-1"]), ("authorization", ["Basic eDp5"]),
           ("x-spaces", ["  padded  ", "in  ner"]), ("x-tab", ["a\tb"]), ("x-high", ["caf\u00e9"]), ("upgrade", ["websocket", "h2c"]),
           ("x-envoy-is-timeout-retry", ["true"]), ("x-ot-span-context", ["s"]),
           ("grpc-timeout", ["1S"])]
REPLIES = ["200", "200", "200", "200 chunked", "404", "503", "418", "204", "304", "301 location", "200 multi", "200 server", "200 envoy", "200 empty",
           "500 chunked", "200 hop", "206"]


def request(rng):
    """The bytes of a request, and whether it was a HEAD (whose answer has no body)."""
    method = rng.choice(["GET"] * 8 + ["POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "FOO"])
    path = rng.choice(PATHS)
    path += rng.choice(QUERIES) if path != "*" else ""
    host = rng.choice(HOSTS)
    version = "HTTP/1.0" if rng.random() < 0.03 else "HTTP/1.1"
    if rng.random() < 0.03:
        path = f"http://{rng.choice(HOSTS)}{path}" if path.startswith("/") else path
    headers = [] if rng.random() < 0.02 else [("Host", host)]
    for name, values in rng.sample(HEADERS, rng.choice([0, 1, 2, 2, 3, 4, 6])):
        headers += [(name, rng.choice(values))] * (2 if rng.random() < 0.06 and name not in ("content-type", "x-request-id", "x-forwarded-proto") else 1)
    if method == "OPTIONS" and rng.random() < 0.7:
        headers += [("Origin", "http://o.test"), ("Access-Control-Request-Method", "GET")]
    headers.append(("x-reply", rng.choice(REPLIES)))
    body = b""
    if method in ("POST", "PUT", "PATCH") or rng.random() < 0.03:
        data = b"d" * rng.choice([0, 1, 20, 50])
        if rng.random() < 0.4 and version == "HTTP/1.1":
            headers.append(("Transfer-Encoding", "chunked"))
            body = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n"
        else:
            headers.append(("Content-Length", str(len(data))))
            body = data
    rng.shuffle(headers)
    lines = [f"{method} {path} {version}"] + [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body, method == "HEAD"


async def read_message(reader, is_head=False, is_request=False):
    """(first line, [(name, value)], body) of one message, or None when the peer closed before it."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    first_of = dict(reversed(headers))
    body = b""
    status = "" if is_request else first.split(" ")[1]
    if is_head or status in ("204", "304") or status.startswith("1"):
        pass
    elif "chunked" in first_of.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while (await reader.readline()).strip():
            pass
    elif "content-length" in first_of:
        body = await reader.readexactly(int(first_of["content-length"]))
    elif not is_request:
        body = await reader.read()
    return first, headers, body


class Client:
    """One connection at a time to one listener; reconnects after a close."""

    def __init__(self, ip, port):
        self.ip, self.port, self.reader, self.writer = ip, port, None, None

    async def ask(self, data, is_head):
        reused = self.writer is not None
        if not reused:
            self.reader, self.writer = await asyncio.open_connection(self.ip, self.port, local_addr=("127.0.0.1", 0))
        try:
            self.writer.write(data)
            answer = await asyncio.wait_for(read_message(self.reader, is_head), 10)
            while answer[0].split(" ")[1].startswith("1") and " 101 " not in answer[0]:
                answer = await asyncio.wait_for(read_message(self.reader, is_head), 10)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.close()
            if reused and not getattr(error, "partial", b""):
                return await self.ask(data, is_head)  # it was closed after the answer before this one
            return "closed without an answer", [], b""
        except asyncio.TimeoutError:
            self.close()
            return "no answer in time", [], b""
        if ("connection", "close") in answer[1] or " 101 " in answer[0]:
            self.close()
        return answer

    def close(self):
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None


# Envoy writes a repeated field of these names as one line, Weir as it came: the same message (RFC 9110 section 5.3).
JOINED = {"accept-encoding", "accept", "x-forwarded-for", "user-agent", "via", "connection", "content-type", "origin", "te", "referer",
          "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-client-trace-id", "x-envoy-original-path", "authorization",
          "access-control-request-method", "x-envoy-attempt-count", "x-envoy-expected-rq-timeout-ms", "x-request-id", "grpc-timeout"}


# For a client on the loopback device Envoy appends the address of its host instead of the client's.
LOCAL = re.compile(r"\b\d+\.\d+\.\d+\.\d+\b")
GIVEN = {"1.2.3.4", "10.0.0.1", "10.1.1.1", "5.6.7.8", "10.0.0.2"}


def joined(headers):
    """The headers by name; those that are joined have one value."""
    out = []
    for name, value in sorted(headers, key=lambda header: header[0]):
        if (name, value) == ("connection", "te"):
            continue  # RFC 9110 section 10.1.4 wants it beside `te`; Envoy leaves it out
        if name == "x-forwarded-for":
            value = LOCAL.sub(lambda found: found[0] if found[0] in GIVEN else "127.0.0.1", value)
        if out and out[-1][0] == name and name in JOINED:
            out[-1][1] += "," + value
        else:
            out.append([name, value])
    return out


def reply(kind, first, headers, body):
    """The bytes with which the origin answers: what it saw, in the form asked for."""
    status, _, what = kind.partition(" ")
    seen = json.dumps({"line": first, "headers": joined(headers), "body": body.decode("latin-1")}).encode()
    if what == "empty" or status in ("204", "304"):
        seen = b""
    lines = [f"HTTP/1.1 {status} Whatever", "X-Origin: yes"]
    lines += {"location": ["Location: http://elsewhere.test/x"], "multi": ["x-multi: m1", "x-multi: m2", "set-cookie: a=1", "set-cookie: b=2"],
              "server": ["Server: nginx", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "Via: 1.0 far"],
              "envoy": ["x-envoy-upstream-service-time: 7", "x-envoy-overloaded: true", "x-request-id: theirs", "x-envoy-ratelimited: true"],
              "hop": ["Connection: keep-alive", "Keep-Alive: timeout=9", "Proxy-Connection: keep-alive"]}.get(what, [])
    no_body = first.startswith("HEAD ") or status in ("204", "304")
    if what == "chunked" and not no_body:
        lines.append("Transfer-Encoding: chunked")
        seen = b"%x\r\n%b\r\n0\r\n\r\n" % (len(seen), seen)
    elif status != "204":
        lines.append(f"Content-Length: {len(seen)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if no_body else seen)


async def origin():
    """Starts the origin; gives its port."""

    async def serve(reader, writer):
        try:
            while True:
                first, headers, body = await read_message(reader, is_request=True)
                kind = dict(headers).get("x-reply", "200")
                writer.write(reply(kind, first, headers, body))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]
