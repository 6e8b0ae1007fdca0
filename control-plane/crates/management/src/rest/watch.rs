//! Watches over REST: server-sent events with the same messages as the gRPC streams.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use prost::Name;
use proto::weir::management::v1 as pb;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::{Parameters, Rest, number, text};
use crate::failure::Failure;
use crate::grpc::{self, stopped, watch_channel};

/// Proxies on the way close connections on which nothing comes.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// After `?after=ID`, or after the last event a client that comes back has seen.
pub(super) async fn revisions(
    State(rest): State<Rest>,
    headers: HeaderMap,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let seen = headers.get("last-event-id").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let after = match seen {
        Some(id) => id,
        None => number(&parameters, "after")?,
    };
    let (sender, items) = watch_channel::<pb::WatchRevisionsResponse>();
    let (core, stop) = (rest.config.clone(), rest.stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stopped(stop) => (),
            () = grpc::config::follow(&core, after, &sender) => (),
            () = sender.closed() => (),
        }
    });
    Ok(events("revision", items, |item| item.revision.as_ref().map(|r| r.id.to_string())))
}

pub(super) async fn nodes(State(rest): State<Rest>, parameters: Parameters) -> Result<Response, Failure> {
    let group = text(&parameters, "group");
    let (sender, items) = watch_channel::<pb::WatchNodesResponse>();
    let (core, stop) = (rest.fleet.clone(), rest.stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stopped(stop) => (),
            () = grpc::fleet::follow(&core, &group, &sender) => (),
            () = sender.closed() => (),
        }
    });
    Ok(events("node", items, |_| None))
}

/// One event a message; a failure is an event of its own, and the last.
fn events<M: Name + 'static>(
    name: &'static str,
    items: ReceiverStream<Result<M, tonic::Status>>,
    id: fn(&M) -> Option<String>,
) -> Response {
    let event = move |item: Result<M, tonic::Status>| {
        let event = match item {
            Ok(message) => {
                let json = proto::json::message_to_value(&message).map(|value| value.to_string());
                let event = Event::default().event(name).data(json.unwrap_or_default());
                id(&message).map_or(event.clone(), |id| event.id(id))
            }
            Err(status) => Event::default().event("error").data(status.message()),
        };
        Ok::<Event, Infallible>(event)
    };
    Sse::new(items.map(event)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}
