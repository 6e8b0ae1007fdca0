//! Load reports to a management server (LRS): of what it asks for, as often as it asks for it, for ever.
//!
//! Never knows what the numbers mean: [`Loads`] brings them.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::envoy::config::core::v3::Node;
use proto::envoy::config::endpoint::v3::ClusterStats;
use proto::envoy::service::load_stats::v3::load_reporting_service_client::LoadReportingServiceClient;
use proto::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use stdx::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::connect::{ConnectError, describe, dial, with_metadata};
use crate::node::NodeIdentity;
use crate::source::StreamSource;

/// What the server wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// None: of every cluster.
    pub clusters: Option<BTreeSet<String>>,
    /// Not only of localities but of each endpoint.
    pub endpoints: bool,
    pub interval: Duration,
}

/// Who has the numbers: those since it was asked last.
pub trait Loads {
    fn report(&mut self, asked: &Asked) -> Vec<ClusterStats>;
}

/// A server that asks for more would get nothing else done.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Asked {
    fn of(response: &LoadStatsResponse) -> Asked {
        let interval = response.load_reporting_interval.and_then(|i| Duration::try_from(i).ok()).unwrap_or_default();
        Asked {
            clusters: (!response.send_all_clusters).then(|| response.clusters.iter().cloned().collect()),
            endpoints: response.report_endpoint_granularity,
            interval: interval.clamp(SHORTEST, LONGEST),
        }
    }

    pub fn wants(&self, cluster: &str) -> bool {
        self.clusters.as_ref().is_none_or(|clusters| clusters.contains(cluster))
    }
}

/// Reports to the server of `source`. Ends only when it is dropped; to be polled on the control thread.
pub async fn report_loads(source: StreamSource, node: NodeIdentity, mut loads: impl Loads) {
    let mut node = node.encode();
    node.client_features.push("envoy.lrs.supports_send_all_clusters".to_owned());
    let mut backoff = Backoff::new(source.backoff_base, source.backoff_max);
    for turn in 0.. {
        let mut answered = false;
        let reason = match stream(&source, turn, node.clone(), &mut loads, &mut answered).await {
            Ok(()) => "the server ended the stream".to_owned(),
            Err(error) => error.to_string(),
        };
        if answered {
            backoff.reset();
        }
        let delay = backoff.next_delay();
        tracing::debug!(reason, ?delay, "no load reports for now");
        tokio::time::sleep(delay).await;
    }
}

async fn stream(
    source: &StreamSource,
    turn: usize,
    node: Node,
    loads: &mut impl Loads,
    answered: &mut bool,
) -> Result<(), ConnectError> {
    let refused = |status: tonic::Status| ConnectError::Status(describe(&status));
    let channel = dial(source, turn).await?;
    // One report at a time: when the server is slow the next one is about a longer time, and nothing piles up.
    let (requests, queue) = mpsc::channel(1);
    let first = LoadStatsRequest { node: Some(node), ..Default::default() };
    // There is room for it, and we hold the other end.
    let _ = requests.try_send(first);
    let mut client = LoadReportingServiceClient::new(channel).max_encoding_message_size(usize::MAX);
    let request = with_metadata(source, tonic::Request::new(ReceiverStream::new(queue)))?;
    let mut responses = client.stream_load_stats(request).await.map_err(refused)?.into_inner();
    let mut asked: Option<Asked> = None;
    let mut due = Instant::now();
    loop {
        let interval = asked.as_ref().map(|asked| asked.interval);
        tokio::select! {
            response = responses.message() => {
                let Some(response) = response.map_err(refused)? else { return Ok(()) };
                *answered = true;
                let next = Asked::of(&response);
                // What was before the server asked is not its business.
                if asked.is_none() {
                    loads.report(&next);
                }
                due = Instant::now() + next.interval;
                asked = Some(next);
            }
            () = tokio::time::sleep_until(due), if interval.is_some() => {
                let Ok(permit) = requests.reserve().await else { return Ok(()) };
                if let Some(asked) = &asked {
                    permit.send(LoadStatsRequest { cluster_stats: loads.report(asked), ..Default::default() });
                    due = Instant::now() + asked.interval;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_says_of_what_how_fine_and_how_often() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let all = Asked::of(&LoadStatsResponse {
            send_all_clusters: true,
            load_reporting_interval: seconds(5),
            report_endpoint_granularity: true,
            ..Default::default()
        });
        assert_eq!(all, Asked { clusters: None, endpoints: true, interval: Duration::from_secs(5) });
        assert!(all.wants("any"));
        let some = Asked::of(&LoadStatsResponse { clusters: vec!["a".into()], ..Default::default() });
        assert_eq!((some.wants("a"), some.wants("b"), some.interval), (true, false, SHORTEST));
        let late = LoadStatsResponse { load_reporting_interval: seconds(i64::MAX), ..Default::default() };
        assert_eq!(Asked::of(&late).interval, LONGEST);
    }
}
