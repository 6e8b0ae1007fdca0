//! Reports that endpoints are asked for apart from requests (`OpenRcaService.StreamCoreMetrics`): one stream to each.
//!
//! Runs once in a process, on the control thread. A stream is no traffic: it counts in no breaker and no pool.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dp_http::info::Address;
use dp_http::stream::{ClientStream, StreamError};
use dp_http::{Frame, Headers, Method, RequestHead, Scheme, h2};
use hashbrown::HashMap;
use shared_config::lb_policy::OutOfBand;
use stdx::backoff::Backoff;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::cluster::Cluster;
use crate::endpoint::Endpoint;
use crate::grpc::{framed, put_varint};
use crate::pool::connect::{Target, Wanted, establish};
use crate::stats::OrcaStats;

const PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
/// A report is a few numbers; what is longer is none.
const LONGEST: usize = 64 * 1024;
/// A stream without a report for so many periods is begun anew.
const PATIENCE: u32 = 3;
/// The status of a server that has no such service.
const UNIMPLEMENTED: &[u8] = b"12";

/// The streams of all clusters, by cluster and endpoint.
#[derive(Default)]
pub struct Reports(HashMap<(Arc<str>, u64), Session>);

/// The stream to one endpoint; it ends when this is dropped.
struct Session {
    subject: Rc<RefCell<Subject>>,
    task: AbortHandle,
}

#[derive(Clone)]
struct Subject {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    config: OutOfBand,
}

/// Why a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It will never be otherwise.
    Unimplemented,
    Failed,
}

/// Counts a session for as long as it goes on.
struct Active(Arc<OrcaStats>);

// === impl Reports ===

impl Reports {
    /// Asks the endpoints of these clusters from now on, and no others.
    pub fn update(&mut self, clusters: impl IntoIterator<Item = Arc<Cluster>>) {
        let mut wanted = HashMap::new();
        for cluster in clusters {
            let Some(config) = cluster.out_of_band() else { continue };
            for endpoint in cluster.endpoints() {
                let subject =
                    Subject { cluster: Arc::clone(&cluster), endpoint: Arc::clone(endpoint), config: config.clone() };
                wanted.insert((Arc::clone(cluster.name()), endpoint.state.id), subject);
            }
        }
        self.0.retain(|key, session| {
            wanted.get(key).is_some_and(|subject| session.subject.borrow().config == subject.config)
        });
        for (key, subject) in wanted {
            match self.0.get(&key) {
                Some(session) => *session.subject.borrow_mut() = subject,
                None => drop(self.0.insert(key, Session::start(subject))),
            }
        }
    }
}

// === impl Session ===

impl Session {
    fn start(subject: Subject) -> Self {
        let stats = Arc::clone(subject.cluster.state.orca_stats());
        stats.active_sessions().inc(0);
        let subject = Rc::new(RefCell::new(subject));
        let task = tokio::task::spawn_local(run(Rc::clone(&subject), Active(stats)));
        Self { subject, task: task.abort_handle() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active_sessions().dec(0);
    }
}

/// Follows the endpoint, whatever version of it is there at the time, until it says that it never reports.
async fn run(subject: Rc<RefCell<Subject>>, active: Active) {
    // All begin at different times.
    let period = subject.borrow().config.period;
    sleep(period.mul_f64(fastrand::f64())).await;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let asked = subject.borrow().clone();
        let reported = || {
            active.0.reports_received().inc(0);
            backoff.reset();
        };
        match follow(&asked, &subject, &active.0, reported).await {
            End::Unimplemented => {
                tracing::info!(cluster = %asked.cluster.name(), address = %asked.endpoint.address, "does not report load");
                return active.0.stream_terminated().inc(0);
            }
            End::Failed => active.0.stream_failures().inc(0),
        }
        sleep(backoff.next_delay()).await;
    }
}

/// One stream, from connecting on.
async fn follow(asked: &Subject, subject: &RefCell<Subject>, stats: &OrcaStats, reported: impl FnMut()) -> End {
    let Subject { cluster, endpoint, config } = asked;
    let address = address(&endpoint.address, config.port);
    let connecting = async {
        let target = Target { address: &address, offer: None, proxied: None, shard: 0 };
        let made = establish(cluster, endpoint, target, Wanted::Http2, None).await.ok()?;
        h2::ClientConn::handshake(made.io, &cluster.http2_options()).await.ok()
    };
    let Ok(Some((connection, driver))) = timeout(cluster.config.connect_timeout, connecting).await else {
        return End::Failed;
    };
    let Some(stream) = connection.open_stream() else { return End::Failed };
    let mut stream = ClientStream::H2(Box::new(stream));
    let reading = async {
        let read = read(&mut stream, asked, &address, reported, |message| {
            // The configuration may have changed meanwhile.
            let current = subject.borrow();
            if !current.cluster.note_out_of_band(&current.endpoint.state, message, Instant::now()) {
                stats.report_errors().inc(0);
            }
        });
        read.await.unwrap_or(End::Failed)
    };
    tokio::select! {
        end = reading => end,
        _ = driver => End::Failed,
    }
}

async fn read(
    stream: &mut ClientStream,
    asked: &Subject,
    address: &Address,
    mut reported: impl FnMut(),
    mut tell: impl FnMut(&[u8]),
) -> Result<End, StreamError> {
    let period = asked.config.period;
    let patience = period * PATIENCE;
    let mut until = Instant::now() + patience;
    stream.send_head(&head(asked, address), false)?;
    poll_fn(|cx| stream.poll_ready(cx)).await?;
    stream.send_data(request(period), true)?;
    let Ok(head) = timeout_at(until, poll_fn(|cx| stream.poll_head(cx))).await else { return Ok(End::Failed) };
    let head = head?;
    let is_grpc = head.headers.get("content-type").is_some_and(|kind| kind.starts_with(b"application/grpc"));
    if head.status == 404 || is_unimplemented(&head.headers) {
        return Ok(End::Unimplemented);
    }
    if head.status != 200 || !is_grpc {
        return Ok(End::Failed);
    }
    let mut bytes = BytesMut::new();
    loop {
        let frame = match timeout_at(until, poll_fn(|cx| stream.poll_body(cx))).await {
            Ok(Some(frame)) => frame?,
            Ok(None) | Err(_) => return Ok(End::Failed),
        };
        match frame {
            Frame::Trailers(trailers) if is_unimplemented(&trailers) => return Ok(End::Unimplemented),
            Frame::Trailers(_) => return Ok(End::Failed),
            Frame::Data(data) => bytes.extend_from_slice(&data),
        }
        loop {
            match message(&mut bytes) {
                Message::Whole(message) => {
                    until = Instant::now() + patience;
                    reported();
                    tell(&message);
                }
                Message::Part => break,
                Message::Wrong => return Ok(End::Failed),
            }
        }
    }
}

fn is_unimplemented(headers: &Headers) -> bool {
    headers.get("grpc-status") == Some(UNIMPLEMENTED)
}

fn head(asked: &Subject, address: &Address) -> RequestHead {
    let Subject { cluster, endpoint, config } = asked;
    let authority = match (&*config.authority, &*endpoint.state.hostname) {
        ("", "") => address.to_string(),
        ("", hostname) => hostname.to_owned(),
        (authority, _) => authority.to_owned(),
    };
    let mut head = RequestHead::new(Method::Post, &authority, PATH);
    head.scheme = if cluster.tls.is_some() { Scheme::Https } else { Scheme::Http };
    head.headers.set("te", b"trailers");
    head.headers.set("content-type", b"application/grpc");
    head
}

/// Where the endpoint reports.
fn address(own: &Address, port: Option<u16>) -> Address {
    match (own, port) {
        (Address::Ip(ip), Some(port)) => Address::Ip((ip.ip(), port).into()),
        (own, _) => own.clone(),
    }
}

/// `OrcaLoadReportRequest { report_interval }` in a frame; of the interval seconds and nanoseconds.
fn request(period: Duration) -> Bytes {
    let mut interval = BytesMut::new();
    for (number, value) in [(1u8, period.as_secs()), (2, u64::from(period.subsec_nanos()))] {
        if value > 0 {
            interval.put_u8(number << 3);
            put_varint(&mut interval, value);
        }
    }
    let mut message = BytesMut::new();
    message.put_u8(0x0a);
    put_varint(&mut message, interval.len() as u64);
    message.put_slice(&interval);
    framed(&message)
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Whole(Bytes),
    Part,
    /// Compressed, or too long.
    Wrong,
}

/// Takes the next message of a stream.
fn message(bytes: &mut BytesMut) -> Message {
    let Some(&[flags, a, b, c, d]) = bytes.first_chunk::<5>() else { return Message::Part };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if flags != 0 || length > LONGEST {
        return Message::Wrong;
    }
    if bytes.len() < 5 + length {
        return Message::Part;
    }
    let mut message = bytes.split_to(5 + length);
    Message::Whole(message.split_off(5).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_often() {
        let check = |period, wanted: &[u8]| assert_eq!(&request(period)[..], wanted);
        check(Duration::from_secs(10), &[0, 0, 0, 0, 4, 0x0a, 2, 8, 10]);
        check(Duration::from_secs(300), &[0, 0, 0, 0, 5, 0x0a, 3, 8, 0xac, 2]);
        check(Duration::from_nanos(1_000_000_005), &[0, 0, 0, 0, 6, 0x0a, 4, 8, 1, 16, 5]);
    }

    #[test]
    fn messages_come_in_any_pieces() {
        let check = |bytes: &[u8], wanted: &[Message]| {
            let mut bytes = BytesMut::from(bytes);
            wanted.iter().for_each(|wanted| assert_eq!(message(&mut bytes), *wanted, "{bytes:?}"));
        };
        let whole = |bytes: &'static [u8]| Message::Whole(Bytes::from_static(bytes));
        check(&[], &[Message::Part]);
        check(&[0, 0, 0, 0, 2, 7], &[Message::Part]);
        check(&[0, 0, 0, 0, 1, 7, 0, 0, 0, 0, 0, 0], &[whole(&[7]), whole(&[]), Message::Part]);
        check(&[1, 0, 0, 0, 0], &[Message::Wrong]);
        check(&[0, 1, 0, 0, 0], &[Message::Wrong]);
    }

    #[test]
    fn reports_may_come_from_another_port() {
        let check = |own: &str, port, wanted: &str| {
            assert_eq!(address(&Address::Ip(own.parse().unwrap()), port).to_string(), wanted);
        };
        check("10.0.0.1:80", None, "10.0.0.1:80");
        check("10.0.0.1:80", Some(9001), "10.0.0.1:9001");
    }
}
