//! The blocks of statistics of listeners, connections and the process, by Envoy's names.
//!
//! Only names: who counts is the spine, who shows is the registry.

use dp_http::StreamInfo;
use dp_http::flags::Flags;
use shared_telemetry::{Scope, stats};

stats! {
    /// `http.STAT_PREFIX.`: one HTTP connection manager.
    pub struct HttpStats {
        counter downstream_cx_total,
        gauge downstream_cx_active,
        counter downstream_cx_destroy,
        counter downstream_cx_destroy_local,
        counter downstream_cx_destroy_remote,
        counter downstream_cx_drain_close,
        counter downstream_cx_idle_timeout,
        counter downstream_cx_max_duration_reached,
        counter downstream_cx_max_requests_reached,
        counter downstream_cx_protocol_error,
        counter downstream_cx_http1_total,
        gauge downstream_cx_http1_active,
        counter downstream_cx_http2_total,
        gauge downstream_cx_http2_active,
        counter downstream_cx_ssl_total,
        gauge downstream_cx_ssl_active,
        counter downstream_cx_upgrades_total,
        gauge downstream_cx_upgrades_active,
        counter downstream_cx_rx_bytes_total,
        counter downstream_cx_tx_bytes_total,
        histogram downstream_cx_length_ms,
        counter downstream_rq_total,
        gauge downstream_rq_active,
        counter downstream_rq_http1_total,
        counter downstream_rq_http2_total,
        counter downstream_rq_completed,
        counter downstream_rq_1xx,
        counter downstream_rq_2xx,
        counter downstream_rq_3xx,
        counter downstream_rq_4xx,
        counter downstream_rq_5xx,
        counter downstream_rq_rx_reset,
        counter downstream_rq_tx_reset,
        counter downstream_rq_timeout,
        counter downstream_rq_idle_timeout,
        counter downstream_rq_header_timeout,
        counter downstream_rq_max_duration_reached,
        counter downstream_rq_too_large,
        counter downstream_rq_too_many_premature_resets,
        counter downstream_rq_non_relative_path,
        counter downstream_rq_ws_on_non_ws_route,
        counter downstream_rq_redirected_with_normalized_path,
        counter downstream_rq_response_before_rq_complete,
        histogram downstream_rq_time,
        counter rq_total,
        counter no_route,
        counter no_cluster,
        counter rq_redirect,
        counter rq_direct_response,
        counter rq_reset_after_downstream_response_started,
    }
}

stats! {
    /// `vhost.NAME.route.STAT_PREFIX.`: a route that asks for statistics of its own.
    pub struct RouteStats {
        counter upstream_rq_total,
        counter upstream_rq_completed,
        codes upstream_rq,
        counter upstream_rq_1xx,
        counter upstream_rq_2xx,
        counter upstream_rq_3xx,
        counter upstream_rq_4xx,
        counter upstream_rq_5xx,
        histogram upstream_rq_time,
        counter upstream_rq_timeout,
        counter upstream_rq_retry,
        counter upstream_rq_retry_limit_exceeded,
        counter upstream_rq_retry_success,
    }
}

stats! {
    /// `listener.ADDRESS.`
    pub struct ListenerStats {
        counter downstream_cx_total,
        gauge downstream_cx_active,
        counter downstream_cx_destroy,
        counter downstream_cx_overflow,
        counter downstream_global_cx_overflow,
        counter downstream_cx_overload_reject,
        gauge downstream_pre_cx_active,
        counter downstream_pre_cx_timeout,
        counter downstream_listener_filter_error,
        counter downstream_listener_filter_remote_close,
        counter no_filter_chain_match,
        counter downstream_rx_datagram_dropped,
        histogram downstream_cx_length_ms,
    }
}

stats! {
    /// `http_inspector.`: the first lines of plain connections of all listeners.
    pub struct HttpInspectorStats {
        counter http10_found,
        counter http11_found,
        counter http2_found,
        counter http_not_found,
    }
}

stats! {
    /// `tls_inspector.`: the ClientHellos of all listeners.
    pub struct TlsInspectorStats {
        counter client_hello_too_large,
        counter tls_found,
        counter tls_not_found,
        counter alpn_found,
        counter alpn_not_found,
        counter sni_found,
        counter sni_not_found,
    }
}

stats! {
    /// `proxy_proto.` or `proxy_proto.STAT_PREFIX.`: PROXY protocol headers that were not there.
    pub struct ProxyProtocolStats {
        counter not_found_allowed,
        counter not_found_disallowed,
    }
}

stats! {
    /// `proxy_proto.….versions.v1.` and `….v2.`: PROXY protocol headers of one version.
    pub struct ProxyProtocolVersionStats {
        counter found,
        counter disallowed,
        counter error,
    }
}

stats! {
    /// `udp.STAT_PREFIX.`: one UDP proxy.
    pub struct UdpStats {
        counter downstream_sess_no_route,
        counter downstream_sess_rx_bytes,
        counter downstream_sess_rx_datagrams,
        counter downstream_sess_rx_errors,
        counter downstream_sess_total,
        counter downstream_sess_tx_bytes,
        counter downstream_sess_tx_datagrams,
        counter downstream_sess_tx_errors,
        counter idle_timeout,
        gauge downstream_sess_active,
    }
}

stats! {
    /// `tcp.STAT_PREFIX.`: one TCP proxy.
    pub struct TcpStats {
        counter downstream_cx_total,
        counter downstream_cx_no_route,
        counter downstream_cx_rx_bytes_total,
        counter downstream_cx_tx_bytes_total,
        counter idle_timeout,
        counter max_downstream_connection_duration,
    }
}

stats! {
    /// `listener_manager.`
    pub struct ListenerManagerStats {
        counter listener_added,
        counter listener_modified,
        counter listener_removed,
        gauge total_listeners_active,
        gauge total_listeners_warming,
    }
}

stats! {
    /// `cluster_manager.`
    pub struct ClusterManagerStats {
        counter cluster_added,
        counter cluster_modified,
        counter cluster_removed,
        gauge active_clusters,
        gauge warming_clusters,
    }
}

stats! {
    /// `filesystem.`: the writer of the access logs. `write_dropped` counts lines thrown away because the disk did not
    /// keep up.
    pub struct FileStats {
        counter write_completed,
        counter write_failed,

        counter write_dropped,
        counter reopen_failed,
    }
}

// === impl RouteStats ===

impl RouteStats {
    pub fn scope(virtual_host: &str, stat_prefix: &str) -> Scope {
        Scope::new(&format!("vhost.{virtual_host}.route.{stat_prefix}"), "vhost_route")
            .label("envoy_virtual_host", virtual_host)
            .label("envoy_route", stat_prefix)
    }

    /// Counts a request that was sent on, when it is over.
    pub fn count(&self, info: &StreamInfo, shard: usize) {
        self.upstream_rq_total().inc(shard);
        self.upstream_rq_completed().inc(shard);
        self.upstream_rq().inc(shard, info.status);
        match info.status / 100 {
            1 => self.upstream_rq_1xx().inc(shard),
            2 => self.upstream_rq_2xx().inc(shard),
            3 => self.upstream_rq_3xx().inc(shard),
            4 => self.upstream_rq_4xx().inc(shard),
            5 => self.upstream_rq_5xx().inc(shard),
            _ => {}
        }
        if let Some(duration) = info.duration {
            self.upstream_rq_time().record(shard, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        }
        if info.flags.has(Flags::UPSTREAM_REQUEST_TIMEOUT) {
            self.upstream_rq_timeout().inc(shard);
        }
        let retries = u64::from(info.upstream.attempts.saturating_sub(1));
        self.upstream_rq_retry().add(shard, retries);
        if info.flags.has(Flags::UPSTREAM_RETRY_LIMIT_EXCEEDED) {
            self.upstream_rq_retry_limit_exceeded().inc(shard);
        } else if retries > 0 && info.status < 500 {
            self.upstream_rq_retry_success().inc(shard);
        }
    }
}

// === impl HttpStats ===

impl HttpStats {
    /// Counts a finished response by its class.
    pub fn count_class(&self, shard: usize, status: u16) {
        match status / 100 {
            1 => self.downstream_rq_1xx().inc(shard),
            2 => self.downstream_rq_2xx().inc(shard),
            3 => self.downstream_rq_3xx().inc(shard),
            4 => self.downstream_rq_4xx().inc(shard),
            5 => self.downstream_rq_5xx().inc(shard),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use shared_telemetry::{Registry, Selection};

    use super::*;

    #[test]
    fn a_response_counts_in_its_class_by_envoys_name() {
        let registry = Registry::new(2);
        let stats = HttpStats::register(&registry, Scope::http("ingress"));
        for status in [200, 204, 503, 999] {
            stats.count_class(1, status);
        }
        let mut text = String::new();
        let used = Selection { used_only: true, ..Selection::default() };
        registry.write_text(&used, &mut text).unwrap();
        assert_eq!(text, "http.ingress.downstream_rq_2xx: 2\nhttp.ingress.downstream_rq_5xx: 1\n");
    }
}
