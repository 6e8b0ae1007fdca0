//! One exchange through a chain, as the proxy would run it, for the tests of filters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use dp_http::info::{Address, ConnectionInfo};
use dp_http::{Headers, LocalReply, Protocol, RequestHead, ResponseHead, StreamInfo};
use shared_config::cluster::DnsCache;
use shared_config::http_filter::{FilterOverride, FilterSource, HttpFilter, HttpFilterConfig, PerRouteConfig};
use shared_telemetry::{Registry, Selection};

use crate::chain::{Chain, Compiler, Level};
use crate::filter::Cx;
use crate::run::{Run, Step, request_too_large};
use crate::services::{ClusterHealth, Health, KeepStore, NameCaches, NameLookup, Names, Services};

/// A proxy with a chain, all the same for each of its routes.
pub(crate) struct Proxy {
    pub(crate) chain: Chain,
    pub(crate) now: Instant,
    pub(crate) info: StreamInfo,
}

/// What both sides saw.
pub(crate) struct Exchange {
    /// What the origin got; `None` when it was not asked.
    pub(crate) upstream: Option<(RequestHead, Bytes)>,
    pub(crate) head: ResponseHead,
    pub(crate) body: Bytes,
    pub(crate) trailers: Headers,
    pub(crate) info: StreamInfo,
    pub(crate) pace: Option<u64>,
    /// What the filters counted so far: `name: n` each, without the common prefix.
    pub(crate) counted: String,
}

/// The answer of the origin.
#[derive(Clone, Default)]
pub(crate) struct Origin {
    pub(crate) head: ResponseHead,
    pub(crate) chunks: Vec<&'static str>,
    pub(crate) trailers: Option<Headers>,
}

pub(crate) struct FixedHealth {
    pub(crate) is_failing: bool,
    pub(crate) clusters: BTreeMap<&'static str, ClusterHealth>,
}

impl Health for FixedHealth {
    fn is_failing(&self) -> bool {
        self.is_failing
    }
    fn cluster(&self, name: &str) -> Option<ClusterHealth> {
        self.clusters.get(name).copied()
    }
}

pub(crate) fn well() -> FixedHealth {
    FixedHealth { is_failing: false, clusters: BTreeMap::new() }
}

pub(crate) fn filter(name: &str, config: HttpFilterConfig) -> HttpFilter {
    HttpFilter { name: name.into(), source: FilterSource::Config(config), disabled: false }
}

/// Compiles filters with one level of overrides each, least specific first.
pub(crate) fn compile(
    filters: &[HttpFilter],
    levels: &[(&str, FilterOverride)],
    keep: &KeepStore,
    health: FixedHealth,
) -> Chain {
    let services = services(keep, health);
    let levels: Vec<(String, BTreeMap<String, PerRouteConfig>)> = levels
        .iter()
        .enumerate()
        .map(|(i, (filter, config))| {
            let config = PerRouteConfig { disabled: false, config: Some(config.clone()) };
            (format!("level{i}"), BTreeMap::from([((*filter).to_owned(), config)]))
        })
        .collect();
    let levels: Vec<Level<'_>> = levels.iter().map(|(name, configs)| Level { name, configs }).collect();
    let compiler = Compiler::new(filters, "test", &services);
    let chain = compiler.chain(&levels);
    assert!(compiler.problems().is_empty(), "{:?}", compiler.problems());
    chain
}

/// What is refused when these filters are compiled.
pub(crate) fn refusals(filters: &[HttpFilter]) -> Vec<String> {
    let keep = KeepStore::default();
    let services = services(&keep, well());
    let compiler = Compiler::new(filters, "test", &services);
    let _ = compiler.chain(&[]);
    compiler.problems().iter().map(ToString::to_string).collect()
}

/// The statistics of this test, which runs on a thread of its own.
fn registry() -> &'static Registry {
    thread_local!(static REGISTRY: &'static Registry = Box::leak(Box::new(Registry::new(1))));
    REGISTRY.with(|registry| *registry)
}

fn counted() -> String {
    let mut text = String::new();
    let used = Selection { used_only: true, ..Selection::default() };
    registry().write_text(&used, &mut text).unwrap();
    let lines = text.lines().map(|line| line.strip_prefix("http.test.").unwrap_or(line));
    lines.collect::<Vec<_>>().join(", ")
}

/// Caches in which every host under `known.` is found at once, every one under `slow.` later, and no other one.
pub(crate) struct FixedNames;

impl NameCaches for FixedNames {
    fn cache(&self, config: &DnsCache) -> Result<Arc<dyn Names>, String> {
        if config.name == "taken" { Err("taken".to_owned()) } else { Ok(Arc::new(Self)) }
    }
}

impl Names for FixedNames {
    fn look_up(&self, authority: &str, port: u16) -> NameLookup {
        match authority.split('.').next() {
            Some("known") => NameLookup::Found,
            Some("slow") => NameLookup::Waiting(Box::pin(async move {
                tokio::task::yield_now().await;
                port == 80
            })),
            Some("full") => NameLookup::Overflow,
            Some("busy") => NameLookup::PendingOverflow,
            _ => NameLookup::Failed,
        }
    }
}

/// Services that find nothing by discovery.
pub(crate) fn services(keep: &KeepStore, health: FixedHealth) -> Services<'_> {
    Services {
        keep,
        health: Arc::new(health),
        registry: registry(),
        stat_prefix: "test",
        names: &FixedNames,
        discovered: &|_| None,
        node_cluster: "here".into(),
        now: Instant::now(),
    }
}

pub(crate) fn connection() -> ConnectionInfo {
    ConnectionInfo {
        id: 1,
        start: SystemTime::UNIX_EPOCH,
        listener: "l".into(),
        filter_chain: "c".into(),
        ..ConnectionInfo::between(
            Address::Ip("10.1.2.3:4000".parse().unwrap()),
            Address::Ip("192.168.0.1:8080".parse().unwrap()),
        )
    }
}

pub(crate) fn info(connection: ConnectionInfo) -> StreamInfo {
    let mut info = StreamInfo::new(Arc::new(connection), Protocol::Http11, SystemTime::UNIX_EPOCH, Instant::now());
    info.upstream.cluster = Some("origin".into());
    info
}

pub(crate) fn answer(status: u16, headers: &[(&'static str, &'static str)], chunks: &[&'static str]) -> Origin {
    let mut head = ResponseHead::new(status);
    for (name, value) in headers {
        head.headers.append(*name, value.as_bytes());
    }
    Origin { head, chunks: chunks.to_vec(), trailers: None }
}

impl Proxy {
    pub(crate) fn new(filters: &[HttpFilter]) -> Self {
        Self::with(filters, &[], &KeepStore::default())
    }

    pub(crate) fn with(filters: &[HttpFilter], levels: &[(&str, FilterOverride)], keep: &KeepStore) -> Self {
        Self::of(compile(filters, levels, keep, well()))
    }

    pub(crate) fn of(chain: Chain) -> Self {
        Self { chain, now: Instant::now(), info: info(connection()) }
    }

    /// Sends a request through the chain to an origin and its answer back. Panics on what no test expects.
    pub(crate) async fn exchange(&self, mut request: RequestHead, body: &[&'static str], origin: &Origin) -> Exchange {
        let mut info = self.info.clone();
        let mut run = Run::new(&self.chain);
        let mut sent = BytesMut::new();
        let mut step = run.request(&self.chain, &mut Cx::request(&mut info, self.now), &mut request, body.is_empty());
        let mut held = None;
        let reply = loop {
            let cx = &mut Cx::request(&mut info, self.now);
            step = match step {
                Step::Done => break None,
                Step::Reply(reply) => break Some(reply),
                Step::Reroute => {
                    run.rebase(&self.chain);
                    run.request(&self.chain, cx, &mut request, body.is_empty())
                }
                Step::Wait(wait) => {
                    let verdict = wait.await;
                    run.resume_request(&self.chain, cx, verdict, &mut request, body.is_empty())
                }
                Step::Hold(limit) => {
                    let mut whole = BytesMut::new();
                    for (i, chunk) in body.iter().enumerate() {
                        let mut chunk = Bytes::from_static(chunk.as_bytes());
                        let end = i + 1 == body.len();
                        assert!(matches!(run.request_data(&self.chain, cx, &mut chunk, end), Step::Done));
                        whole.extend_from_slice(&chunk);
                    }
                    if whole.len() > limit {
                        break Some(Box::new(request_too_large()));
                    }
                    let mut whole = whole.freeze();
                    let step = run.request_held(&self.chain, cx, &mut request, &mut whole);
                    held = Some(whole);
                    step
                }
            };
        };
        let mut upstream = None;
        let (head, chunks, trailers) = match reply {
            Some(reply) => from_reply(*reply, &mut info),
            None => {
                let chunks =
                    held.map_or_else(|| body.iter().map(|c| Bytes::from_static(c.as_bytes())).collect(), |h| vec![h]);
                let last = chunks.len().saturating_sub(1);
                for (i, mut chunk) in chunks.into_iter().enumerate() {
                    let cx = &mut Cx::request(&mut info, self.now);
                    assert!(matches!(run.request_data(&self.chain, cx, &mut chunk, i == last), Step::Done));
                    sent.extend_from_slice(&chunk);
                }
                upstream = Some((request.clone(), sent.freeze()));
                let chunks = origin.chunks.iter().map(|c| Bytes::from_static(c.as_bytes())).collect();
                (origin.head.clone(), chunks, origin.trailers.clone())
            }
        };
        self.answer(run, info, request, upstream, (head, chunks, trailers))
    }

    fn answer(
        &self,
        mut run: Run,
        mut info: StreamInfo,
        request: RequestHead,
        upstream: Option<(RequestHead, Bytes)>,
        (mut head, chunks, trailers): (ResponseHead, Vec<Bytes>, Option<Headers>),
    ) -> Exchange {
        let mut body = BytesMut::new();
        let cx = &mut Cx::response(&mut info, self.now, &request);
        let end = chunks.is_empty() && trailers.is_none();
        assert!(matches!(run.response(&self.chain, cx, &mut head, end), Step::Done));
        let last = chunks.len().saturating_sub(1);
        for (i, mut chunk) in chunks.into_iter().enumerate() {
            let end = i == last && trailers.is_none();
            assert!(matches!(run.response_data(&self.chain, cx, &mut chunk, end), Step::Done));
            body.extend_from_slice(&chunk);
        }
        let mut trailers = trailers.map(|mut trailers| {
            let mut rest = Bytes::new();
            assert!(matches!(run.response_data(&self.chain, cx, &mut rest, true), Step::Done));
            body.extend_from_slice(&rest);
            assert!(matches!(run.response_trailers(&self.chain, cx, &mut trailers), Step::Done));
            trailers
        });
        info.status = head.status;
        run.end(&self.chain, &info);
        let pace = run.response_pace();
        let trailers = trailers.take().unwrap_or_default();
        Exchange { upstream, head, body: body.freeze(), trailers, info, pace, counted: counted() }
    }
}

fn from_reply(reply: LocalReply, info: &mut StreamInfo) -> (ResponseHead, Vec<Bytes>, Option<Headers>) {
    info.flags.set(reply.flags);
    info.details = reply.details;
    info.grpc_status = reply.grpc_status;
    let head = ResponseHead { headers: reply.headers, ..ResponseHead::new(reply.status) };
    let chunks = if reply.body.is_empty() { vec![] } else { vec![reply.body] };
    (head, chunks, None)
}
