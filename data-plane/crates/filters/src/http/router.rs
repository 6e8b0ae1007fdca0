//! The router filter: the end of every chain.
//!
//! Routing itself is the proxy's work; this checks what the configuration asks to check before it, and carries the
//! flags that the proxy reads (`Chain::router`).

use dp_http::flags::Flags;
use dp_http::{LocalReply, RequestHead};
use shared_config::http_filter::router::{Config, Override, StrictHeader};

use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;

pub struct Router {
    config: Config,
}

impl Router {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

impl HttpFilter for Router {
    type Config = Config;
    type Override = Override;
    type Stream = ();

    fn compile(config: &Config, _overrides: &[&Override], _scope: &Scope<'_>) -> Option<Self> {
        Some(Self { config: config.clone() })
    }

    fn on_request(&self, _s: &mut (), _cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        for header in &self.config.strict_check_headers {
            let Some(value) = head.headers.get(header.name()) else { continue };
            if !is_valid(*header, value) {
                let value = String::from_utf8_lossy(value);
                let body = format!("invalid header '{}' with value '{value}'", header.name());
                let reply = LocalReply::new(400, "request_headers_failed_strict_check").body(body);
                return Flow::Reply(Box::new(reply.flag(Flags::INVALID_ENVOY_REQUEST_HEADERS)));
            }
        }
        Flow::Continue
    }
}

/// Envoy's `FilterUtility::StrictHeaderChecker`.
fn is_valid(header: StrictHeader, value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let all = |known: &[&str]| text.split(',').map(str::trim).all(|word| known.contains(&word));
    match header {
        StrictHeader::RequestTimeout | StrictHeader::PerTryTimeout | StrictHeader::MaxRetries => {
            text.parse::<u64>().is_ok()
        }
        StrictHeader::RetryOn => all(RETRY_ON),
        StrictHeader::RetryGrpcOn => all(RETRY_GRPC_ON),
    }
}

const RETRY_ON: &[&str] = &[
    "5xx",
    "gateway-error",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "reset",
    "http3-post-connect-failure",
    "reset-before-request",
];
const RETRY_GRPC_ON: &[&str] = &["cancelled", "deadline-exceeded", "resource-exhausted", "unavailable", "internal"];

#[cfg(test)]
mod tests {
    use dp_http::Method;
    use shared_config::http_filter::HttpFilterConfig;

    use super::*;
    use crate::testing::{Proxy, answer, filter};

    async fn check(strict: &[StrictHeader], field: (&str, &str), status: u16) {
        let config = Config { strict_check_headers: strict.to_vec(), ..Config::default() };
        let proxy = Proxy::new(&[filter("router", HttpFilterConfig::Router(config))]);
        let mut head = RequestHead::new(Method::Get, "h", "/");
        head.headers.append(field.0, field.1.as_bytes());
        let exchange = proxy.exchange(head, &[], &answer(200, &[], &[])).await;
        assert_eq!(exchange.head.status, status, "{field:?}");
    }

    #[tokio::test]
    async fn a_wrong_value_is_refused_in_a_header_that_is_checked() {
        use StrictHeader::{MaxRetries, RequestTimeout, RetryGrpcOn, RetryOn};
        let timeout = "x-envoy-upstream-rq-timeout-ms";
        check(&[RequestTimeout], (timeout, "soon"), 400).await;
        check(&[RequestTimeout], (timeout, "100"), 200).await;
        check(&[MaxRetries], (timeout, "soon"), 200).await;
        check(&[RetryOn], ("x-envoy-retry-on", "5xx, reset"), 200).await;
        check(&[RetryOn], ("x-envoy-retry-on", "5xx,never"), 400).await;
        check(&[RetryGrpcOn], ("x-envoy-retry-grpc-on", "internal"), 200).await;
    }
}
