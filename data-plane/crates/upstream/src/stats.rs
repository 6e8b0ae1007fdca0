//! What a cluster counts, by Envoy's names.

shared_telemetry::stats! {
    /// What clusters with subsets or zone-aware routing count besides: `cluster.NAME.…`.
    pub struct LbStats {
        gauge lb_subsets_active,
        counter lb_subsets_created,
        counter lb_subsets_removed,
        counter lb_subsets_selected,
        counter lb_subsets_fallback,
        counter lb_subsets_fallback_panic,
        gauge lb_subsets_single_host_per_subset_duplicate,
        counter lb_recalculate_zone_structures,
        counter lb_zone_routing_all_directly,
        counter lb_zone_routing_sampled,
        counter lb_zone_routing_cross_zone,
        counter lb_zone_no_capacity_left,
        counter lb_zone_cluster_too_small,
        counter lb_local_cluster_not_ok,
    }
}

shared_telemetry::stats! {
    /// What a cluster counts of UDP sessions: `cluster.NAME.udp.…`.
    pub struct ClusterUdpStats {
        counter sess_rx_datagrams,
        counter sess_rx_datagrams_dropped,
        counter sess_rx_errors,
        counter sess_tx_datagrams,
        counter sess_tx_errors,
    }
}

shared_telemetry::stats! {
    /// Statistics of one cluster: `cluster.NAME.…`.
    pub struct ClusterStats {
        counter upstream_cx_total,
        counter upstream_cx_http1_total,
        counter upstream_cx_http2_total,
        gauge upstream_cx_active,
        counter upstream_cx_connect_fail,
        counter upstream_cx_connect_timeout,
        counter upstream_cx_connect_attempts_exceeded,
        counter upstream_cx_destroy,
        counter upstream_cx_idle_timeout,
        counter upstream_cx_max_requests,
        counter upstream_cx_max_duration_reached,
        counter upstream_cx_none_healthy,
        counter upstream_cx_overflow,
        counter upstream_cx_pool_overflow,
        counter upstream_cx_protocol_error,
        counter upstream_cx_rx_bytes_total,
        counter upstream_cx_tx_bytes_total,
        histogram upstream_cx_connect_ms,
        histogram upstream_cx_length_ms,
        counter upstream_rq_total,
        gauge upstream_rq_active,
        counter upstream_rq_completed,
        codes upstream_rq,
        counter upstream_rq_1xx,
        counter upstream_rq_2xx,
        counter upstream_rq_3xx,
        counter upstream_rq_4xx,
        counter upstream_rq_5xx,
        histogram upstream_rq_time,
        counter upstream_rq_pending_total,
        gauge upstream_rq_pending_active,
        counter upstream_rq_pending_overflow,
        counter upstream_rq_pending_failure_eject,
        counter upstream_rq_cancelled,
        counter upstream_rq_timeout,
        counter upstream_rq_max_duration_reached,
        counter upstream_rq_per_try_timeout,
        counter upstream_rq_per_try_idle_timeout,
        counter upstream_rq_rx_reset,
        counter upstream_rq_tx_reset,
        counter upstream_rq_retry,
        counter upstream_rq_retry_backoff_exponential,
        counter upstream_rq_retry_backoff_ratelimited,
        counter upstream_rq_retry_limit_exceeded,
        counter upstream_rq_retry_success,
        counter upstream_rq_retry_overflow,
        codes retry_upstream_rq = "retry.upstream_rq",
        counter retry_upstream_rq_2xx = "retry.upstream_rq_2xx",
        counter retry_upstream_rq_3xx = "retry.upstream_rq_3xx",
        counter retry_upstream_rq_4xx = "retry.upstream_rq_4xx",
        counter retry_upstream_rq_5xx = "retry.upstream_rq_5xx",
        counter retry_upstream_rq_completed = "retry.upstream_rq_completed",
        counter upstream_rq_drop_overload,
        counter retry_or_shadow_abandoned,
        counter bind_errors,
        counter lb_healthy_panic,
        counter membership_change,
        gauge membership_total,
        gauge membership_healthy,
        gauge membership_degraded,
        gauge membership_excluded,
        gauge max_host_weight,
        counter update_attempt,
        counter update_success,
        counter update_failure,
        counter update_empty,
        counter update_no_rebuild,
        counter assignment_stale,
        counter original_dst_host_invalid,
    }
}

shared_telemetry::stats! {
    /// What is counted of reports that endpoints are asked for: `cluster.NAME.lb_orca_oob.…`.
    pub struct OrcaStats {
        counter reports_received,
        counter report_errors,
        counter stream_failures,
        counter stream_terminated,
        gauge active_sessions,
    }
}

shared_telemetry::stats! {
    /// Statistics of the active health checks of one cluster: `cluster.NAME.health_check.…`.
    pub struct HealthCheckStats {
        counter attempt = "health_check.attempt",
        counter success = "health_check.success",
        counter failure = "health_check.failure",
        counter passive_failure = "health_check.passive_failure",
        counter network_failure = "health_check.network_failure",
        counter verify_cluster = "health_check.verify_cluster",
        gauge healthy = "health_check.healthy",
        gauge degraded = "health_check.degraded",
    }
}
