//! Work over whole configurations, beside the threads that serve connections.

use std::future::Future;
use std::panic::resume_unwind;

use cp_pipeline::{Refused, StoreError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::failure::Failure;

/// More of them at a time only take the processors from one another, and from what serves nodes.
static PLACES: Semaphore = Semaphore::const_new(4);

/// Runs what reads, checks or compares whole configurations on a thread of its own: it may take seconds, and neither
/// nodes nor short questions wait for it. It is finished even if nobody waits for the answer any more.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    let stopping = || Failure::Refused(Refused::Store(StoreError::Failed("the server stops".to_owned())));
    let place = PLACES.acquire().await.map_err(|_| stopping())?;
    let runtime = Handle::current();
    let thread = tokio::task::spawn_blocking(move || {
        let _place = place;
        runtime.block_on(work)
    });
    match thread.await {
        Ok(outcome) => outcome,
        Err(error) => Err(error.try_into_panic().map_or_else(|_| stopping(), |panic| resume_unwind(panic))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The only thread of this runtime goes on while work is done.
    #[tokio::test]
    async fn work_takes_no_thread_from_connections() {
        let (say, hear) = std::sync::mpsc::channel::<()>();
        let work = tokio::spawn(apart(async move {
            hear.recv_timeout(Duration::from_secs(10)).expect("said");
            Ok(())
        }));
        tokio::task::yield_now().await;
        say.send(()).expect("heard");
        work.await.expect("no panic").expect("done");
    }
}
