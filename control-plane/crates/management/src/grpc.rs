//! The services over gRPC: authenticate, call the core, turn failures into statuses. One file a service.

pub(crate) mod config;
pub(crate) mod fleet;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::auth::{Access, Caller, Role};

/// Items a slow reader of a watch may be behind.
const WATCH_BUFFER: usize = 16;

pub(crate) type WatchStream<T> = ReceiverStream<Result<T, Status>>;

pub(crate) fn caller<T>(access: &Access, request: &Request<T>, needed: Role) -> Result<Caller, Status> {
    let header = request.metadata().get("authorization").and_then(|v| v.to_str().ok());
    access.caller(header, needed).map_err(|f| f.status())
}

pub(crate) fn watch_channel<T>() -> (mpsc::Sender<Result<T, Status>>, WatchStream<T>) {
    let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
    (sender, ReceiverStream::new(receiver))
}

/// Resolves when the server stops, so that watches end with it.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the server is gone, which is the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What every service needs besides its core.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) access: Arc<Access>,
    pub(crate) stop: watch::Receiver<bool>,
}
