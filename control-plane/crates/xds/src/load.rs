//! The load reporting service: asks every client to report, and keeps the latest report of each node.

use std::sync::Arc;
use std::time::SystemTime;

use proto::envoy::service::load_stats::v3::load_reporting_service_server::LoadReportingService;
use proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::identity::Peer;
use crate::service::Shared;

pub(crate) struct Loads(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl LoadReportingService for Loads {
    type StreamLoadStatsStream = ReceiverStream<Result<LoadStatsResponse, Status>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let peer = Peer::of(&request);
        let (out, responses) = mpsc::channel(1);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let taken = tokio::select! {
                taken = take(&shared, &peer, request.into_inner(), &out) => taken,
                () = shared.stopped() => Ok(()),
            };
            if let Err(status) = taken {
                tracing::debug!(peer = ?peer.address, reason = status.message(), "load stream ends");
                let _ = out.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

async fn take(
    shared: &Shared,
    peer: &Peer,
    mut inbound: Streaming<LoadStatsRequest>,
    out: &mpsc::Sender<Result<LoadStatsResponse, Status>>,
) -> Result<(), Status> {
    let mut id = None;
    while let Some(report) = inbound.message().await? {
        if id.is_none() {
            let node = report.node.ok_or_else(|| Status::invalid_argument("the first report needs a node"))?;
            let info = shared.fleet.identify(node);
            (shared.settings.admit)(peer, &info).map_err(Status::permission_denied)?;
            id = Some(info.id.clone());
            let wanted = LoadStatsResponse {
                send_all_clusters: true,
                report_endpoint_granularity: true,
                load_reporting_interval: prost_types::Duration::try_from(shared.settings.load_interval).ok(),
                ..Default::default()
            };
            out.send(Ok(wanted)).await.map_err(|_| Status::cancelled("the client is gone"))?;
        }
        if let (Some(id), false) = (&id, report.cluster_stats.is_empty()) {
            shared.fleet.report_load(id, &report.cluster_stats, SystemTime::now());
        }
    }
    Ok(())
}
