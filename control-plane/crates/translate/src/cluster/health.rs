//! Active checks and outlier detection, in Envoy's words.

use cp_model::cluster::health::{HttpProbe, SuccessRate};
use cp_model::cluster::{HealthCheck, HealthProbe, Outlier};
use serde_json::{Value, json};

use crate::build::{duration, extension, set, set_list};
use crate::route::header_options;

pub(super) fn check(check: &HealthCheck) -> Value {
    let mut value = json!({
        "timeout": duration(check.timeout),
        "interval": duration(check.interval),
        "unhealthy_threshold": check.unhealthy,
        "healthy_threshold": check.healthy,
    });
    set(&mut value, "interval_jitter", check.jitter.map(duration));
    set(&mut value, "no_traffic_interval", check.no_traffic_interval.map(duration));
    set(&mut value, "unhealthy_interval", check.unhealthy_interval.map(duration));
    set(&mut value, "reuse_connection", (!check.reuse).then_some(false));
    if let Some(path) = &check.event_log {
        value["event_logger"] = json!([extension(
            "envoy.health_check.event_sinks.file",
            "envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink",
            json!({ "event_log_path": path }),
        )]);
    }
    match &check.probe {
        HealthProbe::Http(probe) => value["http_health_check"] = http(probe),
        HealthProbe::Tcp { send, expect } => {
            let mut tcp = json!({});
            set(&mut tcp, "send", send.as_deref().map(payload));
            set_list(&mut tcp, "receive", expect.iter().map(|bytes| payload(bytes)).collect());
            value["tcp_health_check"] = tcp;
        }
        HealthProbe::Grpc { service, authority } => {
            let mut grpc = json!({});
            set(&mut grpc, "service_name", (!service.is_empty()).then_some(service.as_str()));
            set(&mut grpc, "authority", authority.as_deref());
            value["grpc_health_check"] = grpc;
        }
    }
    value
}

/// Envoy takes payloads as hexadecimal text.
fn payload(bytes: &[u8]) -> Value {
    json!({ "text": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() })
}

fn http(probe: &HttpProbe) -> Value {
    let ranges = |list: &[(u32, u32)]| list.iter().map(|(start, end)| json!({ "start": start, "end": end })).collect();
    let mut http = json!({ "path": probe.path });
    set(&mut http, "host", probe.host.as_deref());
    set(&mut http, "method", probe.method.as_deref());
    set_list(&mut http, "expected_statuses", ranges(&probe.statuses));
    set_list(&mut http, "retriable_statuses", ranges(&probe.retriable));
    set_list(&mut http, "request_headers_to_add", header_options(&probe.headers));
    let removed = probe.headers.remove.iter().map(|name| name.as_str().into()).collect();
    set_list(&mut http, "request_headers_to_remove", removed);
    set_list(&mut http, "receive", probe.expect.iter().map(|bytes| payload(bytes)).collect());
    set(&mut http, "codec_client_type", probe.http2.then_some("HTTP2"));
    http
}

pub(super) fn outlier(outlier: &Outlier) -> Value {
    let mut value = json!({});
    consecutive(&mut value, "consecutive_5xx", outlier.consecutive_5xx, false);
    // Envoy counts gateway errors and ejects nothing for them unless told to.
    consecutive(&mut value, "consecutive_gateway_failure", outlier.consecutive_gateway_errors, true);
    if outlier.consecutive_local_errors.is_some() {
        value["split_external_local_origin_errors"] = true.into();
    }
    consecutive(&mut value, "consecutive_local_origin_failure", outlier.consecutive_local_errors, false);
    set(&mut value, "interval", outlier.interval.map(duration));
    set(&mut value, "base_ejection_time", outlier.eject.map(duration));
    set(&mut value, "max_ejection_time", outlier.max_eject.map(duration));
    set(&mut value, "max_ejection_time_jitter", outlier.jitter.map(duration));
    set(&mut value, "max_ejection_percent", outlier.max_ejected);
    set(&mut value, "always_eject_one_host", outlier.always_one.then_some(true));
    match &outlier.success_rate {
        None => (),
        Some(SuccessRate::Off) => {
            value["enforcing_success_rate"] = 0.into();
            value["enforcing_local_origin_success_rate"] = 0.into();
        }
        Some(SuccessRate::On { factor, min_endpoints, min_requests }) => {
            value["enforcing_success_rate"] = 100.into();
            set(&mut value, "success_rate_stdev_factor", factor.map(|f| f.0));
            set(&mut value, "success_rate_minimum_hosts", *min_endpoints);
            set(&mut value, "success_rate_request_volume", *min_requests);
        }
    }
    if let Some(failures) = &outlier.failure_percentage {
        value["enforcing_failure_percentage"] = 100.into();
        value["failure_percentage_threshold"] = failures.threshold.into();
        set(&mut value, "failure_percentage_minimum_hosts", failures.min_endpoints);
        set(&mut value, "failure_percentage_request_volume", failures.min_requests);
    }
    value
}

/// A number of errors in a row; 0 ejects nothing for them.
fn consecutive(value: &mut Value, key: &str, number: Option<u32>, enforce: bool) {
    match number {
        None => (),
        Some(0) => value[format!("enforcing_{key}")] = 0.into(),
        Some(number) => {
            value[key] = number.into();
            set(value, &format!("enforcing_{key}"), enforce.then_some(100));
        }
    }
}
