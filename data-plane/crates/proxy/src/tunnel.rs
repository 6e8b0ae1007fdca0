//! Upgrades and CONNECT: which requests ask for a tunnel, and what the answer to one looks like.
//!
//! The codecs turn an HTTP/1.1 `Upgrade` into an extended CONNECT (RFC 8441) and back; a tunnel's bytes are body
//! frames, so `relay.rs` moves them like any other.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use dp_http::{Method, Protocol, RequestHead, ResponseHead, name};
use shared_config::route::UpgradeConfig;

use crate::stream::Stream;

/// What a request wants beyond HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// An HTTP/1.1 `Upgrade`, or an extended CONNECT; the protocol in lower case.
    Upgrade(String),
    /// A plain CONNECT (RFC 9110 §9.3.6).
    Connect,
}

/// What the request asks for, if anything.
pub(crate) fn requested(head: &RequestHead) -> Option<Tunnel> {
    match head.connect_protocol() {
        Some(protocol) => Some(Tunnel::Upgrade(protocol.to_ascii_lowercase())),
        None => (head.method == Method::Connect).then_some(Tunnel::Connect),
    }
}

/// Whether the tunnel ends at this proxy, so that its bytes go to the endpoint as they are (Envoy `connect_config`).
pub(crate) fn ends_here(stream: &Stream<'_>, upgrades: &[UpgradeConfig]) -> bool {
    let config = upgrades.iter().find(|upgrade| upgrade.enabled && upgrade.connect.is_some());
    let Some(config) = config.and_then(|upgrade| upgrade.connect) else { return false };
    match &stream.tunnel {
        Some(Tunnel::Connect) => true,
        Some(Tunnel::Upgrade(_)) => false,
        None => config.allow_post && stream.request.method == Method::Post,
    }
}

/// Whether the response opens the tunnel.
pub(crate) fn accepted(tunnel: Option<&Tunnel>, response: &ResponseHead) -> bool {
    match tunnel {
        None => false,
        Some(Tunnel::Connect) => (200..300).contains(&response.status),
        Some(Tunnel::Upgrade(_)) => response.status == 101,
    }
}

/// Completes an accepting response. `key`: the `sec-websocket-key` of an HTTP/1.1 client.
pub(crate) fn answer(response: &mut ResponseHead, tunnel: &Tunnel, key: Option<&[u8]>) {
    for field in [&name::CONTENT_LENGTH, &name::TRANSFER_ENCODING] {
        response.headers.remove(field);
    }
    if *tunnel == Tunnel::Upgrade("websocket".into())
        && !response.headers.contains(&name::SEC_WEBSOCKET_ACCEPT)
        && let Some(key) = key
    {
        // An HTTP/2 upstream does not prove that it read the key (RFC 8441 §5); an HTTP/1.1 client expects it.
        response.headers.set(&name::SEC_WEBSOCKET_ACCEPT, websocket_accept(key).as_bytes());
    }
}

/// RFC 6455 §4.2.2: base64 of the SHA-1 of the key and a fixed text.
fn websocket_accept(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

impl Stream<'_> {
    /// Whether the answer decides what the client's bytes are: nothing of them is for an upstream that may refuse the
    /// tunnel. An HTTP/1.1 upgrade may have a body of its own, which belongs to the request.
    pub(crate) fn awaits_tunnel(&self) -> bool {
        let is_bodiless = self.body.is_empty() || self.request.protocol == Protocol::Http2;
        match &self.tunnel {
            _ if self.reply.started => false,
            Some(Tunnel::Connect) => true,
            Some(Tunnel::Upgrade(_)) => is_bodiless,
            None => false,
        }
    }

    /// Each side of a CONNECT tunnel ends by itself, as on the TCP connections that it stands for.
    pub(crate) fn ends_by_halves(&self) -> bool {
        self.reply.tunnelled && self.tunnel == Some(Tunnel::Connect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_asked_for_by_protocol_or_connect() {
        let mut head = RequestHead::new(Method::Connect, "h:1", "");
        assert_eq!(requested(&head), Some(Tunnel::Connect));
        head.set_connect_protocol(Some("WebSocket"));
        assert_eq!(requested(&head), Some(Tunnel::Upgrade("websocket".into())));
        assert_eq!(requested(&RequestHead::new(Method::Get, "h", "/")), None);
    }

    #[test]
    fn the_accept_value_is_that_of_rfc_6455() {
        let tunnel = Tunnel::Upgrade("websocket".into());
        let mut response = ResponseHead::new(101);
        answer(&mut response, &tunnel, Some(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(response.headers.text("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}
