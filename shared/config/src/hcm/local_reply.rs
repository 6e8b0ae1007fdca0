//! What our own replies look like.

use proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use crate::access_log::{AccessLogFilter, decode_filter};
use crate::core::{DataSource, data_source};
use crate::header::HeaderValueOption;
use crate::invalid::Problems;
use crate::substitution::SubstitutionFormat;

/// How replies that we make ourselves are changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LocalReply {
    /// The first one whose filter takes the reply changes it.
    pub mappers: Vec<ReplyMapper>,
    /// The body where no mapper says otherwise; the plain text of the reply without one.
    pub body_format: Option<SubstitutionFormat>,
}

/// Changes some of our own replies.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyMapper {
    /// Which replies.
    pub filter: AccessLogFilter,
    /// Another status.
    pub status: Option<u16>,
    /// Another text, which `%LOCAL_REPLY_BODY%` stands for in formats.
    pub body: Option<DataSource>,
    /// Another format.
    pub body_format: Option<SubstitutionFormat>,
    /// More headers.
    pub headers_to_add: Vec<HeaderValueOption>,
}

pub(super) fn decode(proto: Option<&pb::LocalReplyConfig>, p: &mut Problems) -> LocalReply {
    let Some(proto) = proto else { return LocalReply::default() };
    p.at("local_reply_config", |p| LocalReply {
        mappers: p.each("mappers", &proto.mappers, |p, mapper| mapper_of(mapper, p)),
        body_format: proto
            .body_format
            .as_ref()
            .and_then(|format| p.at("body_format", |p| SubstitutionFormat::decode(format, p))),
    })
}

fn mapper_of(proto: &pb::ResponseMapper, p: &mut Problems) -> Option<ReplyMapper> {
    let before = p.count();
    let filter = match &proto.filter {
        Some(filter) => p.at("filter", |p| decode_filter(filter, p)),
        None => p.refuse_at("filter", "is required"),
    };
    let status = proto.status_code.and_then(|code| match u16::try_from(code) {
        Ok(code) if (200..600).contains(&code) => Some(code),
        _ => p.refuse_at("status_code", format!("{code} is not a status (200 to 599)")),
    });
    let body = proto.body.as_ref().and_then(|body| p.at("body", |p| data_source(body, p)));
    let body_format = proto
        .body_format_override
        .as_ref()
        .and_then(|format| p.at("body_format_override", |p| SubstitutionFormat::decode(format, p)));
    let headers_to_add =
        p.each("headers_to_add", &proto.headers_to_add, |p, header| HeaderValueOption::decode(header, p));
    let filter = filter?;
    (p.count() == before).then_some(ReplyMapper { filter, status, body, body_format, headers_to_add })
}
