//! Taking the fields of one connection out of a message before it goes on (RFC 9110 §7.6.1).
//!
//! What `Connection` names goes too, but a client must not get rid of fields that others rely on that way.

use crate::headers::Headers;
use crate::names::{NameSet, id};
use crate::{h1, name};

static HOP_BY_HOP: NameSet = NameSet::of(&[
    &name::CONNECTION,
    &name::HTTP2_SETTINGS,
    &name::KEEP_ALIVE,
    &name::PROXY_CONNECTION,
    &name::TE,
    &name::TRANSFER_ENCODING,
    &name::UPGRADE,
]);

/// `Connection` names a field that is not its sender's to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection field names a field that must stay")]
pub struct InvalidConnection;

impl Headers {
    /// Removes all fields that belong to the connection they came by: the fixed ones, and those that `Connection`
    /// names. `te: trailers` stays, because it says something about the endpoint. Proxy authentication stays: whoever
    /// uses it removes it.
    ///
    /// # Errors
    /// `Connection` names a field that framing, routing or access control rest on.
    pub fn remove_hop_by_hop(&mut self) -> Result<(), InvalidConnection> {
        // Most messages have none of them.
        if !self.contains_any(HOP_BY_HOP) {
            return Ok(());
        }
        let mut nominated: Vec<Vec<u8>> = Vec::new();
        for option in self.all(&name::CONNECTION).flat_map(h1::elements) {
            if option.is_empty() || is_plain(option) {
                continue;
            }
            let option = option.to_ascii_lowercase();
            if is_critical(&option) {
                return Err(InvalidConnection);
            }
            nominated.push(option);
        }
        let keeps_trailers =
            self.all(&name::TE).flat_map(h1::elements).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        self.retain_ids(|known, name| {
            known == id::TE && keeps_trailers
                || !HOP_BY_HOP.has(known) && !nominated.iter().any(|option| option == name)
        });
        if keeps_trailers {
            self.set(&name::TE, b"trailers");
        }
        Ok(())
    }
}

/// Options that are no fields, or fields that go anyway.
fn is_plain(option: &[u8]) -> bool {
    [&b"close"[..], b"keep-alive", b"upgrade", b"http2-settings", b"proxy-connection"]
        .iter()
        .any(|plain| option.eq_ignore_ascii_case(plain))
}

fn is_critical(name: &[u8]) -> bool {
    matches!(
        name,
        b"host"
            | b"content-length"
            | b"content-type"
            | b"content-encoding"
            | b"authorization"
            | b"proxy-authorization"
            | b"cookie"
            | b"set-cookie"
            | b"origin"
            | b"forwarded"
            | b"via"
            | b"expect"
            | b"cache-control"
            | b"transfer-encoding"
            | b"x-request-id"
            | b"x-real-ip"
            | b"traceparent"
    ) || name.starts_with(b"x-forwarded-")
        || name.starts_with(b"x-envoy-")
        || name.starts_with(b":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &[(&str, &str)], after: Result<&[(&str, &str)], InvalidConnection>) {
        let mut headers: Headers = before.iter().copied().collect();
        let result = headers.remove_hop_by_hop().map(|()| headers);
        assert_eq!(result, after.map(|fields| fields.iter().copied().collect()), "{before:?}");
    }

    #[test]
    fn fields_of_the_connection_go_with_it() {
        check(&[("a", "1"), ("b", "2")], Ok(&[("a", "1"), ("b", "2")]));
        check(&[("connection", "close"), ("keep-alive", "5"), ("a", "1")], Ok(&[("a", "1")]));
        check(&[("a", "1"), ("connection", "X-Drop, close"), ("x-drop", "1"), ("x-drop", "2")], Ok(&[("a", "1")]));
        check(&[("transfer-encoding", "chunked"), ("upgrade", "h2c"), ("http2-settings", "x")], Ok(&[]));
    }

    #[test]
    fn te_stays_only_for_trailers() {
        check(&[("te", "trailers, gzip")], Ok(&[("te", "trailers")]));
        check(&[("connection", "te"), ("te", "Trailers")], Ok(&[("te", "trailers")]));
        check(&[("te", "gzip")], Ok(&[]));
    }

    #[test]
    fn a_connection_field_cannot_remove_what_others_rely_on() {
        for name in
            ["host", "Content-Length", "authorization", "X-Forwarded-For", "cookie", ":path", "x-envoy-internal"]
        {
            check(&[("connection", &format!("close, {name}"))], Err(InvalidConnection));
        }
    }
}
