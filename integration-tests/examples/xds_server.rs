//! A control plane for tests with foreign clients: publishes files on command, and says how far each node is.
//!
//! Prints `listening ADDRESS`, then reads commands: `publish FILE` (a `DiscoveryResponse` in YAML), `status`.

use std::io::{BufRead, Write};
use std::sync::Arc;

use cp_xds::{Class, Fleet, Publisher, Settings, XdsServer};
use proto::envoy::service::discovery::v3::DiscoveryResponse;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let publisher = Publisher::default();
    let fleet = Fleet::new(Default::default());
    let settings = Settings { load_interval: std::time::Duration::from_secs(1), ..Settings::one_group("lab") };
    let server = XdsServer::new(publisher.clone(), fleet.clone(), settings);
    say(&format!("listening {}", listener.local_addr()?))?;

    let (lines, mut commands) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let commands = async move {
        let mut revision = 0;
        while let Some(line) = commands.recv().await {
            let answer = match line.split_once(' ') {
                Some(("publish", file)) => {
                    revision += 1;
                    publish(&publisher, file, revision)
                }
                _ if line == "status" => Ok(status(&fleet)),
                _ => Err("commands are publish FILE, status".to_owned()),
            };
            // When nobody reads the answers any more, nobody asks either.
            if say(&answer.unwrap_or_else(|error| format!("error {error}"))).is_err() {
                return;
            }
        }
    };
    cp_xds::serve(server, listener, None, commands).await?;
    Ok(())
}

fn publish(publisher: &Publisher, file: &str, revision: u64) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let response: DiscoveryResponse = proto::json::from_yaml(&text).map_err(|error| error.to_string())?;
    for class in [Class::Envoy, Class::Grpc, Class::Weir] {
        let resources = response.resources.iter().cloned().map(cp_xds::resource).collect::<Result<Vec<_>, _>>();
        publisher.publish("lab", class, resources.map_err(|error| error.to_string())?, revision);
    }
    Ok(format!("published {revision}"))
}

/// One line of JSON.
fn status(fleet: &Arc<Fleet>) -> String {
    let nodes = fleet.nodes().into_iter().map(|node| {
        let kinds: serde_json::Map<_, _> = node
            .kinds
            .iter()
            .map(|(kind, status)| {
                let refusal = status.refusal.as_ref().map(|refusal| refusal.message.clone());
                (kind.to_string(), serde_json::json!({"status": format!("{:?}", status.status()), "refusal": refusal}))
            })
            .collect();
        serde_json::json!({
            "id": node.info.id,
            "class": node.info.class.as_str(),
            "agent": node.info.user_agent,
            "extensions": node.info.extensions.len(),
            "streams": node.streams,
            "revision": node.revision,
            "kinds": kinds,
            "load": node.load.map(|load| load.clusters),
        })
    });
    format!("status {}", serde_json::Value::Array(nodes.collect()))
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
