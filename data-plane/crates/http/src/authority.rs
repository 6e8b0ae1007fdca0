//! Whether text is a host with an optional port (RFC 3986 §3.2.2), and whether it is a path that may go on the wire.
//!
//! Pure. No user information: a URI with `@` in its authority is refused everywhere (RFC 9110 §4.2.4).

/// A host and an optional port; not empty.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) if is_ip_literal(&rest[..end]) => (&text[..end + 2], &rest[end + 1..]),
            _ => return false,
        },
        _ => match text.iter().position(|byte| *byte == b':') {
            Some(colon) => text.split_at(colon),
            None => (text, &b""[..]),
        },
    };
    if host.is_empty() || !(host.starts_with(b"[") || is_reg_name(host)) {
        return false;
    }
    match port {
        [] => true,
        [b':', digits @ ..] => is_port(digits),
        _ => false,
    }
}

/// The same with a port, as CONNECT needs it (RFC 9110 §9.3.6).
pub(crate) fn is_valid_with_port(text: &[u8]) -> bool {
    is_valid(text) && text.last().is_some_and(u8::is_ascii_digit) && {
        let host_end = text.iter().rposition(|byte| *byte == b':');
        host_end.is_some_and(|colon| !text[colon..].contains(&b']'))
    }
}

/// What a request target in origin form may hold: a leading slash, visible ASCII, no fragment (RFC 9112 §3.2.1).
pub(crate) fn is_path(path: &[u8]) -> bool {
    path.first() == Some(&b'/') && is_target(path)
}

/// Visible ASCII without `#`.
pub(crate) fn is_target(target: &[u8]) -> bool {
    target.iter().fold(true, |all, &byte| all & (byte > b' ') & (byte < 0x7f) & (byte != b'#'))
}

/// Decimal digits up to 65535; an empty port is allowed by the grammar.
fn is_port(digits: &[u8]) -> bool {
    digits.len() <= 5
        && digits.iter().all(u8::is_ascii_digit)
        && digits.iter().fold(0u32, |port, digit| port * 10 + u32::from(digit - b'0')) <= 65535
}

fn is_ip_literal(text: &[u8]) -> bool {
    // Only IPv6 is in use; a zone identifier has no meaning for a peer.
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<std::net::Ipv6Addr>().is_ok())
}

/// reg-name: unreserved, sub-delims, and `%` with two hexadecimal digits.
fn is_reg_name(host: &[u8]) -> bool {
    // Few hosts hold a `%`.
    if host.iter().fold(true, |all, byte| all & PLAIN[usize::from(*byte)]) {
        return true;
    }
    let mut rest = host;
    loop {
        let plain = rest.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(rest.len());
        match &rest[plain..] {
            [] => return true,
            [b'%', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest = tail,
            _ => return false,
        }
    }
}

/// unreserved and sub-delims.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_with_an_optional_port() {
        for good in ["a", "a.b", "a:80", "a:", "127.0.0.1:1", "[::1]", "[::1]:65535", "a_b", "%41", "xn--a"] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "u@h",
            "a:b",
            "a:65536",
            "a:080000",
            "[::1",
            "[::1]x",
            "[]",
            "[x]",
            "a/b",
            "a?b",
            "a#b",
            "%4",
            "%zz",
            "a\\b",
            "é",
            "a:80:80",
            "[::1%25eth0]",
            "a,b@c",
            "<a>",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn connect_names_a_port() {
        for (text, good) in [("a:1", true), ("[::1]:1", true), ("a", false), ("a:", false), ("[::1]", false)] {
            assert_eq!(is_valid_with_port(text.as_bytes()), good, "{text}");
        }
    }
}
