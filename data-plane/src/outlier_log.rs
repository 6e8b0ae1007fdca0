//! The log of outlier detection: one `envoy.data.cluster.v3.OutlierDetectionEvent` as JSON a line.

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use dp_observe::access_log::writer::{LogOutput, LogWriter, Place, flush};
use dp_upstream::outlier::{Action, Event, EventSink, Reason};
use serde_json::{Map, Value, json};

use crate::process::StartError;

/// Writes events to a file, through the writer of the access logs.
pub(crate) struct OutlierLog(LogOutput);

impl OutlierLog {
    pub(crate) fn open(path: &str, logs: &LogWriter) -> Result<Arc<Self>, StartError> {
        let refused = |source| StartError::OutlierLog { path: path.to_owned(), source };
        let output = logs.open(&Place::File(path.into())).map_err(refused)?;
        Ok(Arc::new(Self(output)))
    }
}

impl EventSink for OutlierLog {
    fn outlier(&self, event: &Event<'_>) {
        let line = Value::Object(fields(event, SystemTime::now()));
        // Writing to a String cannot fail.
        self.0.line(|text| {
            let _ = writeln!(text, "{line}");
        });
        // Events are rare, and should not wait for others to fill a buffer.
        flush();
    }
}

/// Field names, and which fields are always there, as in Envoy's log.
fn fields(event: &Event<'_>, now: SystemTime) -> Map<String, Value> {
    let (reason, action, enforced, rates) = match event.action {
        Action::Eject { reason, enforced, rates } => (reason, "EJECT", enforced, rates),
        // The first value of the enumeration stands for none.
        Action::Uneject => (Reason::Consecutive5xx, "UNEJECT", false, None),
    };
    let mut fields = Map::new();
    let mut put = |name: &str, value| fields.insert(name.to_owned(), value);
    put("type", reason.as_str().into());
    put("timestamp", humantime::format_rfc3339_millis(now).to_string().into());
    if let Some(since) = event.since_last {
        // A 64-bit number is a string in the JSON of protobuf.
        put("secs_since_last_action", since.as_secs().to_string().into());
    }
    put("cluster_name", event.cluster.into());
    put("upstream_url", event.address.to_string().into());
    put("action", action.into());
    put("num_ejections", event.ejections.into());
    put("enforced", enforced.into());
    if action == "UNEJECT" {
        return fields;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a percentage")]
    let percent = |rate: f64| rate.max(0.0) as u32;
    match (reason, rates) {
        (Reason::SuccessRate | Reason::SuccessRateLocal, Some(rates)) => put(
            "eject_success_rate_event",
            json!({
                "host_success_rate": percent(rates.endpoint),
                "cluster_average_success_rate": percent(rates.average),
                "cluster_success_rate_ejection_threshold": percent(rates.threshold),
            }),
        ),
        (Reason::FailurePercentage | Reason::FailurePercentageLocal, Some(rates)) => {
            put("eject_failure_percentage_event", json!({ "host_success_rate": percent(rates.endpoint) }))
        }
        _ => put("eject_consecutive_event", json!({})),
    };
    fields
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dp_http::info::Address;
    use dp_upstream::outlier::event::Rates;

    use super::*;

    #[track_caller]
    fn check(action: Action, since_last: Option<Duration>, wanted: Value) {
        let address = Address::Ip(([10, 0, 0, 1], 80).into());
        let event = Event { cluster: "c", address: &address, action, ejections: 2, since_last };
        assert_eq!(Value::Object(fields(&event, SystemTime::UNIX_EPOCH)), wanted);
    }

    #[test]
    fn events_have_the_form_of_envoy() {
        let eject = |reason, enforced, rates| Action::Eject { reason, enforced, rates };
        check(
            eject(Reason::ConsecutiveGateway, false, None),
            None,
            json!({
                "type": "CONSECUTIVE_GATEWAY_FAILURE", "timestamp": "1970-01-01T00:00:00.000Z", "cluster_name": "c",
                "upstream_url": "10.0.0.1:80", "action": "EJECT", "num_ejections": 2, "enforced": false,
                "eject_consecutive_event": {},
            }),
        );
        let rates = Rates { endpoint: 50.5, average: 90.0, threshold: 52.0 };
        check(
            eject(Reason::SuccessRate, true, Some(rates)),
            Some(Duration::from_secs(7)),
            json!({
                "type": "SUCCESS_RATE", "timestamp": "1970-01-01T00:00:00.000Z", "secs_since_last_action": "7",
                "cluster_name": "c", "upstream_url": "10.0.0.1:80", "action": "EJECT", "num_ejections": 2,
                "enforced": true,
                "eject_success_rate_event": {
                    "host_success_rate": 50, "cluster_average_success_rate": 90,
                    "cluster_success_rate_ejection_threshold": 52,
                },
            }),
        );
        check(
            Action::Uneject,
            Some(Duration::from_secs(30)),
            json!({
                "type": "CONSECUTIVE_5XX", "timestamp": "1970-01-01T00:00:00.000Z", "secs_since_last_action": "30",
                "cluster_name": "c", "upstream_url": "10.0.0.1:80", "action": "UNEJECT", "num_ejections": 2,
                "enforced": false,
            }),
        );
    }
}
