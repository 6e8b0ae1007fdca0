//! Every call of the API with the role it needs: the one place where that is decided, for gRPC and REST alike.
//!
//! A call that is not in the table does not exist, whoever asks.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
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
        let authorization = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        access.caller(authorization, call)
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
}
