//! Access logs: where lines go, in what format, and which requests or connections get one.
//!
//! File, stdout and stderr; every other logger is refused by name.

use proto::envoy::config::accesslog::v3 as pb;
use proto::envoy::extensions::access_loggers::{file::v3 as pb_file, stream::v3 as pb_stream};

use crate::core::{extension, unpack};
use crate::invalid::Problems;
use crate::substitution::{SubstitutionFormat, Template};

mod filter;

pub(crate) use filter::decode as decode_filter;
pub use filter::{AccessLogFilter, CompareOp, Comparison};

/// One log.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// Its name in the configuration.
    pub name: String,
    /// Which requests get a line; all without one.
    pub filter: Option<AccessLogFilter>,
    /// Where lines go.
    pub sink: Sink,
    /// How a line looks; Envoy's default line without one.
    pub format: Option<SubstitutionFormat>,
}

/// Where the lines of a log go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sink {
    /// A file, opened for appending; `/dev/stdout` and `/dev/stderr` mean the variants below.
    File(String),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Decodes one log.
pub fn decode(proto: &pb::AccessLog, p: &mut Problems) -> Option<AccessLog> {
    let before = p.count();
    let filter = proto.filter.as_ref().and_then(|filter| p.at("filter", |p| filter::decode(filter, p)));
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = &proto.config_type else {
        return p.refuse_at("typed_config", "is required");
    };
    let (sink, format) = p.at("typed_config", |p| sink(any, p))?;
    (p.count() == before).then(|| AccessLog { name: proto.name.clone(), filter, sink, format })
}

/// Decodes the logs in the field `name`.
pub fn decode_all(protos: &[pb::AccessLog], name: &str, p: &mut Problems) -> Vec<AccessLog> {
    p.each(name, protos, |p, log| decode(log, p))
}

fn sink(any: &proto::Any, p: &mut Problems) -> Option<(Sink, Option<SubstitutionFormat>)> {
    let any = extension(any, p)?;
    let format = |format: &Option<_>, p: &mut Problems| match format {
        Some(format) => p.at("log_format", |p| SubstitutionFormat::decode(format, p)).map(Some),
        None => Some(None),
    };
    match any.type_name() {
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => file(&unpack(&any, p)?, p),
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let proto: pb_stream::StdoutAccessLog = unpack(&any, p)?;
            let log_format =
                proto.access_log_format.map(|pb_stream::stdout_access_log::AccessLogFormat::LogFormat(format)| format);
            Some((Sink::Stdout, format(&log_format, p)?))
        }
        "envoy.extensions.access_loggers.stream.v3.StderrAccessLog" => {
            let proto: pb_stream::StderrAccessLog = unpack(&any, p)?;
            let log_format =
                proto.access_log_format.map(|pb_stream::stderr_access_log::AccessLogFormat::LogFormat(format)| format);
            Some((Sink::Stderr, format(&log_format, p)?))
        }
        other => {
            p.refuse(format!("access logger {other} is not implemented by weir-proxy"));
            None
        }
    }
}

fn file(proto: &pb_file::FileAccessLog, p: &mut Problems) -> Option<(Sink, Option<SubstitutionFormat>)> {
    use pb_file::file_access_log::AccessLogFormat;
    let plain = |template| Some(SubstitutionFormat::of(template));
    let format = match &proto.access_log_format {
        None => None,
        Some(AccessLogFormat::Format(text)) if text.is_empty() => None,
        Some(AccessLogFormat::Format(text)) => plain(Template::Text(text.clone())),
        Some(AccessLogFormat::TypedJsonFormat(fields)) => plain(Template::Json(proto::json::struct_to_value(fields))),
        Some(AccessLogFormat::LogFormat(format)) => {
            Some(p.at("log_format", |p| SubstitutionFormat::decode(format, p))?)
        }
        Some(AccessLogFormat::JsonFormat(_)) => {
            return p.refuse_at("json_format", "not implemented by weir-proxy, use log_format.json_format");
        }
    };
    let sink = match proto.path.as_str() {
        "" => return p.refuse_at("path", "must not be empty"),
        "/dev/stdout" => Sink::Stdout,
        "/dev/stderr" => Sink::Stderr,
        path => Sink::File(path.to_owned()),
    };
    Some((sink, format))
}

#[cfg(test)]
mod tests;
