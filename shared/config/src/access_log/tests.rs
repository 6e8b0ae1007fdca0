//! Access logs: sinks, filters and what is refused.

use super::*;

fn read(yaml: &str) -> Result<AccessLog, String> {
    let proto: pb::AccessLog = proto::json::from_yaml(yaml).unwrap();
    let mut p = Problems::default();
    let log = decode(&proto, &mut p);
    p.finish(log).map_err(|invalid| invalid.to_string())
}

const STDOUT: &str = "typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3\
    .StdoutAccessLog}";

#[test]
fn files_and_streams_are_sinks() {
    let file = |fields: &str| {
        read(&format!(
            "{{name: f, typed_config: {{'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3\
             .FileAccessLog, {fields}}}}}"
        ))
    };
    let log = file("path: /var/log/x, log_format: {text_format_source: {inline_string: '%PROTOCOL%'}}").unwrap();
    assert_eq!(log.sink, Sink::File("/var/log/x".into()));
    assert_eq!(log.format.unwrap().template, Template::Text("%PROTOCOL%".into()));
    let log = file("path: /dev/stdout, typed_json_format: {b: 1, a: '%UPSTREAM_HOST%'}").unwrap();
    assert_eq!(log.sink, Sink::Stdout);
    assert!(matches!(log.format.unwrap().template, Template::Json(_)));
    assert_eq!(file("path: ''").unwrap_err(), "typed_config.path: must not be empty");
    assert_eq!(read(&format!("{{{STDOUT}}}")).unwrap().format, None);
}

#[test]
fn another_logger_is_refused_by_name() {
    let error = read(
        "{name: g, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.grpc.v3\
         .HttpGrpcAccessLogConfig}}",
    )
    .unwrap_err();
    assert_eq!(
        error,
        "typed_config: access logger envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig is not \
         implemented by weir-proxy"
    );
}

#[test]
fn filters_nest() {
    let log = read(&format!(
        "{{{STDOUT}, filter: {{or_filter: {{filters: [{{status_code_filter: {{comparison: {{op: GE, value: \
         {{default_value: 500, runtime_key: k}}}}}}}}, {{and_filter: {{filters: [{{not_health_check_filter: {{}}}}, \
         {{response_flag_filter: {{flags: [UH]}}}}]}}}}]}}}}}}"
    ))
    .unwrap();
    let Some(AccessLogFilter::Or(filters)) = log.filter else { panic!() };
    assert!(matches!(&filters[0], AccessLogFilter::StatusCode(c) if c.holds(500, 500) && !c.holds(499, 500)));
    assert!(matches!(&filters[1], AccessLogFilter::And(inner) if inner.len() == 2));
}

#[test]
fn wrong_filters_are_refused_with_their_place() {
    let check = |filter: &str, wanted: &str| {
        assert_eq!(read(&format!("{{{STDOUT}, filter: {filter}}}")).unwrap_err(), wanted);
    };
    check(
        "{response_flag_filter: {flags: [XX]}}",
        "filter.response_flag_filter.flags[0]: \"XX\" is not a response flag",
    );
    check(
        "{and_filter: {filters: [{not_health_check_filter: {}}]}}",
        "filter.and_filter.filters: at least 2 are required",
    );
    check("{traceable_filter: {}}", "filter.traceable_filter: not implemented by weir-proxy");
}
