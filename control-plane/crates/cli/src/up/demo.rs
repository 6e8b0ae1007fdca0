//! `weir up --demo`: origins on the addresses of the clusters, requests through the proxies, and a push under load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cp_model::Model;
use cp_model::cluster::Discovery;
use cp_model::listener::Protocol;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::failure::Failure;
use crate::files;
use crate::flags::Up;
use crate::out::{Out, Paint};
use crate::up::Running;
use crate::up::http::{self, Connection, Origin};

/// Connections of the demo, which send one request after the other.
const CLIENTS: usize = 4;
/// How many requests show the balance.
const FIRST: usize = 300;
/// No client sends more than this under load.
const MOST: usize = 50_000;
/// Between two requests of a client under load.
const PAUSE: Duration = Duration::from_millis(2);
/// Under load before and after each push.
const AROUND: Duration = Duration::from_millis(400);
const REQUEST_BOUND: Duration = Duration::from_secs(5);

/// An origin for each fixed endpoint, named after its cluster.
pub(super) async fn origins(model: &Model) -> Result<Vec<Origin>, Failure> {
    let mut origins: Vec<Origin> = Vec::new();
    for cluster in &model.clusters {
        let Discovery::Fixed(endpoints) = &cluster.discovery else { continue };
        for (i, endpoint) in endpoints.iter().enumerate() {
            let Some(ip) = endpoint.address.ip().filter(|ip| ip.is_loopback()) else {
                return Err(Failure::Refused {
                    message: format!("--demo: cluster `{}` has an endpoint that is not on loopback", cluster.name),
                    hint: Some("the demo answers for the clusters itself, on 127.0.0.1 only".to_owned()),
                });
            };
            let name = if endpoints.len() == 1 { cluster.name.clone() } else { format!("{}-{}", cluster.name, i + 1) };
            let address = SocketAddr::new(ip, endpoint.address.port);
            // Another fleet of this configuration answers there.
            if model.listeners.iter().any(|l| l.address == address) {
                continue;
            }
            let origin = http::origin(name, address).await.map_err(|e| Failure::Refused {
                message: format!("{}: --demo cannot answer on {address}: {e}", cluster.place),
                hint: Some("another program listens there; stop it, or change the address".to_owned()),
            })?;
            origins.push(origin);
        }
    }
    if origins.is_empty() {
        return Err(Failure::refused("--demo: no cluster has an address to answer on"));
    }
    Ok(origins)
}

/// Who answered how often; and what failed.
#[derive(Debug, Default)]
struct Tally {
    answers: BTreeMap<String, usize>,
    failures: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        other.answers.into_iter().for_each(|(who, n)| *self.answers.entry(who).or_default() += n);
        other.failures.into_iter().for_each(|(why, n)| *self.failures.entry(why).or_default() += n);
    }

    fn total(&self) -> usize {
        self.answers.values().chain(self.failures.values()).sum()
    }

    fn show(&self, out: &Out) {
        let most = self.answers.values().copied().max().unwrap_or(1).max(1);
        let width = self.answers.keys().map(String::len).max().unwrap_or(0);
        for (who, n) in &self.answers {
            let bar = "#".repeat((n * 30).div_ceil(most));
            out.data(&format!("  {who:<width$} {n:>6}  {}", out.paint(&bar, Paint::Good)));
        }
        for (why, n) in &self.failures {
            out.data(&format!("  {} {n:>6}  {why}", out.paint("failed", Paint::Bad)));
        }
    }
}

/// True if a request failed, or a push did not show.
pub(super) async fn run(up: &mut Running<'_>, given: &Up, model: &Model) -> Result<bool, Failure> {
    let out = up.out;
    let address = entrance(model)?;
    out.data(&out.paint(&format!("{FIRST} requests to http://{address}/"), Paint::Strong));
    let never = Arc::new(AtomicBool::new(false));
    let first = load(address, FIRST / CLIENTS, Duration::ZERO, &never).await;
    first.show(out);
    let mut failed = !first.failures.is_empty();

    let next = given.file.with_file_name("next.yaml");
    if given.file.is_dir() || !next.is_file() || next == given.file {
        out.note("no next.yaml beside the file: nothing to push");
        return Ok(failed);
    }
    failed |= push(up, &next, address, &first).await?;
    out.data(&out.paint("back to the first configuration, in the same way", Paint::Strong));
    failed |= push(up, &given.file, address, &Tally::default()).await?;
    let verdict = match failed {
        false => out.paint("no request failed", Paint::Good),
        true => out.paint("the demo did not go as it should", Paint::Bad),
    };
    out.data(&verdict);
    Ok(failed)
}

/// Applies a file while requests run, and then counts again.
async fn push(up: &mut Running<'_>, file: &Path, address: SocketAddr, before: &Tally) -> Result<bool, Failure> {
    let out = up.out;
    let stop = Arc::new(AtomicBool::new(false));
    let running = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move { load(address, MOST, PAUSE, &stop).await })
    };
    sleep(AROUND).await;
    out.data(&out.paint(&format!("pushing {} under load", file.display()), Paint::Strong));
    let files = files::read(&[file.to_owned()])?;
    let begin = Instant::now();
    let pushed = up.apply(files, "weir up --demo").await;
    let took = begin.elapsed();
    sleep(AROUND).await;
    stop.store(true, Ordering::Relaxed);
    let during = running.await.map_err(|e| Failure::refused(format!("the demo's requests ended early: {e}")))?;
    pushed?;
    let lost: usize = during.failures.values().sum();
    out.data(&format!("  {} requests during the push, {lost} failed; pushed in {took:.0?}", during.total()));
    let after = load(address, FIRST / CLIENTS, Duration::ZERO, &Arc::new(AtomicBool::new(false))).await;
    out.data(&format!("  the next {FIRST} requests:"));
    after.show(out);
    let same = before.answers == after.answers && !before.answers.is_empty();
    if same {
        out.error("the push made no difference to the answers");
    }
    during.failures.iter().for_each(|(why, n)| out.error(&format!("{n} requests failed: {why}")));
    Ok(same || lost > 0 || !after.failures.is_empty())
}

/// The first listener that speaks plain HTTP.
fn entrance(model: &Model) -> Result<SocketAddr, Failure> {
    let plain =
        |p: &Protocol| matches!(p, Protocol::Http(http) if http.tls.is_none() && http.h1 && !http.redirect_https);
    let listener = model.listeners.iter().find(|l| plain(&l.protocol));
    let listener = listener.ok_or_else(|| Failure::refused("--demo: no listener speaks plain HTTP"))?;
    let mut address = listener.address;
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    Ok(address)
}

/// At most `each` requests from each client, until told to stop.
async fn load(address: SocketAddr, each: usize, pause: Duration, stop: &Arc<AtomicBool>) -> Tally {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(address, each, pause, Arc::clone(stop)));
    }
    let mut all = Tally::default();
    while let Some(tally) = clients.join_next().await {
        all.add(tally.unwrap_or_default());
    }
    all
}

async fn client(address: SocketAddr, each: usize, pause: Duration, stop: Arc<AtomicBool>) -> Tally {
    let address = address.to_string();
    let mut tally = Tally::default();
    let mut kept: Option<Connection> = None;
    for _ in 0..each {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let request = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => Connection::open(&address).await?,
            };
            let answer = connection.get(&address, "/").await?;
            std::io::Result::Ok((connection, answer))
        };
        match timeout(REQUEST_BOUND, request).await {
            Ok(Ok((connection, answer))) => {
                if answer.status == 200 {
                    let text = answer.text();
                    let who = text.trim().strip_prefix("hello from ").unwrap_or(text.trim()).to_owned();
                    *tally.answers.entry(who).or_default() += 1;
                } else {
                    let why = format!("status {}: {}", answer.status, answer.text().trim());
                    *tally.failures.entry(why).or_default() += 1;
                }
                kept = connection.reusable.then_some(connection);
            }
            Ok(Err(e)) => *tally.failures.entry(e.to_string()).or_default() += 1,
            Err(_) => *tally.failures.entry("no answer in time".to_owned()).or_default() += 1,
        }
        sleep(pause).await;
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_load_counts_who_answered_and_what_failed() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let stop = Arc::new(AtomicBool::new(false));
        let nobody = load(address, 2, Duration::ZERO, &stop).await;
        assert_eq!((nobody.answers.len(), nobody.failures.values().sum::<usize>()), (0, 2 * CLIENTS));
        let _origin = http::origin("blue".into(), address).await.unwrap();
        let tally = load(address, 5, Duration::ZERO, &stop).await;
        assert_eq!(tally.answers, BTreeMap::from([("blue".to_owned(), 5 * CLIENTS)]));
        assert!(tally.failures.is_empty());
    }
}
