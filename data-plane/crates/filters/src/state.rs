//! Filter state objects that are written from formats, for the `set_filter_state` filters of requests and of connections.

use dp_format::{Format, FormatError, Inputs, JsonFormat, Missing};
use dp_http::info::FilterObject;
use dp_http::{RequestHead, StreamInfo};
use shared_config::filter_state::FilterStateValue;
use shared_config::substitution::Template;

/// The objects of a filter, in order.
pub(crate) struct Objects(Box<[Object]>);

struct Object {
    key: String,
    text: Text,
    hashable: bool,
    skip_if_empty: bool,
}

enum Text {
    Plain(Format, Missing),
    Json(JsonFormat),
}

// === impl Objects ===

impl Objects {
    /// # Errors
    /// A format is wrong.
    pub(crate) fn compile(values: &[FilterStateValue]) -> Result<Self, FormatError> {
        let compile = |value: &FilterStateValue| {
            let missing = if value.format.omit_empty_values { Missing::Empty } else { Missing::Dash };
            let text = match &value.format.template {
                Template::Text(text) => Text::Plain(Format::parse(text)?, missing),
                Template::Json(object) => Text::Json(JsonFormat::parse(object, value.format.omit_empty_values)?),
                // Refused when it was decoded.
                Template::Source(_) => return Err(FormatError::Json),
            };
            let (hashable, skip_if_empty) = (value.hashable, value.skip_if_empty);
            Ok(Object { key: value.key.clone(), text, hashable, skip_if_empty })
        };
        values.iter().map(compile).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes all of them; a later one may speak of an earlier one.
    pub(crate) fn write(&self, info: &mut StreamInfo, request: Option<&RequestHead>) {
        for object in &self.0 {
            let inputs = Inputs { info, request, response: None, trailers: None, local_reply_body: "" };
            let mut text = String::new();
            match &object.text {
                Text::Plain(format, missing) => format.write_with(&inputs, *missing, &mut text),
                Text::Json(format) => format.write(&inputs, &mut text),
            }
            if text.is_empty() && object.skip_if_empty {
                continue;
            }
            let state = info.filter_state.get_or_insert_default();
            state.insert(object.key.clone(), FilterObject { text, hashable: object.hashable });
        }
    }
}
