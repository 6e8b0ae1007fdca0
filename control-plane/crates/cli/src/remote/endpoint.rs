//! The endpoints of clusters: how each node sees them, and taking one out of service.

use proto::weir::management::v1 as pb;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{EndpointCommand, Output};
use crate::out::{Out, Paint, message};
use crate::remote::time::{date, since};

pub(crate) async fn get(cluster: Option<&str>, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let endpoints = of(cluster.unwrap_or_default(), client).await?;
    match out.output {
        Output::Json | Output::Yaml => {
            let values: Result<Vec<Value>, Failure> = endpoints.iter().map(message).collect();
            out.machine(&Value::Array(values?));
        }
        Output::Name => endpoints.iter().for_each(|e| out.data(&format!("{}/{}", e.cluster, e.address))),
        _ => table(&endpoints, out),
    }
    Ok(0)
}

/// Those of one cluster; of all for no name.
pub(crate) async fn of(cluster: &str, client: &mut Client) -> Result<Vec<pb::Endpoint>, Failure> {
    let request = client.request(pb::ListEndpointsRequest { cluster: cluster.to_owned() });
    let answer = client.fleet.list_endpoints(request).await.map_err(|s| client.failure(&s))?;
    Ok(answer.into_inner().endpoints)
}

/// One row an endpoint and node; one without node for an endpoint that nobody has reported.
pub(crate) fn table(endpoints: &[pb::Endpoint], out: &Out) {
    if endpoints.is_empty() {
        return out.note("no endpoints");
    }
    let head = [
        "CLUSTER", "ENDPOINT", "HEALTH", "WHY", "NODE", "ACTIVE", "REQUESTS", "ERRORS", "LATENCY", "WEIGHT", "PLACE",
        "AGE",
    ];
    let mut rows = Vec::new();
    for endpoint in endpoints {
        if endpoint.nodes.is_empty() {
            rows.push(row(endpoint, None, out));
        }
        rows.extend(endpoint.nodes.iter().map(|node| row(endpoint, Some(node), out)));
    }
    out.table(&head, rows);
}

fn row(endpoint: &pb::Endpoint, node: Option<&pb::EndpointOnNode>, out: &Out) -> Vec<String> {
    let health = match (&endpoint.drain, node) {
        (Some(_), _) => pb::EndpointHealth::Draining,
        (None, Some(node)) => node.health(),
        (None, None) => endpoint.health(),
    };
    let number =
        |number: fn(&pb::EndpointOnNode) -> u64| node.map_or_else(|| "-".to_owned(), |n| number(n).to_string());
    vec![
        endpoint.cluster.clone(),
        endpoint.address.clone(),
        health_word(health, out),
        why(endpoint, node),
        node.map_or_else(|| "-".to_owned(), |n| n.node.clone()),
        number(|n| n.active_requests),
        number(|n| n.requests),
        number(|n| n.errors),
        node.and_then(|n| n.latency.as_ref()).map_or_else(|| "-".to_owned(), latency),
        endpoint.weight.to_string(),
        place(endpoint),
        node.map_or_else(|| "-".to_owned(), |n| since(n.report_time.as_ref())),
    ]
}

fn health_word(health: pb::EndpointHealth, out: &Out) -> String {
    match health {
        pb::EndpointHealth::Healthy => out.paint("HEALTHY", Paint::Good),
        pb::EndpointHealth::Degraded => out.paint("DEGRADED", Paint::Caution),
        pb::EndpointHealth::Unhealthy => out.paint("UNHEALTHY", Paint::Bad),
        pb::EndpointHealth::Draining => out.paint("DRAINING", Paint::Caution),
        pb::EndpointHealth::Unspecified => "unknown".to_owned(),
    }
}

/// Who drained it, then what the node says.
fn why(endpoint: &pb::Endpoint, node: Option<&pb::EndpointOnNode>) -> String {
    let mut parts = Vec::new();
    if let Some(drain) = &endpoint.drain {
        let until = drain.expire_time.as_ref().map(|t| format!(" until {}", date(Some(t)))).unwrap_or_default();
        let message = if drain.message.is_empty() { String::new() } else { format!(": {}", drain.message) };
        parts.push(format!("drained by {}{until}{message}", drain.author));
    }
    parts.extend(node.into_iter().flat_map(|n| n.reasons.iter().map(|reason| reason_word(reason))));
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Envoy's flags in plain words; those we do not know stay as they are.
fn reason_word(reason: &str) -> String {
    match reason {
        "failed_active_hc" => "health check failed",
        "failed_outlier_check" => "ejected as an outlier",
        "failed_eds_health" => "discovery says unhealthy",
        "degraded_eds_health" => "discovery says degraded",
        "degraded_outlier_detection" => "calls itself degraded",
        "degraded_active_hc" => "health check says degraded",
        "pending_active_hc" => "not checked yet",
        "active_hc_timeout" => "health check timed out",
        other => other,
    }
    .to_owned()
}

fn latency(duration: &prost_types::Duration) -> String {
    let millis = duration.seconds as f64 * 1000.0 + f64::from(duration.nanos) / 1e6;
    if millis < 10.0 { format!("{millis:.1}ms") } else { format!("{millis:.0}ms") }
}

fn place(endpoint: &pb::Endpoint) -> String {
    let mut parts = Vec::new();
    parts.extend(Some(&endpoint.region).filter(|r| !r.is_empty()).cloned());
    parts.extend(Some(&endpoint.zone).filter(|z| !z.is_empty()).cloned());
    if endpoint.priority > 0 {
        parts.push(format!("priority {}", endpoint.priority));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(" ") }
}

pub(crate) async fn change(command: &EndpointCommand, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let (endpoint, word) = match command {
        EndpointCommand::Drain { cluster, address, time, message } => {
            let duration = match time {
                None => None,
                Some(time) => Some(
                    prost_types::Duration::try_from(*time).map_err(|_| Failure::usage("--for: that is too long"))?,
                ),
            };
            let request = pb::DrainEndpointRequest {
                cluster: cluster.clone(),
                address: address.clone(),
                duration,
                message: message.clone(),
            };
            let answer = client.fleet.drain_endpoint(client.request(request)).await;
            (answer.map_err(|s| client.failure(&s))?.into_inner().endpoint, "drained")
        }
        EndpointCommand::Undrain { cluster, address } => {
            let request = pb::UndrainEndpointRequest { cluster: cluster.clone(), address: address.clone() };
            let answer = client.fleet.undrain_endpoint(client.request(request)).await;
            (answer.map_err(|s| client.failure(&s))?.into_inner().endpoint, "back in service")
        }
    };
    let endpoint = endpoint.unwrap_or_default();
    if out.machine(&message(&endpoint)?) {
        return Ok(0);
    }
    let until =
        endpoint.drain.as_ref().and_then(|d| d.expire_time.as_ref()).map(|t| format!(" until {}", date(Some(t))));
    out.note(&format!("{} of cluster `{}`: {word}{}", endpoint.address, endpoint.cluster, until.unwrap_or_default()));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_an_endpoint_is_out_is_said_in_plain_words() {
        let drain = Some(pb::Drain { author: "ann".into(), message: "disk".into(), ..Default::default() });
        let on = |reasons: &[&str]| pb::EndpointOnNode {
            reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
            ..Default::default()
        };
        let plain = pb::Endpoint::default();
        let drained = pb::Endpoint { drain, ..Default::default() };
        for (endpoint, node, expected) in [
            (&plain, None, "-"),
            (&plain, Some(on(&[])), "-"),
            (
                &plain,
                Some(on(&["failed_active_hc", "failed_outlier_check"])),
                "health check failed, ejected as an outlier",
            ),
            (&plain, Some(on(&["something_new"])), "something_new"),
            (&drained, None, "drained by ann: disk"),
            (&drained, Some(on(&["failed_eds_health"])), "drained by ann: disk, discovery says unhealthy"),
        ] {
            assert_eq!(why(endpoint, node.as_ref()), expected);
        }
    }

    #[test]
    fn latencies_are_short() {
        let of = |nanos| latency(&prost_types::Duration { seconds: 0, nanos });
        assert_eq!((of(1_250_000), of(250_000_000)), ("1.2ms".to_owned(), "250ms".to_owned()));
    }
}
