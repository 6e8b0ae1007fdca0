//! weir.management.v1.ConfigService over gRPC.

use proto::weir::management::v1 as pb;
use proto::weir::management::v1::config_service_server::ConfigService;
use tokio::sync::watch;
use tonic::{Request, Response, Status, async_trait};

use super::{WatchStream, caller, stopped, watch_channel};
use crate::apart::apart;
use crate::config::ConfigCore;
use crate::convert::revision;
use crate::failure::Failure;

pub(crate) struct Config {
    pub(crate) core: ConfigCore,
    pub(crate) stop: watch::Receiver<bool>,
}

/// Revisions a watch may ask to be told again.
const MOST_MISSED: u64 = 1000;
/// Of these, how many are read at a time: a reader may be slow.
const PAGE: u64 = 16;

fn answer<T>(result: Result<T, Failure>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|f| f.status())
}

#[async_trait]
impl ConfigService for Config {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().apply(caller, request.into_inner())).await)
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().get(caller, request.into_inner())).await)
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().list(caller, request.into_inner())).await)
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Result<Response<pb::DeleteResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().delete(caller, request.into_inner())).await)
    }

    async fn diff(&self, request: Request<pb::DiffRequest>) -> Result<Response<pb::DiffResponse>, Status> {
        answer(apart(self.core.clone().diff(request.into_inner())).await)
    }

    async fn list_revisions(
        &self,
        request: Request<pb::ListRevisionsRequest>,
    ) -> Result<Response<pb::ListRevisionsResponse>, Status> {
        answer(self.core.list_revisions(request.into_inner()).await)
    }

    async fn get_revision(
        &self,
        request: Request<pb::GetRevisionRequest>,
    ) -> Result<Response<pb::GetRevisionResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().get_revision(caller, request.into_inner())).await)
    }

    async fn rollback(&self, request: Request<pb::RollbackRequest>) -> Result<Response<pb::RollbackResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().rollback(caller, request.into_inner())).await)
    }

    type WatchRevisionsStream = WatchStream<pb::WatchRevisionsResponse>;

    async fn watch_revisions(
        &self,
        request: Request<pb::WatchRevisionsRequest>,
    ) -> Result<Response<Self::WatchRevisionsStream>, Status> {
        let after = request.into_inner().after;
        let (sender, stream) = watch_channel();
        let (core, stop) = (self.core.clone(), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped(stop) => (),
                () = follow(&core, after, &sender) => (),
                () = sender.closed() => (),
            }
        });
        Ok(Response::new(stream))
    }

    async fn export(&self, request: Request<pb::ExportRequest>) -> Result<Response<pb::ExportResponse>, Status> {
        let caller = caller(&request)?;
        answer(apart(self.core.clone().export(caller, request.into_inner())).await)
    }
}

type Sender = tokio::sync::mpsc::Sender<Result<pb::WatchRevisionsResponse, Status>>;

/// Sends the revisions after `after`, oldest first, then each new one.
pub(crate) async fn follow(core: &ConfigCore, after: u64, sender: &Sender) {
    let mut newest = core.pipeline.store().watch();
    let mut sent = if after == 0 { newest.borrow().saturating_sub(1) } else { after };
    loop {
        let head = *newest.borrow_and_update();
        // A reader that is far behind gets the latest, not everything.
        sent = sent.max(head.saturating_sub(MOST_MISSED));
        while sent < head {
            let until = head.min(sent + PAGE);
            match core.pipeline.revisions(until.saturating_add(1), (until - sent) as usize).await {
                Ok(headers) => {
                    for header in headers.iter().rev().filter(|header| header.id > sent) {
                        let item = pb::WatchRevisionsResponse { revision: Some(revision(header)) };
                        if sender.send(Ok(item)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    let _ = sender.send(Err(Failure::from(error).status())).await;
                    return;
                }
            }
            sent = until;
        }
        if newest.changed().await.is_err() {
            return;
        }
    }
}
