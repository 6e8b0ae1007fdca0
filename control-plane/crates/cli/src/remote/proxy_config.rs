//! `weir proxy-config`: what was sent to a node, resource by resource; its bootstrap from its own admin server.

use std::time::Duration;

use proto::weir::management::v1 as pb;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{Global, Output, ProxyConfig, ProxyConfigKind};
use crate::out::Out;
use crate::remote::status::word;
use crate::up::http;

pub(crate) async fn proxy_config(given: &ProxyConfig, global: &Global, out: &Out) -> Result<u8, Failure> {
    let message = match given.what {
        ProxyConfigKind::Bootstrap => return bootstrap(given, global.timeout, out).await,
        _ if given.admin.is_some() => return Err(Failure::usage("--admin is for `bootstrap` only")),
        ProxyConfigKind::Listeners => "envoy.config.listener.v3.Listener",
        ProxyConfigKind::Routes => "envoy.config.route.v3.RouteConfiguration",
        ProxyConfigKind::Clusters => "envoy.config.cluster.v3.Cluster",
        ProxyConfigKind::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
        ProxyConfigKind::Secrets => "envoy.extensions.transport_sockets.tls.v3.Secret",
    };
    let mut client = Client::connect(global).await?;
    let request =
        pb::GetNodeConfigRequest { id: given.node.clone(), type_url: format!("type.googleapis.com/{message}") };
    let answer = client.fleet.get_node_config(client.request(request)).await.map_err(|s| client.failure(&s))?;
    let resources = answer.into_inner().resources;
    match out.output {
        Output::Json | Output::Yaml => {
            let value = |r: &pb::NodeResource| {
                json!({
                    "name": r.name, "version": r.version, "status": word(r.status()), "error": r.error,
                    "resource": serde_json::from_str::<Value>(&r.json).unwrap_or(Value::Null),
                })
            };
            out.machine(&resources.iter().map(value).collect());
        }
        Output::Name => resources.iter().for_each(|r| out.data(&r.name)),
        _ if resources.is_empty() => out.note("nothing of this type was sent to the node"),
        _ => {
            let row = |r: &pb::NodeResource| {
                let summary = serde_json::from_str(&r.json).map(|v| summary(given.what, &v)).unwrap_or_default();
                vec![r.name.clone(), word(r.status()).to_owned(), r.version.clone(), summary]
            };
            out.table(&["NAME", "STATUS", "VERSION", "WHAT"], resources.iter().map(row).collect());
            for refused in resources.iter().filter(|r| !r.error.is_empty()) {
                out.note(&format!("{}: {}", refused.name, refused.error));
            }
        }
    }
    Ok(0)
}

/// What matters most about a resource, in a few words.
fn summary(what: ProxyConfigKind, value: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let socket = |v: &Value| {
        let socket = &v["address"]["socket_address"];
        format!("{}:{}", text(&socket["address"]), socket["port_value"])
    };
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    match what {
        ProxyConfigKind::Listeners => socket(value),
        ProxyConfigKind::Clusters => match (&value["type"], &value["cluster_type"]["name"]) {
            (Value::String(kind), _) | (_, Value::String(kind)) => kind.clone(),
            _ => "STATIC".to_owned(),
        },
        ProxyConfigKind::Routes => {
            let hosts = list(&value["virtual_hosts"]);
            let routes: usize = hosts.iter().map(|h| list(&h["routes"]).len()).sum();
            let domains: Vec<String> = hosts.iter().flat_map(|h| list(&h["domains"])).map(|d| text(&d)).collect();
            format!("{} for {}", crate::offline::many(routes, "route"), domains.join(", "))
        }
        ProxyConfigKind::Endpoints => {
            let endpoints = list(&value["endpoints"]).into_iter().flat_map(|l| list(&l["lb_endpoints"]));
            endpoints.map(|e| socket(&e["endpoint"])).collect::<Vec<_>>().join(", ")
        }
        ProxyConfigKind::Secrets | ProxyConfigKind::Bootstrap => {
            let keys = value.as_object().into_iter().flat_map(|o| o.keys());
            let keys = keys.filter(|k| !["@type", "name"].contains(&k.as_str()));
            keys.cloned().collect::<Vec<_>>().join(", ")
        }
    }
}

async fn bootstrap(given: &ProxyConfig, bound: Duration, out: &Out) -> Result<u8, Failure> {
    let Some(admin) = &given.admin else {
        return Err(Failure::usage("only the proxy knows its bootstrap: give its admin server with --admin HOST:PORT"));
    };
    let unreachable = |why: String| Failure::Unreachable {
        message: format!("the admin server at {admin} does not answer: {why}"),
        hint: None,
    };
    let fetch = async { http::Connection::open(admin).await?.get(admin, "/config_dump").await };
    let answer = tokio::time::timeout(bound, fetch)
        .await
        .map_err(|_| unreachable("no answer in time".to_owned()))?
        .map_err(|e| unreachable(e.to_string()))?;
    if answer.status != 200 {
        return Err(Failure::refused(format!("{admin} answered {}: {}", answer.status, answer.text().trim())));
    }
    let value: Value = serde_json::from_slice(&answer.body)
        .map_err(|e| Failure::refused(format!("{admin} did not answer JSON: {e}")))?;
    let found = value["configs"].as_array().into_iter().flatten().find_map(|c| match &c["bootstrap"] {
        Value::Null => None,
        bootstrap => Some(bootstrap.clone()),
    });
    let found = found.ok_or_else(|| Failure::refused(format!("{admin} has no bootstrap in its configuration dump")))?;
    let id = found["node"]["id"].as_str().unwrap_or_default();
    if !id.is_empty() && id != given.node {
        return Err(Failure::refused(format!("the proxy at {admin} is node `{id}`, not `{}`", given.node)));
    }
    if !out.machine(&found) {
        out.yaml(&found);
    }
    Ok(0)
}
