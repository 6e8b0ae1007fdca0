//! How the replies that the proxy makes itself look (Envoy `local_reply_config`, `body_format`).
//!
//! Compiled with the snapshot; applied by the proxy to every reply of its own.

use bytes::Bytes;
use dp_format::{Format, Inputs, JsonFormat, Missing};
use dp_http::{Headers, RequestHead, ResponseHead, StreamInfo, name};
use dp_observe::access_log::{Filter, Subject};
use dp_routing::HeaderPlan;

/// The mappers of a connection manager.
#[derive(Debug, Default)]
pub struct LocalReplies {
    pub(crate) mappers: Vec<Mapper>,
    pub(crate) format: Option<BodyFormat>,
}

/// Changes some replies.
#[derive(Debug)]
pub(crate) struct Mapper {
    pub(crate) filter: Filter,
    pub(crate) status: Option<u16>,
    pub(crate) body: Option<Bytes>,
    pub(crate) format: Option<BodyFormat>,
    pub(crate) headers: HeaderPlan,
}

/// How a body is made from what is known of the stream.
#[derive(Debug)]
pub struct BodyFormat {
    pub(crate) kind: BodyKind,
    pub(crate) content_type: String,
}

#[derive(Debug)]
pub(crate) enum BodyKind {
    Text(Format, Missing),
    Json(JsonFormat),
}

// === impl BodyFormat ===

impl BodyFormat {
    /// The body, with its `content-type`.
    pub fn write(&self, inputs: &Inputs<'_>, headers: &mut Headers) -> Bytes {
        let mut text = String::new();
        match &self.kind {
            BodyKind::Text(format, missing) => format.write_with(inputs, *missing, &mut text),
            BodyKind::Json(format) => {
                format.write(inputs, &mut text);
                text.push('\n');
            }
        }
        headers.set(&name::CONTENT_TYPE, self.content_type.as_bytes());
        Bytes::from(text)
    }
}

// === impl LocalReplies ===

impl LocalReplies {
    /// Changes a reply as the first mapper that takes it says, else as the connection manager does.
    pub fn rewrite(
        &self,
        info: &mut StreamInfo,
        request: &RequestHead,
        random: u64,
        head: &mut ResponseHead,
        body: &mut Bytes,
    ) {
        info.status = head.status;
        let subject = Subject { info, request: Some(request), random };
        let mapper = self.mappers.iter().find(|mapper| mapper.filter.admits(subject));
        if let Some(mapper) = mapper {
            if let Some(status) = mapper.status {
                head.status = status;
                info.status = status;
            }
            if let Some(new) = &mapper.body {
                *body = new.clone();
            }
            mapper.headers.apply_to_response(head, Some(request), info);
        }
        let Some(format) = mapper.and_then(|mapper| mapper.format.as_ref()).or(self.format.as_ref()) else { return };
        let text = String::from_utf8_lossy(body).into_owned();
        let inputs = Inputs { local_reply_body: &text, ..Inputs::request(info, request) };
        *body = format.write(&inputs, &mut head.headers);
    }
}
