//! The end of a stream: filters, counters and access log learn how it went.

use dp_format::Inputs;
use dp_http::flags::Flags;
use dp_http::{Headers, Protocol, ResponseHead};
use dp_observe::stats::HttpStats;
use dp_snapshot::Hcm;
use tokio::time::Instant;

use crate::stream::Stream;

/// What the end needs to know of the way there.
pub(crate) struct Finish<'c> {
    /// The head that went down.
    pub(crate) response: Option<ResponseHead>,
    pub(crate) trailers: Option<Headers>,
    stats: &'c HttpStats,
    shard: usize,
    is_tunnel: bool,
}

// === impl Finish ===

impl<'c> Finish<'c> {
    /// Counts the stream in.
    pub(crate) fn begin(hcm: &'c Hcm, protocol: Protocol, shard: usize) -> Self {
        hcm.stats.downstream_rq_total().inc(shard);
        hcm.stats.downstream_rq_active().inc(shard);
        match protocol {
            Protocol::Http2 => hcm.stats.downstream_rq_http2_total(),
            Protocol::Http10 | Protocol::Http11 => hcm.stats.downstream_rq_http1_total(),
        }
        .inc(shard);
        Self { response: None, trailers: None, stats: &hcm.stats, shard, is_tunnel: false }
    }

    /// The stream is bytes only from here on.
    pub(crate) fn open_tunnel(&mut self) {
        self.is_tunnel = true;
        self.stats.downstream_cx_upgrades_total().inc(self.shard);
        self.stats.downstream_cx_upgrades_active().inc(self.shard);
    }
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.stats.downstream_rq_active().dec(self.shard);
        if self.is_tunnel {
            self.stats.downstream_cx_upgrades_active().dec(self.shard);
        }
    }
}

/// Ends the stream.
pub(crate) fn log(stream: &mut Stream<'_>) {
    let now = Instant::now();
    let duration = stream.since_start(now);
    stream.info.duration = Some(duration);
    let sizes = stream.down.sizes();
    stream.info.sizes.response_headers = sizes.head_out;
    stream.filters.end(stream.rules.chain(), &stream.info);
    count(stream, duration);
    let hcm = &stream.rules.hcm;
    if hcm.access_logs.is_empty() {
        return;
    }
    let inputs = Inputs {
        info: &stream.info,
        request: Some(&stream.request),
        response: stream.finish.response.as_ref(),
        trailers: stream.finish.trailers.as_ref(),
        local_reply_body: "",
    };
    for log in &hcm.access_logs {
        log.log(&inputs, stream.random);
    }
}

fn count(stream: &Stream<'_>, duration: std::time::Duration) {
    let (stats, shard) = (stream.finish.stats, stream.finish.shard);
    stats.downstream_rq_completed().inc(shard);
    stats.count_class(shard, stream.info.status);
    stats.downstream_rq_time().record(shard, duration.as_millis() as u64);
    if let Some(stats) =
        stream.rules.route.as_ref().and_then(|route| route.stats.as_ref()).filter(|_| stream.rules.is_forwarded())
    {
        stats.count(&stream.info, shard);
    }
    let info = &stream.info;
    if info.flags.has(Flags::DOWNSTREAM_CONNECTION_TERMINATION) {
        stats.downstream_rq_rx_reset().inc(shard);
    }
    if stream.reply.ended && !stream.body.complete {
        stats.downstream_rq_response_before_rq_complete().inc(shard);
    }
    // Most requests have nothing to tell beyond their status.
    match &*info.details {
        "via_upstream" | "" => return,
        "request_overall_timeout" => stats.downstream_rq_timeout(),
        "stream_idle_timeout" => stats.downstream_rq_idle_timeout(),
        "request_header_timeout" => stats.downstream_rq_header_timeout(),
        "max_duration_timeout" => stats.downstream_rq_max_duration_reached(),
        "request_payload_too_large" => stats.downstream_rq_too_large(),
        "absolute_path_rejected" => stats.downstream_rq_non_relative_path(),
        "upgrade_failed" => stats.downstream_rq_ws_on_non_ws_route(),
        "path_normalization_failed" if (300..400).contains(&info.status) => {
            stats.downstream_rq_redirected_with_normalized_path()
        }
        "route_not_found" => stats.no_route(),
        "cluster_not_found" => stats.no_cluster(),
        _ => return,
    }
    .inc(shard);
}
