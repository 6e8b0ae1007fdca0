//! `weir status`: one row a node, one column a resource type.

use std::time::Duration;

use proto::weir::management::v1 as pb;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::Output;
use crate::out::{Out, message};
use crate::remote::time::{age, since};

/// The types everyone has a column for; others follow as they occur.
const USUAL: [&str; 5] = ["CDS", "EDS", "LDS", "RDS", "SDS"];

pub(crate) async fn status(group: &str, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let request = client.request(pb::ListNodesRequest { group: group.to_owned() });
    let nodes = client.fleet.list_nodes(request).await.map_err(|s| client.failure(&s))?.into_inner().nodes;
    show(&nodes, out)?;
    if nodes.is_empty() {
        out.note("no node has connected yet");
    }
    Ok(0)
}

pub(crate) fn show(nodes: &[pb::Node], out: &Out) -> Result<(), Failure> {
    match out.output {
        Output::Json | Output::Yaml => {
            let nodes = nodes.iter().map(message).collect::<Result<Vec<_>, _>>()?;
            out.machine(&Value::Array(nodes));
        }
        Output::Name => nodes.iter().for_each(|n| out.data(&format!("node/{}", n.id))),
        _ if nodes.is_empty() => (),
        wide => {
            let (head, rows) = table(nodes, wide == Output::Wide);
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            out.table(&head, rows);
            for node in nodes {
                for refused in node.types.iter().filter(|t| t.status() == pb::SyncStatus::Error) {
                    out.note(&format!("{}: {} refused: {}", node.id, short_type(&refused.type_url), refused.error));
                }
            }
        }
    }
    Ok(())
}

fn table(nodes: &[pb::Node], wide: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let mut types: Vec<String> = USUAL.map(str::to_owned).to_vec();
    for status in nodes.iter().flat_map(|n| &n.types) {
        let short = short_type(&status.type_url);
        if !types.contains(&short) {
            types.push(short);
        }
    }
    let mut head: Vec<String> = ["NODE", "GROUP", "REVISION"].map(str::to_owned).to_vec();
    head.extend(types.iter().cloned());
    head.push("CONNECTED".to_owned());
    if wide {
        head.extend(["PROGRAM", "LABELS"].map(str::to_owned));
    }
    let row = |node: &pb::Node| {
        let revision = if node.revision == 0 { "-".to_owned() } else { node.revision.to_string() };
        let mut row = vec![node.id.clone(), node.group.clone(), revision];
        row.extend(types.iter().map(|short| {
            let status = node.types.iter().find(|t| short_type(&t.type_url) == *short);
            status.map_or_else(|| "NOT SENT".to_owned(), cell)
        }));
        row.push(match node.connected {
            true => since(node.connect_time.as_ref()),
            false => format!("no, left {} ago", since(node.disconnect_time.as_ref())),
        });
        if wide {
            let labels = node.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
            row.extend([node.user_agent.clone(), labels]);
        }
        row
    };
    (head, nodes.iter().map(row).collect())
}

/// `SYNCED 3s`: the status, and the age of the node's answer.
fn cell(status: &pb::TypeStatus) -> String {
    let word = word(status.status());
    let ack = status.last_ack_age.as_ref().and_then(|d| Duration::try_from(*d).ok());
    match ack {
        Some(ack) => format!("{word} {}", age(ack)),
        None => word.to_owned(),
    }
}

pub(crate) fn word(status: pb::SyncStatus) -> &'static str {
    match status {
        pb::SyncStatus::Synced => "SYNCED",
        pb::SyncStatus::NotSent | pb::SyncStatus::Unspecified => "NOT SENT",
        pb::SyncStatus::Stale => "STALE",
        pb::SyncStatus::Error => "REJECTED",
    }
}

/// The service a type comes from, as operators call it.
pub(crate) fn short_type(type_url: &str) -> String {
    let message = type_url.rsplit(['.', '/']).next().unwrap_or_default();
    match message {
        "Cluster" => "CDS",
        "ClusterLoadAssignment" => "EDS",
        "Listener" => "LDS",
        "RouteConfiguration" => "RDS",
        "ScopedRouteConfiguration" => "SRDS",
        "VirtualHost" => "VHDS",
        "Secret" => "SDS",
        "Runtime" => "RTDS",
        "TypedExtensionConfig" => "ECDS",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(message: &str, status: pb::SyncStatus, ack: Option<i64>) -> pb::TypeStatus {
        pb::TypeStatus {
            type_url: format!("type.googleapis.com/envoy.x.v3.{message}"),
            status: status.into(),
            last_ack_age: ack.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn a_node_is_a_row_and_a_type_a_column() {
        let node = pb::Node {
            id: "proxy-1".into(),
            group: "default".into(),
            connected: true,
            revision: 4,
            types: vec![
                status("Cluster", pb::SyncStatus::Synced, Some(3)),
                status("Listener", pb::SyncStatus::Error, Some(200)),
                status("RouteConfiguration", pb::SyncStatus::Stale, None),
                status("Runtime", pb::SyncStatus::Synced, Some(1)),
            ],
            ..Default::default()
        };
        let (head, rows) = table(&[node], false);
        assert_eq!(head.join("|"), "NODE|GROUP|REVISION|CDS|EDS|LDS|RDS|SDS|RTDS|CONNECTED");
        assert_eq!(rows[0].join("|"), "proxy-1|default|4|SYNCED 3s|NOT SENT|REJECTED 3m|STALE|NOT SENT|SYNCED 1s|-");
    }
}
