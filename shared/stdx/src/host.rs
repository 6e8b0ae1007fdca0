//! What the name says by which somebody reached us.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether `authority` (`host` or `host:port`) is an address or `localhost`, so that no stranger's name server may have led
/// a browser here. No host at all is neither.
pub fn is_literal(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    if !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return false;
    }
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => host.eq_ignore_ascii_case("localhost") || host.parse::<Ipv4Addr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_names() {
        let check = |authority: &str, expected| assert_eq!(is_literal(authority), expected, "{authority:?}");
        for literal in ["127.0.0.1", "127.0.0.1:80", "10.1.2.3:9901", "[::1]", "[::1]:80", "[fe80::1]:1", "LocalHost:1"]
        {
            check(literal, true);
        }
        for name in ["", ":80", "a", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.1"] {
            check(name, false);
        }
        for broken in [
            "::1",
            "[::1",
            "::1]",
            "[127.0.0.1]",
            "127.0.0.1:x",
            "a@127.0.0.1",
            "127.0.0.1@a",
            "[::1]a",
            "localhost:80:80",
        ] {
            check(broken, false);
        }
    }
}
