//! Waiting until every connected node has a revision.

use std::time::Duration;

use proto::weir::management::v1 as pb;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::failure::Failure;
use crate::remote::status::short_type;

/// How often the nodes are asked for.
const EVERY: Duration = Duration::from_millis(100);

/// How many connected nodes have it in the end.
///
/// # Errors
/// Not in time, or a node refused it.
pub(crate) async fn wait(
    client: &mut Client,
    revision: u64,
    bound: Duration,
    mut seen: impl FnMut(&[pb::Node]),
) -> Result<usize, Failure> {
    let end = Instant::now() + bound;
    loop {
        let request = client.request(pb::ListNodesRequest::default());
        let nodes = client.fleet.list_nodes(request).await.map_err(|s| client.failure(&s))?.into_inner().nodes;
        seen(&nodes);
        let connected: Vec<&pb::Node> = nodes.iter().filter(|n| n.connected).collect();
        if let Some(words) = connected.iter().find_map(|n| refusal(n, revision)) {
            return Err(Failure::NotConverged(format!("revision {revision} is refused: {words}")));
        }
        let late: Vec<&str> = connected.iter().filter(|n| n.revision < revision).map(|n| n.id.as_str()).collect();
        if late.is_empty() {
            return Ok(connected.len());
        }
        if Instant::now() >= end {
            let late = late.join(", ");
            return Err(Failure::NotConverged(format!("revision {revision} is applied, but not yet on {late}")));
        }
        sleep(EVERY).await;
    }
}

/// The words of a node that refused this revision or a later one.
fn refusal(node: &pb::Node, revision: u64) -> Option<String> {
    let refused = |t: &&pb::TypeStatus| t.status() == pb::SyncStatus::Error && t.revision >= revision;
    let status = node.types.iter().find(refused)?;
    Some(format!("{} ({}): {}", node.id, short_type(&status.type_url), status.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_an_older_revision_is_no_refusal_of_this_one() {
        let status = pb::TypeStatus {
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
            status: pb::SyncStatus::Error.into(),
            revision: 3,
            error: "bad".into(),
            ..Default::default()
        };
        let node = pb::Node { id: "a".into(), types: vec![status], ..Default::default() };
        assert_eq!(refusal(&node, 3).as_deref(), Some("a (CDS): bad"));
        assert_eq!(refusal(&node, 4), None);
    }
}
