//! The end of a stream: filters, counters and access log learn how it went.

use std::sync::Arc;

use dp_format::Inputs;
use dp_http::{Headers, ResponseHead};
use dp_observe::stats::HttpStats;
use dp_snapshot::Hcm;
use tokio::time::Instant;

use crate::stream::Stream;

/// What the end needs to know of the way there.
pub(crate) struct Finish {
    /// The head that went down.
    pub(crate) response: Option<ResponseHead>,
    pub(crate) trailers: Option<Headers>,
    stats: Arc<HttpStats>,
    shard: usize,
}

// === impl Finish ===

impl Finish {
    /// Counts the stream in.
    pub(crate) fn begin(hcm: &Hcm, shard: usize) -> Self {
        hcm.stats.downstream_rq_total().inc(shard);
        hcm.stats.downstream_rq_active().inc(shard);
        Self { response: None, trailers: None, stats: Arc::clone(&hcm.stats), shard }
    }
}

impl Drop for Finish {
    fn drop(&mut self) {
        self.stats.downstream_rq_active().dec(self.shard);
    }
}

/// Ends the stream.
pub(crate) fn log(mut stream: Stream<'_>) {
    let now = Instant::now();
    let duration = stream.since_start(now);
    stream.info.duration = Some(duration);
    let sizes = stream.down.sizes();
    stream.info.sizes.response_headers = sizes.head_out;
    let chain = stream.chain().clone();
    stream.filters.end(&chain, &stream.info);
    count(&stream, duration);
    let hcm = &stream.hcm;
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
    let (stats, shard) = (&stream.finish.stats, stream.finish.shard);
    stats.downstream_rq_completed().inc(shard);
    match stream.info.status {
        100..200 => stats.downstream_rq_1xx().inc(shard),
        200..300 => stats.downstream_rq_2xx().inc(shard),
        300..400 => stats.downstream_rq_3xx().inc(shard),
        400..500 => stats.downstream_rq_4xx().inc(shard),
        500..600 => stats.downstream_rq_5xx().inc(shard),
        _ => {}
    }
    stats.downstream_rq_time().record(shard, duration.as_millis() as u64);
}
