//! The services over gRPC: call the core, turn failures into statuses. One file a service.

pub(crate) mod config;
pub(crate) mod fleet;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::auth::Caller;
use crate::failure::Failure;

/// Items a slow reader of a watch may be behind.
const WATCH_BUFFER: usize = 4;

pub(crate) type WatchStream<T> = ReceiverStream<Result<T, Status>>;

/// Who asks, as the guard found out.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Failure::Unauthenticated("nobody asked who this is").status())
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
