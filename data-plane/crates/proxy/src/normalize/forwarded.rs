//! Who a request comes from: `x-forwarded-for` and the hops we trust (Envoy `xff_num_trusted_hops`).
//!
//! Pure. Trusts nothing it is not told to trust.

use std::net::IpAddr;

use ipnet::IpNet;

/// The address that trusted hop number `hops` (0: the last one) wrote into `x-forwarded-for`, counted from the right
/// over all fields of that name. `None` when there are too few entries or the entry is no address.
pub(crate) fn nth_from_right<'v>(fields: impl DoubleEndedIterator<Item = &'v [u8]>, hops: usize) -> Option<IpAddr> {
    let entry = fields.rev().flat_map(|field| field.rsplit(|b| *b == b',')).nth(hops)?;
    parse(std::str::from_utf8(entry).ok()?.trim())
}

/// The first entry from the right that is not in `ranges`; `None` when an entry on the way is no address.
pub(crate) fn first_outside<'v>(fields: impl DoubleEndedIterator<Item = &'v [u8]>, ranges: &[IpNet]) -> Option<IpAddr> {
    let mut last = None;
    for entry in fields.rev().flat_map(|field| field.rsplit(|b| *b == b',')) {
        let ip = parse(std::str::from_utf8(entry).ok()?.trim())?;
        last = Some(ip);
        if !ranges.iter().any(|range| range.contains(&ip)) {
            break;
        }
    }
    last
}

/// Whether there is exactly one entry over all fields (Envoy's `allow_trusted_address_checks`).
pub(crate) fn is_single<'v>(fields: impl Iterator<Item = &'v [u8]>) -> bool {
    fields.flat_map(|field| field.split(|b| *b == b',')).take(2).count() == 1
}

/// An address, with or without port; IPv6 may stand in brackets.
fn parse(entry: &str) -> Option<IpAddr> {
    if let Ok(address) = entry.parse::<IpAddr>() {
        return Some(address);
    }
    entry.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[&str], hops: usize, address: Option<&str>) {
        let found = nth_from_right(fields.iter().map(|f| f.as_bytes()), hops);
        assert_eq!(found, address.map(|a| a.parse().unwrap()), "{fields:?} {hops}");
    }

    #[test]
    fn the_entry_of_the_trusted_hop_is_taken_from_the_right() {
        check(&["1.1.1.1, 2.2.2.2"], 0, Some("2.2.2.2"));
        check(&["1.1.1.1, 2.2.2.2"], 1, Some("1.1.1.1"));
        check(&["1.1.1.1, 2.2.2.2"], 2, None);
        check(&["1.1.1.1", "2.2.2.2,3.3.3.3"], 2, Some("1.1.1.1"));
        check(&["evil"], 0, None);
        check(&["[::1]:80"], 0, Some("::1"));
        check(&["::1"], 0, Some("::1"));
        check(&["1.1.1.1:80"], 0, Some("1.1.1.1"));
        check(&[], 0, None);
    }

    #[test]
    fn one_entry_is_told_from_several() {
        assert!(is_single([&b"1.1.1.1"[..]].into_iter()));
        assert!(!is_single([&b"1.1.1.1,2.2.2.2"[..]].into_iter()));
        assert!(!is_single(std::iter::empty()));
    }
}
