//! What the compressor counts, by Envoy's names.

use std::sync::Arc;

use shared_config::http_filter::compressor::Config;
use shared_telemetry::stats;

use super::negotiate::Why;
use crate::services::Scope;

stats! {
    /// `http.STAT_PREFIX.compressor.NAME.LIBRARY.`, then `request.` or `response.`
    pub(super) struct DirectionStats {
        counter compressed,
        counter not_compressed,
        counter total_uncompressed_bytes,
        counter total_compressed_bytes,
        counter content_length_too_small,
    }
}

stats! {
    /// In the same place, for responses only.
    pub(super) struct ResponseStats {
        counter no_accept_header,
        counter header_identity,
        counter header_compressor_used,
        counter header_compressor_overshadowed,
        counter header_wildcard,
        counter header_not_valid,
        counter not_compressed_etag,
    }
}

/// The counters of one filter.
pub(super) struct Counters {
    pub(super) request: Option<Arc<DirectionStats>>,
    pub(super) response: Arc<DirectionStats>,
    pub(super) response_only: Arc<ResponseStats>,
}

// === impl Counters ===

impl Counters {
    pub(super) fn register(config: &Config, scope: &Scope<'_>) -> Self {
        let mut all = scope.stats("compressor");
        if !config.library_name.is_empty() {
            all = all.child(&config.library_name);
        }
        let all = all.child(config.library.stat_name());
        let response = if config.response_stats { all.child("response") } else { all.clone() };
        let request = || DirectionStats::register(scope.registry(), all.child("request"));
        Self {
            request: config.request.as_ref().map(|_| request()),
            response: DirectionStats::register(scope.registry(), response.clone()),
            response_only: ResponseStats::register(scope.registry(), response),
        }
    }
}

// === impl ResponseStats ===

impl ResponseStats {
    /// Counts why an encoding was chosen, which is ours or not.
    pub(super) fn count(&self, why: Why, is_ours: bool, shard: usize) {
        match why {
            Why::Named if is_ours => self.header_compressor_used(),
            Why::Named => self.header_compressor_overshadowed(),
            Why::Identity => self.header_identity(),
            Why::Star => self.header_wildcard(),
            Why::Nothing => self.header_not_valid(),
        }
        .inc(shard);
    }
}
