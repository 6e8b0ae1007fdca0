//! `x-forwarded-client-cert`: what the upstream learns about the client's certificate.
//!
//! A client must never be able to write this header itself, unless the operator says so.

use std::fmt::Write;

use dp_http::info::ConnectionInfo;
use dp_http::{Headers, name};
use shared_config::hcm::{ForwardClientCertificate, ForwardMode};

/// Removes, passes on or writes the header.
pub(super) fn apply(headers: &mut Headers, connection: &ConnectionInfo, config: &ForwardClientCertificate) {
    let tls = connection.tls.as_ref();
    let peer = tls.and_then(|tls| tls.peer.as_deref());
    let is_mutual = peer.is_some();
    match config.mode {
        ForwardMode::AlwaysForwardOnly => return,
        ForwardMode::Sanitize => {
            headers.remove(&name::X_FORWARDED_CLIENT_CERT);
            return;
        }
        _ if !is_mutual => {
            headers.remove(&name::X_FORWARDED_CLIENT_CERT);
            return;
        }
        ForwardMode::ForwardOnly => return,
        ForwardMode::AppendForward | ForwardMode::SanitizeSet => {}
    }
    let Some(peer) = peer else { return };
    let mut entry = String::new();
    let local = tls.and_then(|tls| tls.local.as_deref());
    for uri in local.iter().flat_map(|local| &local.uri_sans) {
        push(&mut entry, "By", uri);
    }
    push(&mut entry, "Hash", &peer.fingerprint_256);
    if config.certificate {
        push(&mut entry, "Cert", &quoted(&peer.pem_url_encoded));
    }
    if config.chain {
        push(&mut entry, "Chain", &quoted(&peer.chain_url_encoded));
    }
    if config.subject {
        push(&mut entry, "Subject", &quoted(&peer.subject));
    }
    if config.uri {
        for uri in &peer.uri_sans {
            push(&mut entry, "URI", uri);
        }
    }
    if config.dns {
        for dns in &peer.dns_sans {
            push(&mut entry, "DNS", dns);
        }
    }
    if config.mode == ForwardMode::AppendForward {
        super::append_list(headers, &name::X_FORWARDED_CLIENT_CERT, b",", entry.as_bytes());
    } else {
        headers.set(&name::X_FORWARDED_CLIENT_CERT, entry.as_bytes());
    }
}

fn push(entry: &mut String, key: &str, value: &str) {
    if !entry.is_empty() {
        entry.push(';');
    }
    // Writing to a String cannot fail.
    let _ = write!(entry, "{key}={value}");
}

/// In quotes, because subjects hold commas and semicolons.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use dp_http::info::{Address, PeerCertificate, TlsInfo};

    use super::*;

    fn check(mode: ForwardMode, mutual: bool, sent: Option<&str>, forwarded: Option<&str>) {
        let peer = PeerCertificate {
            fingerprint_256: "ab12".into(),
            subject: "CN=a, O=\"b\"".into(),
            uri_sans: vec!["spiffe://x/y".into()],
            ..PeerCertificate::default()
        };
        let address = Address::Ip("127.0.0.1:1".parse().unwrap());
        let connection = ConnectionInfo {
            id: 0,
            tls: Some(TlsInfo { peer: mutual.then(|| Arc::new(peer)), ..TlsInfo::default() }),
            start: SystemTime::UNIX_EPOCH,
            listener: "l".into(),
            filter_chain: "c".into(),
            ..ConnectionInfo::between(address.clone(), address)
        };
        let mut headers: Headers = sent.iter().map(|sent| ("x-forwarded-client-cert", *sent)).collect();
        let config = ForwardClientCertificate { mode, subject: true, uri: true, ..Default::default() };
        apply(&mut headers, &connection, &config);
        assert_eq!(headers.text("x-forwarded-client-cert"), forwarded, "{mode:?} {mutual}");
    }

    #[test]
    fn the_header_is_believed_and_written_only_as_configured() {
        let ours = r#"Hash=ab12;Subject="CN=a, O=\"b\"";URI=spiffe://x/y"#;
        check(ForwardMode::Sanitize, true, Some("Hash=evil"), None);
        check(ForwardMode::SanitizeSet, true, Some("Hash=evil"), Some(ours));
        check(ForwardMode::SanitizeSet, false, Some("Hash=evil"), None);
        check(ForwardMode::ForwardOnly, true, Some("Hash=up"), Some("Hash=up"));
        check(ForwardMode::ForwardOnly, false, Some("Hash=evil"), None);
        check(ForwardMode::AppendForward, true, Some("Hash=up"), Some(&format!("Hash=up,{ours}")));
        check(ForwardMode::AlwaysForwardOnly, false, Some("Hash=any"), Some("Hash=any"));
    }
}
