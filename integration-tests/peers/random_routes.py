"""Random listeners for Envoy and Weir: one seeded generator of HTTP connection managers with a route configuration each.

Every value is drawn from small alphabets, so that random requests (random_requests.py) hit what is generated here.
"""

T = "type.googleapis.com/envoy."
HTTP = T + "extensions.filters.http."
HOSTS = ["a.test", "b.test", "api.a.test", "x-x.test", "c.test:8080", "*.a.test", "*.test", "*-x.test", "api.*",
         "api.a.*", "b*", "*"]
PATHS = ["/", "/api", "/api/", "/a", "/a/b", "/a/b/c", "/API", "/a%2Fb", "/v1/users", "/a//b", "/x.y", "/a;p=1"]
REGEXES = ["/(a|b)/[0-9a-z]+", r"/.*\.html", "/api/(.*)", "/a(/.*)?", "/v[0-9]+/.*", r"/[^/]+/b(\?.*)?"]
TEMPLATES = [("/a/{x}/{y}", "/{y}/{x}"), ("/{lang}/**", "/l-{lang}"), ("/api/*/v1", "/plain"), ("/{a}/{b}.html", "/{b}/{a}"),
             ("/api/{rest=**}", "/r/{rest}"), ("/{p=*/b}/c", "/{p}"), ("/**", "/all")]
COMMANDS = ["%REQ(x-a)%", "%REQ(x-none?x-b)%", "%PROTOCOL%", "%ROUTE_NAME%", "%REQ(:path)%", "%REQ(x-b):3%", "100%%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "%DOWNSTREAM_LOCAL_ADDRESS%", "%REQ(:authority)%|%REQ(:method)%",
            "%QUERY_PARAM(q)%", "%DOWNSTREAM_LOCAL_PORT%", "%REQ(:scheme)%", "%VIRTUAL_CLUSTER_NAME%", "%PATH(NQ:ORIG)%",
            "%PATH(WQ:PATH)%", "%REQUESTED_SERVER_NAME%", "%METADATA(ROUTE:ns:key)%", "%REQ(cookie)%",
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"]
ANSWERS = COMMANDS + ["%RESPONSE_CODE%", "%RESPONSE_FLAGS%", "%RESP(x-origin)%", "%UPSTREAM_CLUSTER%", "%RESP(x-none?x-multi)%",
                      "%RESPONSE_CODE_DETAILS%", "%UPSTREAM_REMOTE_ADDRESS%", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                      "%RESPONSE_FLAGS_LONG%", "%UPSTREAM_PROTOCOL%"]
ACTIONS = ["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD", "OVERWRITE_IF_EXISTS"]


def address(ip, port):
    return {"socket_address": {"address": ip, "port_value": port}}


def cluster(name, origin, hostname):
    endpoint = {"endpoint": {"address": address("127.0.0.1", origin), "hostname": hostname}}
    return {"name": name, "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}}


def bootstrap(ip, admin, origin, listeners):
    return {"admin": {"address": address(ip, admin)},
            "static_resources": {
                "clusters": [cluster(f"c{n}", origin, f"host{n}.test") for n in range(3)],
                "listeners": [{"name": f"l{port}", "address": address(ip, port), "filter_chains": [{"filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}
                    for port, manager in listeners]}}


class Random:
    def __init__(self, rng):
        self.rng, self.names = rng, 0

    def maybe(self, chance, value):
        """`value()` or `{}`: for dictionaries that are merged."""
        return value() if self.rng.random() < chance else {}

    def one(self, choices):
        return self.rng.choice(choices)

    def some(self, low, high, make):
        return [make() for _ in range(self.rng.randint(low, high))]

    def name(self, prefix):
        self.names += 1
        return f"{prefix}{self.names}"

    # --- matchers

    def text(self, values, regexes):
        kind = self.one(["exact", "prefix", "suffix", "contains", "safe_regex"])
        if kind == "safe_regex":
            return {"safe_regex": {"regex": self.one(regexes)}}
        value = self.one(values)
        return {kind: value if kind == "exact" else value[:2] if kind == "prefix" else value[-2:],
                **self.maybe(0.2, lambda: {"ignore_case": True})}

    def header_matcher(self):
        kind = self.rng.random()
        name = self.one(["x-a", "x-b", "x-a", ":method", "content-type", ":authority", "cookie", "X-Num", ":scheme"])
        values = {":method": ["GET", "POST"], ":authority": ["a.test", "b.test"], ":scheme": ["http", "https"]}
        if kind < 0.6:
            what = {"string_match": self.text(values.get(name, ["one", "two", "one,two"]), ["o.*", "(one|two)", "[A-Z]+"])}
        elif kind < 0.85:
            what = {"present_match": self.one([True, True, False])}
        else:
            name, what = "x-num", {"range_match": {"start": self.one([-5, 0]), "end": 10}}
        return {"name": name, **what, **self.maybe(0.2, lambda: {"invert_match": True}),
                **self.maybe(0.1, lambda: {"treat_missing_header_as_empty": True})}

    def query_matcher(self):
        if self.rng.random() < 0.4:
            return {"name": self.one(["q", "r"]), "present_match": self.one([True, False])}
        return {"name": self.one(["q", "r"]), "string_match": self.text(["1", "two", "2"], ["[0-9]+", "t.*"])}

    def match(self):
        kind = self.rng.random()
        template = None
        if kind < 0.35:
            match = {"prefix": self.one(PATHS)}
        elif kind < 0.5:
            match = {"path": self.one(PATHS)}
        elif kind < 0.65:
            match = {"path_separated_prefix": self.one(["/api", "/a", "/a/b", "/v1"])}
        elif kind < 0.82:
            match = {"safe_regex": {"regex": self.one(REGEXES)}}
        else:
            template = self.one(TEMPLATES)
            match = {"path_match_policy": {"name": "envoy.path.match.uri_template.uri_template_matcher", "typed_config": {
                "@type": T + "extensions.path.match.uri_template.v3.UriTemplateMatchConfig", "path_template": template[0]}}}
        if kind < 0.65:
            match.update(self.maybe(0.2, lambda: {"case_sensitive": False}))
        match.update(self.maybe(0.25, lambda: {"headers": self.some(1, 2, self.header_matcher)}))
        match.update(self.maybe(0.15, lambda: {"query_parameters": self.some(1, 2, self.query_matcher)}))
        match.update(self.maybe(0.08, lambda: {"runtime_fraction": {"default_value": {
            "numerator": self.one([0, 100]), "denominator": "HUNDRED"}}}))
        match.update(self.maybe(0.03, lambda: {"grpc": {}}))
        match.update(self.maybe(0.05, lambda: {"tls_context": {"presented": False}}))
        return match, template

    # --- header changes

    def option(self, commands):
        value = self.one(commands + ["plain", "", "a,b", "pre-" + self.one(commands) + "-post"])
        return {"header": {"key": self.one(["x-a", "X-New", "x-new2", "x-origin", "user-agent", "x-multi", "accept"]), "value": value},
                "append_action": self.one(ACTIONS), **self.maybe(0.3, lambda: {"keep_empty_value": True})}

    def mutations(self, chance=0.5):
        removed = ["x-a", "x-b", "x-origin", "user-agent", "x-multi", "X-New", "server", "x-forwarded-proto", "content-type"]
        return {**self.maybe(chance, lambda: {"request_headers_to_add": self.some(1, 3, lambda: self.option(COMMANDS))}),
                **self.maybe(chance / 2, lambda: {"request_headers_to_remove": self.some(1, 2, lambda: self.one(removed))}),
                **self.maybe(chance, lambda: {"response_headers_to_add": self.some(1, 3, lambda: self.option(ANSWERS))}),
                **self.maybe(chance / 2, lambda: {"response_headers_to_remove": self.some(1, 2, lambda: self.one(removed))})}

    # --- actions

    def regex_rewrite(self):
        pattern, to = self.one([("^/a", "/z"), ("/([a-z]+)/([a-z]+)", r"/\2/\1"), ("b", "B"), ("^/api/(.*)$", r"/\1?x=1"), ("[/]+", "/")])
        return {"pattern": {"regex": pattern}, "substitution": to}

    def redirect(self, path_match):
        redirect = {}
        redirect.update(self.one([{}, {}, {"https_redirect": True}, {"scheme_redirect": "https"}, {"scheme_redirect": "ftp"}]))
        redirect.update(self.maybe(0.5, lambda: {"host_redirect": self.one(["other.test", "other.test:444"])}))
        redirect.update(self.maybe(0.3, lambda: {"port_redirect": self.one([80, 443, 8443])}))
        paths = [{}, {"path_redirect": "/new"}, {"path_redirect": "/new?y=2"}, {"regex_rewrite": self.regex_rewrite()}]
        if path_match != "safe_regex" and path_match != "path_match_policy":
            paths.append({"prefix_rewrite": self.one(["/p", "/p/", "/"])})
        redirect.update(self.one(paths))
        redirect.update(self.maybe(0.5, lambda: {"response_code": self.one(
            ["FOUND", "SEE_OTHER", "TEMPORARY_REDIRECT", "PERMANENT_REDIRECT", "MOVED_PERMANENTLY"])}))
        redirect.update(self.maybe(0.3, lambda: {"strip_query": True}))
        return redirect or {"path_redirect": "/new"}

    def forward(self, match, template):
        kind = self.rng.random()
        if kind < 0.65:
            action = {"cluster": self.one(["c0", "c1", "c2", "c0", "gone"])}
        elif kind < 0.75:
            action = {"cluster_header": self.one(["x-cluster", "x-a"])}
        else:
            weights = [{"name": self.one(["c0", "c1"]), "weight": 100, **self.mutations(0.4),
                        **self.maybe(0.2, lambda: {"host_rewrite_literal": "weighted.test"})},
                       {"name": "c2", "weight": 0}]
            self.rng.shuffle(weights)
            action = {"weighted_clusters": {"clusters": weights}}
        weighted_host = "host_rewrite_literal" in str(action)
        paths = [{}, {}, {"regex_rewrite": self.regex_rewrite()}]
        if "path_match_policy" not in match and "safe_regex" not in match:
            paths += [{"prefix_rewrite": self.one(["/p", "/p/", "/", "/p%2F", "/p?z=1"])}] * 2
        if template:
            paths += [{"path_rewrite_policy": {"name": "envoy.path.rewrite.uri_template.uri_template_rewriter", "typed_config": {
                "@type": T + "extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig", "path_template_rewrite": template[1]}}}] * 3
        action.update(self.one(paths))
        if not weighted_host:
            action.update(self.one([{}, {}, {}, {"host_rewrite_literal": "rewritten.test"}, {"auto_host_rewrite": True},
                                    {"host_rewrite_header": "x-b"}, {"host_rewrite_path_regex": {
                                        "pattern": {"regex": "^/([^/?]*).*$"}, "substitution": r"\1.test"}}]))
        action.update(self.maybe(0.15, lambda: {"append_x_forwarded_host": True}))
        action.update(self.maybe(0.2, lambda: {"timeout": self.one(["0s", "7s"])}))
        action.update(self.maybe(0.15, lambda: {"retry_policy": {
            "retry_on": self.one(["5xx", "gateway-error", "retriable-status-codes,reset"]), "num_retries": self.one([1, 2]),
            "retriable_status_codes": [418]}}))
        action.update(self.maybe(0.1, lambda: {"cluster_not_found_response_code": self.one(["NOT_FOUND", "INTERNAL_SERVER_ERROR"])}))
        return {"route": action}

    def route(self, filters):
        match, template = self.match()
        kind = self.rng.random()
        if kind < 0.62:
            action = self.forward(match, template)
        elif kind < 0.82:
            action = {"redirect": self.redirect(next(iter(match)))}
        else:
            status = self.one([200, 204, 403, 404, 418, 503, 301, 304])
            # Envoy writes the body even after 204 and 304, where a client takes it for the next response.
            action = {"direct_response": {"status": status, **self.maybe(0.7 * (status not in (204, 304)), lambda: {"body": {"inline_string": self.one(["hello", "<b>x</b>", "{}"])}})}}
        return {**self.maybe(0.7, lambda: {"name": self.name("route-")}), "match": match, **action, **self.mutations(),
                **self.maybe(0.3, lambda: {"metadata": {"filter_metadata": {"ns": {"key": self.one(["v", 1.5, True])}}}}),
                **self.per_filter(filters, 0.35)}

    # --- filters

    def header_mutation(self):
        def change(commands):
            return self.one([{"append": self.option(commands)}, {"append": self.option(commands)}, {"remove": self.one(["x-a", "x-multi", "x-origin"])}])
        return {"mutations": {**self.maybe(0.8, lambda: {"request_mutations": self.some(1, 2, lambda: change(COMMANDS))}),
                              **self.maybe(0.8, lambda: {"response_mutations": self.some(1, 2, lambda: change(ANSWERS))})}}

    def cors(self):
        return {"allow_origin_string_match": [self.one([{"exact": "http://o.test"}, {"suffix": ".test"}, {"safe_regex": {"regex": "http://.*"}}])],
                **self.maybe(0.6, lambda: {"allow_methods": "GET,POST"}), **self.maybe(0.5, lambda: {"allow_headers": "x-a"}),
                **self.maybe(0.5, lambda: {"max_age": "60"}), **self.maybe(0.5, lambda: {"expose_headers": "x-origin"}),
                **self.maybe(0.5, lambda: {"allow_credentials": True}),
                **self.maybe(0.3, lambda: {"forward_not_matching_preflights": self.one([True, False])})}

    def rbac(self):
        def permission():
            return self.one([{"any": True}, {"header": self.header_matcher()}, {"url_path": {"path": {"prefix": "/a"}}},
                             {"not_rule": {"header": {"name": ":method", "string_match": {"exact": "DELETE"}}}},
                             {"and_rules": {"rules": [{"any": True}, {"header": self.header_matcher()}]}}])
        def principal():
            return self.one([{"any": True}, {"header": self.header_matcher()}, {"not_id": {"header": self.header_matcher()}},
                             {"direct_remote_ip": {"address_prefix": "127.0.0.0", "prefix_len": 8}},
                             {"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}}])
        return {"rules": {"action": self.one(["ALLOW", "DENY"]), "policies": {"p" + str(n): {
            "permissions": self.some(1, 2, permission), "principals": self.some(1, 2, principal)} for n in range(self.rng.randint(1, 2))}}}

    def fault(self):
        return {"abort": {"http_status": self.one([418, 503]), "percentage": {"numerator": self.one([100, 0])}},
                **self.maybe(0.5, lambda: {"headers": [self.header_matcher()]})}

    def filters(self):
        """What the connection manager has: name -> (its config, maker of a config per route)."""
        def per(kind, **fields):
            return lambda: {"@type": HTTP + kind, **{key: make() for key, make in fields.items()}}
        known = {
            "header_mutation": ({"@type": HTTP + "header_mutation.v3.HeaderMutation", **self.header_mutation()},
                                lambda: {"@type": HTTP + "header_mutation.v3.HeaderMutationPerRoute", **self.header_mutation()}),
            "cors": ({"@type": HTTP + "cors.v3.Cors"}, lambda: {"@type": HTTP + "cors.v3.CorsPolicy", **self.cors()}),
            "rbac": ({"@type": HTTP + "rbac.v3.RBAC", **self.maybe(0.4, self.rbac)},
                     lambda: {"@type": HTTP + "rbac.v3.RBACPerRoute", **self.maybe(0.8, lambda: {"rbac": self.rbac()})}),
            "fault": ({"@type": HTTP + "fault.v3.HTTPFault"}, lambda: {"@type": HTTP + "fault.v3.HTTPFault", **self.fault()}),
            "buffer": ({"@type": HTTP + "buffer.v3.Buffer", "max_request_bytes": 40},
                       lambda: {"@type": HTTP + "buffer.v3.BufferPerRoute", **self.one([{"disabled": True}, {"buffer": {"max_request_bytes": 10}}])}),
        }
        return {name: known[name] for name in self.rng.sample(sorted(known), self.rng.randint(0, 3))}

    def per_filter(self, filters, chance):
        return self.maybe(chance, lambda: {"typed_per_filter_config": {name: per() for name, (_, per) in filters.items()}} if filters else {})

    # --- route configuration and connection manager

    def virtual_host(self, domains, filters):
        return {"name": self.name("host-"), "domains": domains, "routes": self.some(2, 7, lambda: self.route(filters)),
                **self.mutations(0.4), **self.per_filter(filters, 0.3),
                **self.maybe(0.06, lambda: {"require_tls": self.one(["EXTERNAL_ONLY", "ALL"])}),
                **self.maybe(0.2, lambda: {"include_request_attempt_count": True}),
                **self.maybe(0.2, lambda: {"include_attempt_count_in_response": True})}

    def route_config(self, filters):
        domains = self.rng.sample(HOSTS, self.rng.randint(3, len(HOSTS)))
        hosts = []
        while domains:
            take = self.rng.randint(1, 3)
            hosts.append(self.virtual_host(domains[:take], filters))
            domains = domains[take:]
        return {"name": self.name("routes-"), "virtual_hosts": hosts, **self.mutations(0.4), **self.per_filter(filters, 0.2),
                **self.maybe(0.3, lambda: {"most_specific_header_mutations_wins": True}),
                **self.maybe(0.2, lambda: {"internal_only_headers": ["x-b"]}),
                **self.maybe(0.2, lambda: {"ignore_port_in_host_matching": True}),
                **self.maybe(0.15, lambda: {"ignore_path_parameters_in_path_matching": True}),
                "validate_clusters": False}

    def local_reply(self):
        code = {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": self.one([400, 500]), "runtime_key": "k"}}}}
        return {"mappers": [{"filter": code, **self.maybe(0.5, lambda: {"status_code": self.one([499, 500])}),
                             **self.maybe(0.5, lambda: {"body": {"inline_string": "mapped"}}),
                             **self.maybe(0.5, lambda: {"headers_to_add": [self.option(ANSWERS)]})}],
                **self.maybe(0.7, lambda: {"body_format": self.one([
                    {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%:%RESPONSE_CODE%:%REQ(:path)%\n"}},
                    {"json_format": {"code": "%RESPONSE_CODE%", "body": "%LOCAL_REPLY_BODY%", "who": "%REQ(x-a)%"}},
                    {"text_format_source": {"inline_string": "<p>%RESPONSE_CODE%</p>"}, "content_type": "text/html; charset=UTF-8"}])})}

    def manager(self):
        filters = self.filters()
        chain = [{"name": name, "typed_config": config} for name, (config, _) in filters.items()]
        chain.append({"name": "router", "typed_config": {"@type": HTTP + "router.v3.Router",
                                                         **self.maybe(0.15, lambda: {"suppress_envoy_headers": True})}})
        return {
            "@type": T + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h",
            "route_config": self.route_config(filters), "http_filters": chain,
            **self.maybe(0.6, lambda: {"normalize_path": self.one([True, True, False])}),
            **self.maybe(0.5, lambda: {"merge_slashes": True}),
            **self.maybe(0.6, lambda: {"path_with_escaped_slashes_action": self.one(
                ["KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"])}),
            **self.maybe(0.5, lambda: {"use_remote_address": self.one([True, True, False])}),
            **self.maybe(0.4, lambda: {"xff_num_trusted_hops": self.one([1, 2])}),
            **self.maybe(0.2, lambda: {"skip_xff_append": True}),
            **self.maybe(0.2, lambda: {"via": "edge"}),
            **self.maybe(0.3, lambda: {"server_name": "weirdo"}),
            **self.maybe(0.4, lambda: {"server_header_transformation": self.one(["OVERWRITE", "APPEND_IF_ABSENT", "PASS_THROUGH"])}),
            **self.one([{}, {}, {"strip_matching_host_port": True}, {"strip_any_host_port": True}]),
            **self.maybe(0.2, lambda: {"strip_trailing_host_dot": True}),
            **self.maybe(0.2, lambda: {"generate_request_id": False}),
            **self.maybe(0.3, lambda: {"preserve_external_request_id": True}),
            **self.maybe(0.2, lambda: {"always_set_request_id_in_response": True}),
            **self.maybe(0.2, lambda: {"append_x_forwarded_port": True}),
            **self.maybe(0.2, lambda: {"forward_client_cert_details": self.one(["FORWARD_ONLY", "ALWAYS_FORWARD_ONLY", "SANITIZE_SET"])}),
            **self.maybe(0.2, lambda: {"scheme_header_transformation": {"scheme_to_overwrite": "https"}}),
            **self.maybe(0.3, lambda: {"internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]}}),
            **self.maybe(0.4, lambda: {"common_http_protocol_options": {
                "headers_with_underscores_action": self.one(["ALLOW", "REJECT_REQUEST", "DROP_HEADER"])}}),
            **self.maybe(0.3, lambda: {"http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "a.test",
                                                                  "allow_absolute_url": self.one([True, False])}}),
            **self.maybe(0.25, lambda: {"local_reply_config": self.local_reply()}),
        }
