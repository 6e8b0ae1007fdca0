//! The buffer filter: a request goes on only once its whole body is here.
//!
//! It never touches responses.

use bytes::Bytes;
use dp_http::{RequestHead, name};
use shared_config::http_filter::buffer::{Config, Override};

use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;

pub struct Buffer {
    max_request_bytes: usize,
}

impl HttpFilter for Buffer {
    type Config = Config;
    type Override = Override;
    type Stream = ();

    fn compile(config: &Config, overrides: &[&Override], _scope: &Scope<'_>) -> Option<Self> {
        let max_request_bytes = match overrides.last() {
            Some(Override::Disabled) => return None,
            Some(Override::Limit(bytes)) => *bytes,
            None => config.max_request_bytes,
        };
        Some(Self { max_request_bytes: max_request_bytes as usize })
    }

    fn on_request(&self, _s: &mut (), cx: &mut Cx<'_>, _head: &mut RequestHead) -> Flow {
        cx.hold_request_body(self.max_request_bytes);
        Flow::Continue
    }

    fn on_request_held(&self, _s: &mut (), _cx: &mut Cx<'_>, head: &mut RequestHead, body: &mut Bytes) -> Flow {
        if !head.headers.contains(&name::CONTENT_LENGTH) {
            head.headers.set(&name::CONTENT_LENGTH, body.len().to_string().as_bytes());
        }
        Flow::Continue
    }
}
