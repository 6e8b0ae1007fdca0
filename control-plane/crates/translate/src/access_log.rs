//! Access logs of listeners.

use cp_model::listener::{AccessLog, LogSink};
use serde_json::{Value, json};

use crate::build::extension;

/// One JSON object a request, with the fields of Envoy's own examples.
const FIELDS: &[(&str, &str)] = &[
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("route_name", "%ROUTE_NAME%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
];

pub(crate) fn access_logs(log: Option<&AccessLog>) -> Vec<Value> {
    let Some(log) = log else { return Vec::new() };
    let mut fields = json!({});
    if log.json {
        let format: serde_json::Map<String, Value> = FIELDS.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        fields["log_format"] = json!({ "json_format": format });
    }
    vec![match &log.sink {
        LogSink::Stdout => extension(
            "envoy.access_loggers.stdout",
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            fields,
        ),
        LogSink::File(path) => {
            fields["path"] = path.as_str().into();
            extension("envoy.access_loggers.file", "envoy.extensions.access_loggers.file.v3.FileAccessLog", fields)
        }
    }]
}
