//! Texts with `%COMMAND%` operators (`SubstitutionFormatString`), for access logs and local replies.
//!
//! The operators stay text here; the data plane parses them when it compiles the snapshot, and refuses what it does not know.

use proto::envoy::config::core::v3 as pb;
use serde_json::Value;

use crate::core::{DataSource, data_source};
use crate::invalid::Problems;
use crate::refuse_set;

/// A format and how it is written out.
#[derive(Debug, Clone, PartialEq)]
pub struct SubstitutionFormat {
    /// The format.
    pub template: Template,
    /// An operator without a value is an empty text instead of `-`, and a JSON member without a value is left out.
    pub omit_empty_values: bool,
    /// `content-type` of a reply with this body: what is configured, else `application/json` or `text/plain`.
    pub content_type: String,
}

/// See [`SubstitutionFormat`].
#[derive(Debug, Clone, PartialEq)]
pub enum Template {
    /// One text.
    Text(String),
    /// One text, from elsewhere.
    Source(DataSource),
    /// A JSON object whose string leaves are formats; members are in the order of their names.
    Json(Value),
}

impl SubstitutionFormat {
    /// A format with the defaults of everything else.
    pub fn of(template: Template) -> Self {
        let content_type = if matches!(template, Template::Json(_)) { "application/json" } else { "text/plain" };
        Self { template, omit_empty_values: false, content_type: content_type.to_owned() }
    }

    /// Decodes a format.
    pub fn decode(proto: &pb::SubstitutionFormatString, p: &mut Problems) -> Option<Self> {
        use pb::substitution_format_string::Format as Specifier;
        let before = p.count();
        // `json_format_options.sort_properties`: members are always sorted.
        refuse_set!(p, proto; formatters);
        if proto.content_type.contains(['\r', '\n', '\0']) {
            p.refuse_at::<()>("content_type", "is not a header value");
        }
        let template = match &proto.format {
            Some(Specifier::TextFormat(text)) => Template::Text(text.clone()),
            Some(Specifier::JsonFormat(fields)) => Template::Json(proto::json::struct_to_value(fields)),
            Some(Specifier::TextFormatSource(source)) => {
                match p.at("text_format_source", |p| data_source(source, p))? {
                    DataSource::Inline(bytes) => match String::from_utf8(bytes.to_vec()) {
                        Ok(text) => Template::Text(text),
                        Err(_) => return p.refuse_at("text_format_source", "is not UTF-8"),
                    },
                    other => Template::Source(other),
                }
            }
            None => {
                p.refuse("one of text_format_source and json_format is required");
                return None;
            }
        };
        let mut format = Self::of(template);
        format.omit_empty_values = proto.omit_empty_values;
        if !proto.content_type.is_empty() {
            format.content_type.clone_from(&proto.content_type);
        }
        (p.count() == before).then_some(format)
    }
}
