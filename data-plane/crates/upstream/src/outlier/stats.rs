//! What outlier detection counts, by Envoy's names.

use super::Reason;

shared_telemetry::stats! {
    /// Statistics of one cluster: `cluster.NAME.outlier_detection.…`.
    pub struct OutlierStats {
        gauge ejections_active = "outlier_detection.ejections_active",
        counter ejections_enforced_total = "outlier_detection.ejections_enforced_total",
        counter ejections_overflow = "outlier_detection.ejections_overflow",
        counter ejections_total = "outlier_detection.ejections_total",
        counter ejections_consecutive_5xx = "outlier_detection.ejections_consecutive_5xx",
        counter ejections_success_rate = "outlier_detection.ejections_success_rate",
        counter detected_degradation = "outlier_detection.ejections_detected_degradation",
        counter detected_5xx = "outlier_detection.ejections_detected_consecutive_5xx",
        counter enforced_5xx = "outlier_detection.ejections_enforced_consecutive_5xx",
        counter detected_gateway = "outlier_detection.ejections_detected_consecutive_gateway_failure",
        counter enforced_gateway = "outlier_detection.ejections_enforced_consecutive_gateway_failure",
        counter detected_local = "outlier_detection.ejections_detected_consecutive_local_origin_failure",
        counter enforced_local = "outlier_detection.ejections_enforced_consecutive_local_origin_failure",
        counter detected_rate = "outlier_detection.ejections_detected_success_rate",
        counter enforced_rate = "outlier_detection.ejections_enforced_success_rate",
        counter detected_local_rate = "outlier_detection.ejections_detected_local_origin_success_rate",
        counter enforced_local_rate = "outlier_detection.ejections_enforced_local_origin_success_rate",
        counter detected_percentage = "outlier_detection.ejections_detected_failure_percentage",
        counter enforced_percentage = "outlier_detection.ejections_enforced_failure_percentage",
        counter detected_local_percentage = "outlier_detection.ejections_detected_local_origin_failure_percentage",
        counter enforced_local_percentage = "outlier_detection.ejections_enforced_local_origin_failure_percentage",
    }
}

// === impl OutlierStats ===

impl OutlierStats {
    pub(super) fn detected(&self, reason: Reason, shard: usize) {
        match reason {
            Reason::Consecutive5xx => self.detected_5xx(),
            Reason::ConsecutiveGateway => self.detected_gateway(),
            Reason::ConsecutiveLocal => self.detected_local(),
            Reason::SuccessRate => self.detected_rate(),
            Reason::SuccessRateLocal => self.detected_local_rate(),
            Reason::FailurePercentage => self.detected_percentage(),
            Reason::FailurePercentageLocal => self.detected_local_percentage(),
        }
        .inc(shard);
    }

    pub(super) fn enforced(&self, reason: Reason, shard: usize) {
        self.ejections_enforced_total().inc(shard);
        match reason {
            Reason::Consecutive5xx => self.enforced_5xx(),
            Reason::ConsecutiveGateway => self.enforced_gateway(),
            Reason::ConsecutiveLocal => self.enforced_local(),
            Reason::SuccessRate => self.enforced_rate(),
            Reason::SuccessRateLocal => self.enforced_local_rate(),
            Reason::FailurePercentage => self.enforced_percentage(),
            Reason::FailurePercentageLocal => self.enforced_local_percentage(),
        }
        .inc(shard);
    }
}
