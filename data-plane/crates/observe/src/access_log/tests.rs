//! Whole logs: configuration in, lines in a file out.

use std::time::Duration;

use dp_http::{RequestHead, StreamInfo};
use serde_json::json;

use super::filter::testing::{info, request};
use super::*;
use crate::stats::FileStats;

fn lines(
    format: Option<SubstitutionFormat>,
    filter: Option<config::AccessLogFilter>,
    streams: &[StreamInfo],
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let sink = config::Sink::File(path.to_str().unwrap().to_owned());
    let config = config::AccessLog { name: "file".into(), filter, sink, format };
    let writer = LogWriter::start(Arc::new(FileStats::new(1))).unwrap();
    let log = AccessLog::compile(&config, &writer).unwrap();
    let head: RequestHead = request();
    streams.iter().for_each(|info| log.log(&Inputs::request(info, &head), 0));
    writer::flush();
    assert!(writer.sync(Duration::from_secs(20)));
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn the_default_line_is_envoys() {
    let line = lines(None, None, &[info(200)]);
    assert!(line.starts_with("[1970-01-01T00:00:00.000Z] \"GET /a?b HTTP/1.1\" 200 - 0 0 "), "{line}");
    assert!(line.ends_with("\"-\" \"-\" \"-\" \"example.com\" \"-\"\n"), "{line}");
}

#[test]
fn a_json_log_has_one_object_a_line() {
    let format =
        SubstitutionFormat::of(Template::Json(json!({ "code": "%RESPONSE_CODE%", "method": "%REQ(:METHOD)%" })));
    assert_eq!(
        lines(Some(format), None, &[info(200), info(503)]),
        "{\"code\":200,\"method\":\"GET\"}\n{\"code\":503,\"method\":\"GET\"}\n"
    );
}

#[test]
fn a_filter_leaves_lines_out() {
    let format = SubstitutionFormat::of(Template::Text("%RESPONSE_CODE%\n".into()));
    let value = shared_config::core::RuntimeNumber { default: 500, key: String::new() };
    let errors =
        config::AccessLogFilter::StatusCode(config::Comparison { op: config::CompareOp::GreaterOrEqual, value });
    assert_eq!(lines(Some(format), Some(errors), &[info(200), info(503), info(404)]), "503\n");
}

#[test]
fn a_wrong_format_and_a_file_that_cannot_be_opened_are_refused() {
    let writer = LogWriter::start(Arc::new(FileStats::new(1))).unwrap();
    let compile = |text: &str, path: &str| {
        let format = Some(SubstitutionFormat::of(Template::Text(text.into())));
        let sink = config::Sink::File(path.into());
        AccessLog::compile(&config::AccessLog { name: String::new(), filter: None, sink, format }, &writer).map(|_| ())
    };
    assert!(matches!(compile("%NO_SUCH_OPERATOR%", "/dev/null"), Err(AccessLogError::Format(_))));
    let error = compile("x", "/nonexistent/a.log").unwrap_err().to_string();
    assert!(error.starts_with("cannot open /nonexistent/a.log for appending: "), "{error}");
}
