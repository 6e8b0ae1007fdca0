//! The same services over REST/JSON: the JSON is the canonical form of the API's messages.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cp_model::Kind;
use prost::Name;
use proto::weir::management::v1 as pb;
use serde_json::{Map, Value, json};

use crate::apart::apart;
use crate::auth::Caller;
use crate::config::ConfigCore;
use crate::convert::kind_to_pb;
use crate::failure::Failure;
use crate::fleet::FleetCore;

mod watch;

#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) config: ConfigCore,
    pub(crate) fleet: FleetCore,
    /// Watches end with the server.
    pub(crate) stop: tokio::sync::watch::Receiver<bool>,
}

/// Sources, attachments and their JSON quoting.
const MAX_BODY: usize = 40 << 20;

pub(crate) fn router(rest: Rest) -> Router {
    Router::new()
        .route("/v1/config/apply", post(apply))
        .route("/v1/config/diff", post(diff))
        .route("/v1/config/export", get(export))
        .route("/v1/revisions", get(revisions))
        .route("/v1/revisions/{id}", get(revision))
        .route("/v1/revisions/{id}/rollback", post(rollback))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{id}", get(node))
        .route("/v1/nodes/{id}/config", get(node_config))
        .route("/v1/watch/revisions", get(watch::revisions))
        .route("/v1/watch/nodes", get(watch::nodes))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/endpoints/drain", post(drain))
        .route("/v1/endpoints/undrain", post(undrain))
        .route("/v1/route-test", post(route_test))
        .route("/v1/{section}", get(list))
        .route("/v1/{section}/{*name}", get(object).delete(delete))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::map_response(as_problem))
        .with_state(rest)
}

type Answer = Result<Response, Failure>;
type Parameters = Query<std::collections::BTreeMap<String, String>>;

/// A message as JSON, with the revision's etag as ETag where there is one.
fn reply<M: Name>(message: &M, revision: Option<&pb::Revision>) -> Answer {
    let value = proto::json::message_to_value(message).map_err(|e| Failure::request("response", e.to_string()))?;
    let mut response = value.to_string().into_response();
    let headers = response.headers_mut();
    headers.insert("content-type", axum::http::HeaderValue::from_static("application/json"));
    if let Some(etag) = revision.and_then(|r| format!("\"{}\"", r.etag).parse().ok()) {
        headers.insert("etag", etag);
    }
    Ok(response)
}

fn read<M: Name + Default>(body: &Bytes) -> Result<M, Failure> {
    let value: Value = match body.is_empty() {
        true => Value::Object(Map::new()),
        false => serde_json::from_slice(body).map_err(|e| Failure::request("body", format!("is not JSON: {e}")))?,
    };
    proto::json::from_value(&value).map_err(|e| Failure::request("body", e.to_string()))
}

/// `If-Match` stands for the etag of the message. `*` matches anything.
fn if_match(headers: &HeaderMap, etag: &mut String) -> Result<(), Failure> {
    let Some(header) = headers.get("if-match") else { return Ok(()) };
    match header.to_str().map(|value| value.trim_matches('"')) {
        Ok("*") => {}
        // No etag at all would be no condition.
        Ok("") | Err(_) => return Err(Failure::request("if-match", "is not an etag")),
        Ok(value) => value.clone_into(etag),
    }
    Ok(())
}

fn number<T: std::str::FromStr + Default>(parameters: &Parameters, key: &str) -> Result<T, Failure> {
    match parameters.get(key) {
        None => Ok(T::default()),
        Some(text) => text.parse().map_err(|_| Failure::request(key, "is not a number")),
    }
}

fn text(parameters: &Parameters, key: &str) -> String {
    parameters.get(key).cloned().unwrap_or_default()
}

/// The section of the path; singular and plural both work.
fn section(word: &str) -> Result<Kind, Failure> {
    Kind::named(word).ok_or_else(|| {
        let sections = Kind::ALL.map(Kind::section).join(", ");
        Failure::request("path", format!("`{word}` is not one of {sections}, revisions, nodes, endpoints"))
    })
}

async fn apply(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let mut request: pb::ApplyRequest = read(&body)?;
    if_match(&headers, &mut request.etag)?;
    let response = apart(rest.config.apply(caller, request)).await?;
    reply(&response, response.revision.as_ref())
}

async fn diff(State(rest): State<Rest>, body: Bytes) -> Answer {
    let response = apart(rest.config.diff(read(&body)?)).await?;
    reply(&response, None)
}

async fn export(State(rest): State<Rest>, Extension(caller): Extension<Caller>, parameters: Parameters) -> Answer {
    use pb::export_request::Format;
    let (format, content_type) = match parameters.get("format").map(String::as_str) {
        None | Some("weir") => (Format::Unspecified, "application/yaml"),
        Some("envoy-yaml") => (Format::EnvoyYaml, "application/yaml"),
        Some("envoy-json") => (Format::EnvoyJson, "application/json"),
        Some(other) => {
            return Err(Failure::request("format", format!("`{other}` is not weir, envoy-yaml or envoy-json")));
        }
    };
    let request = pb::ExportRequest { revision: number(&parameters, "revision")?, format: format.into() };
    let response = apart(rest.config.export(caller, request)).await?;
    Ok(([("content-type", content_type)], response.text).into_response())
}

async fn revisions(State(rest): State<Rest>, parameters: Parameters) -> Answer {
    let (page_size, page_token) = (number(&parameters, "page_size")?, text(&parameters, "page_token"));
    reply(&rest.config.list_revisions(pb::ListRevisionsRequest { page_size, page_token }).await?, None)
}

async fn revision(State(rest): State<Rest>, Extension(caller): Extension<Caller>, Path(id): Path<String>) -> Answer {
    let id = revision_id(&id)?;
    let response = apart(rest.config.get_revision(caller, pb::GetRevisionRequest { id })).await?;
    reply(&response, response.revision.as_ref())
}

fn revision_id(text: &str) -> Result<u64, Failure> {
    match text {
        "head" => Ok(0),
        _ => text.parse().map_err(|_| Failure::request("path", "a revision is a number or `head`")),
    }
}

async fn rollback(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Path(id): Path<String>,
    body: Bytes,
) -> Answer {
    let mut request: pb::RollbackRequest = read(&body)?;
    request.id = revision_id(&id)?;
    if_match(&headers, &mut request.etag)?;
    let response = apart(rest.config.rollback(caller, request)).await?;
    reply(&response, response.revision.as_ref())
}

async fn nodes(State(rest): State<Rest>, parameters: Parameters) -> Answer {
    reply(&pb::ListNodesResponse { nodes: rest.fleet.list(&text(&parameters, "group"))? }, None)
}

async fn node(State(rest): State<Rest>, Path(id): Path<String>) -> Answer {
    reply(&pb::GetNodeResponse { node: Some(rest.fleet.get(&id)?) }, None)
}

async fn node_config(State(rest): State<Rest>, Path(id): Path<String>, parameters: Parameters) -> Answer {
    let type_url = text(&parameters, "type_url");
    reply(&rest.fleet.config(&pb::GetNodeConfigRequest { id, type_url })?, None)
}

async fn endpoints(State(rest): State<Rest>, parameters: Parameters) -> Answer {
    let request = pb::ListEndpointsRequest { cluster: text(&parameters, "cluster") };
    reply(&rest.fleet.endpoints(&request).await?, None)
}

async fn drain(State(rest): State<Rest>, Extension(caller): Extension<Caller>, body: Bytes) -> Answer {
    reply(&rest.fleet.drain(&caller, read(&body)?).await?, None)
}

async fn undrain(State(rest): State<Rest>, Extension(caller): Extension<Caller>, body: Bytes) -> Answer {
    reply(&rest.fleet.undrain(&caller, read(&body)?).await?, None)
}

async fn route_test(State(rest): State<Rest>, body: Bytes) -> Answer {
    reply(&apart(rest.fleet.route_test(read(&body)?)).await?, None)
}

async fn list(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path(word): Path<String>,
    parameters: Parameters,
) -> Answer {
    let request = pb::ListRequest {
        kind: kind_to_pb(section(&word)?).into(),
        revision: number(&parameters, "revision")?,
        page_size: number(&parameters, "page_size")?,
        page_token: text(&parameters, "page_token"),
    };
    let response = apart(rest.config.list(caller, request)).await?;
    reply(&response, response.revision.as_ref())
}

async fn object(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    Path((word, name)): Path<(String, String)>,
    parameters: Parameters,
) -> Answer {
    let revision = number(&parameters, "revision")?;
    let request = pb::GetRequest { kind: kind_to_pb(section(&word)?).into(), name, revision };
    let response = apart(rest.config.get(caller, request)).await?;
    reply(&response, response.revision.as_ref())
}

async fn delete(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Path((word, name)): Path<(String, String)>,
    parameters: Parameters,
) -> Answer {
    let kind = kind_to_pb(section(&word)?).into();
    let mut request = pb::DeleteRequest {
        objects: vec![pb::ObjectName { kind, name }],
        message: text(&parameters, "message"),
        validate_only: parameters.get("validate_only").is_some_and(|v| v == "true"),
        ..Default::default()
    };
    if_match(&headers, &mut request.etag)?;
    let response = apart(rest.config.delete(caller, request)).await?;
    reply(&response, response.revision.as_ref())
}

/// What a path that is none of ours gets.
pub(crate) async fn no_such_path() -> Response {
    problem(StatusCode::NOT_FOUND, "no such path; see /v1/...")
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason();
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
}

/// What the library refuses before a handler sees it, such as a body that is too long, it says as plain text.
async fn as_problem(response: Response) -> Response {
    let is_text = response.headers().get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"text/plain"));
    if !is_text || !response.status().is_client_error() {
        return response;
    }
    let (head, body) = response.into_parts();
    let text = axum::body::to_bytes(body, 1 << 10).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    // The inner side of an error is of no use to them.
    problem(head.status, text.split(": code: ").next().unwrap_or_default())
}
