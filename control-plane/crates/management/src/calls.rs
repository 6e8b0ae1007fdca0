//! Every call of the API with the role it needs: the one place where that is decided, for gRPC and REST alike.
//!
//! A call that is not in the table does not exist, whoever asks.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth::{Access, Role};
use crate::failure::Failure;
use crate::rest::no_such_path;

/// One method of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// `Service/Method`, of `weir.management.v1`.
    pub rpc: &'static str,
    pub role: Role,
    /// The same call over REST: method and path.
    pub rest: (&'static str, &'static str),
}

const fn call(rpc: &'static str, role: Role, method: &'static str, path: &'static str) -> Call {
    Call { rpc, role, rest: (method, path) }
}

/// Reading is for viewers and changing for editors. What shows private keys is for admins: [`crate::auth::Caller::may_see_keys`].
pub const CALLS: [Call; 18] = [
    call("ConfigService/Apply", Role::Editor, "POST", "/v1/config/apply"),
    call("ConfigService/Get", Role::Viewer, "GET", "/v1/{section}/{*name}"),
    call("ConfigService/List", Role::Viewer, "GET", "/v1/{section}"),
    call("ConfigService/Delete", Role::Editor, "DELETE", "/v1/{section}/{*name}"),
    call("ConfigService/Diff", Role::Viewer, "POST", "/v1/config/diff"),
    call("ConfigService/ListRevisions", Role::Viewer, "GET", "/v1/revisions"),
    call("ConfigService/GetRevision", Role::Viewer, "GET", "/v1/revisions/{id}"),
    call("ConfigService/Rollback", Role::Editor, "POST", "/v1/revisions/{id}/rollback"),
    call("ConfigService/WatchRevisions", Role::Viewer, "GET", "/v1/watch/revisions"),
    call("ConfigService/Export", Role::Viewer, "GET", "/v1/config/export"),
    call("FleetService/ListNodes", Role::Viewer, "GET", "/v1/nodes"),
    call("FleetService/GetNode", Role::Viewer, "GET", "/v1/nodes/{id}"),
    call("FleetService/WatchNodes", Role::Viewer, "GET", "/v1/watch/nodes"),
    call("FleetService/GetNodeConfig", Role::Viewer, "GET", "/v1/nodes/{id}/config"),
    call("FleetService/ListEndpoints", Role::Viewer, "GET", "/v1/endpoints"),
    call("FleetService/DrainEndpoint", Role::Editor, "POST", "/v1/endpoints/drain"),
    call("FleetService/UndrainEndpoint", Role::Editor, "POST", "/v1/endpoints/undrain"),
    call("FleetService/RouteTest", Role::Viewer, "POST", "/v1/route-test"),
];

/// What says nothing about the configuration, and needs no token.
const OPEN: [&str; 3] = ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/healthz"];
const PACKAGE: &str = "/weir.management.v1.";

/// Lets a request through to its handler, with its `Caller`, or answers it.
pub(crate) async fn guard(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    if !has_one_host(&request) {
        return Failure::request("host", "is needed once").into_response();
    }
    let path = request.uri().path();
    if OPEN.iter().any(|open| path.starts_with(open)) {
        return next.run(request).await;
    }
    let rpc = path.strip_prefix(PACKAGE);
    let call = match rpc {
        Some(rpc) => CALLS.iter().find(|c| c.rpc == rpc),
        None => over_rest(&request),
    };
    let outcome = call.map(|call| {
        if *access == Access::Open && is_from_a_page(&request) {
            return Err(Failure::Unauthenticated("web pages may not ask a server that wants no tokens"));
        }
        let mut given = request.headers().get_all("authorization").iter();
        match (given.next(), given.next()) {
            // Whoever looked before us may have taken the other one.
            (Some(_), Some(_)) => Err(Failure::Unauthenticated("there are several tokens")),
            (given, _) => access.caller(given.and_then(|v| v.to_str().ok()), call),
        }
    });
    match (outcome, rpc) {
        (Some(Ok(caller)), _) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        (Some(Err(failure)), Some(_)) => failure.status().into_http(),
        (Some(Err(failure)), None) => failure.into_response(),
        (None, Some(_)) => Failure::NoCall.status().into_http(),
        (None, None) => {
            let path = request.extensions().get::<MatchedPath>().cloned();
            other_methods(path.as_ref().map_or("", MatchedPath::as_str)).await
        }
    }
}

/// What was reached by two names was reached by neither.
fn has_one_host(request: &Request) -> bool {
    let hosts = request.headers().get_all("host").iter().count();
    hosts <= 1 && (hosts == 1 || request.version() != Version::HTTP_11)
}

/// Whether a browser may have sent this for the page of some site: it says so, or the server was reached by a name, which
/// may be that of the site (DNS rebinding). Where nobody has to know a token, any page could change everything.
fn is_from_a_page(request: &Request) -> bool {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let by_page = header("origin").is_some() || header("sec-fetch-site").is_some_and(|site| site != "none");
    let host = request.uri().authority().map(Authority::as_str).or(header("host")).unwrap_or_default();
    by_page || !(host.is_empty() || stdx::host::is_literal(host))
}

/// The path is there with another method, or not at all.
async fn other_methods(path: &str) -> Response {
    let methods: Vec<&str> = CALLS.iter().filter(|c| c.rest.1 == path).map(|c| c.rest.0).collect();
    match methods.is_empty() {
        true => no_such_path().await,
        false => (StatusCode::METHOD_NOT_ALLOWED, [("allow", methods.join(", "))]).into_response(),
    }
}

fn over_rest(request: &Request) -> Option<&'static Call> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let method = if request.method() == Method::HEAD { "GET" } else { request.method().as_str() };
    CALLS.iter().find(|c| c.rest == (method, path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    #[test]
    fn every_method_of_the_api_has_a_role_and_a_path() {
        let set = prost_types::FileDescriptorSet::decode(proto::WEIR_DESCRIPTORS).expect("descriptors");
        let ours = set.file.iter().filter(|f| f.package() == "weir.management.v1");
        let methods: BTreeSet<String> = ours
            .flat_map(|f| &f.service)
            .flat_map(|s| s.method.iter().map(|m| format!("{}/{}", s.name(), m.name())))
            .collect();
        let listed: BTreeSet<String> = CALLS.iter().map(|c| c.rpc.to_owned()).collect();
        assert_eq!(methods, listed);
        let paths: BTreeSet<_> = CALLS.iter().map(|c| c.rest).collect();
        assert_eq!(paths.len(), CALLS.len());
    }

    #[test]
    fn what_a_page_may_have_sent_is_told_from_what_a_program_sends() {
        let check = |uri: &str, fields: &[(&str, &str)], expected| {
            let builder = fields.iter().fold(Request::builder().uri(uri), |request, (n, v)| request.header(*n, *v));
            let request = builder.body(axum::body::Body::empty()).expect("a request");
            assert_eq!(is_from_a_page(&request), expected, "{uri} {fields:?}");
        };
        check("/v1/nodes", &[("host", "127.0.0.1:18001")], false);
        check("/v1/nodes", &[("host", "[::1]:18001")], false);
        check("/v1/nodes", &[("host", "LocalHost")], false);
        check("/v1/nodes", &[], false);
        check("/v1/nodes", &[("host", "localhost"), ("sec-fetch-site", "none")], false);
        check("http://127.0.0.1:1/v1/nodes", &[], false);
        check("http://[::1]:1/v1/nodes", &[], false);
        check("/v1/nodes", &[("host", "evil.example:18001")], true);
        check("http://evil.example:1/v1/nodes", &[], true);
        check("/v1/nodes", &[("host", "127.0.0.1"), ("origin", "http://evil.example")], true);
        check("/v1/nodes", &[("host", "127.0.0.1"), ("origin", "null")], true);
        check("/v1/nodes", &[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")], true);
    }
}
