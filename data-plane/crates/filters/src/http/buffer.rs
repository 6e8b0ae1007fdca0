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

#[cfg(test)]
mod tests {
    use dp_http::Method;
    use shared_config::http_filter::{FilterOverride, HttpFilterConfig, router};

    use super::*;
    use crate::services::KeepStore;
    use crate::testing::{Proxy, answer, filter};

    /// The status, and body and content-length as the origin sees them.
    async fn check(
        levels: &[Override],
        body: &[&'static str],
        length: Option<&str>,
        expected: (u16, Option<(&str, Option<&str>)>),
    ) {
        let config = HttpFilterConfig::Buffer(Config { max_request_bytes: 5 });
        let router = HttpFilterConfig::Router(router::Config::default());
        let levels: Vec<_> = levels.iter().map(|o| ("buffer", FilterOverride::Buffer(*o))).collect();
        let filters = [filter("buffer", config), filter("router", router)];
        let proxy = Proxy::with(&filters, &levels, &KeepStore::default());
        let mut head = RequestHead::new(Method::Post, "h", "/");
        if let Some(length) = length {
            head.headers.append("content-length", length.as_bytes());
        }
        let exchange = proxy.exchange(head, body, &answer(200, &[], &[])).await;
        let upstream = exchange
            .upstream
            .as_ref()
            .map(|(head, body)| (std::str::from_utf8(body).unwrap(), head.headers.text("content-length")));
        assert_eq!((exchange.head.status, upstream), expected);
    }

    #[tokio::test]
    async fn a_request_goes_on_whole_and_with_its_length() {
        check(&[], &["ab", "cde"], None, (200, Some(("abcde", Some("5"))))).await;
        check(&[], &["ab"], Some("2"), (200, Some(("ab", Some("2"))))).await;
        check(&[], &[], None, (200, Some(("", None)))).await;
    }

    #[tokio::test]
    async fn a_longer_request_is_refused() {
        check(&[], &["abc", "def"], None, (413, None)).await;
    }

    #[tokio::test]
    async fn a_route_sets_another_limit_or_none() {
        check(&[Override::Limit(6)], &["abc", "def"], None, (200, Some(("abcdef", Some("6"))))).await;
        check(&[Override::Limit(6), Override::Disabled], &["abcdefg"], None, (200, Some(("abcdefg", None)))).await;
    }
}
