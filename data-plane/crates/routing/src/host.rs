//! Which virtual host a host name belongs to: exact name, longest suffix, longest prefix, then `*`.

use std::borrow::Cow;
use std::collections::HashMap;

/// An index of domains to the numbers of virtual hosts.
#[derive(Debug, Default)]
pub(crate) struct HostIndex {
    exact: HashMap<Box<str>, u32>,
    /// What follows the `*`, by length, the longest first.
    suffixes: Vec<(usize, HashMap<Box<str>, u32>)>,
    /// What stands before the `*`, by length, the longest first.
    prefixes: Vec<(usize, HashMap<Box<str>, u32>)>,
    any: Option<u32>,
}

impl HostIndex {
    /// Adds a domain in lower case. The first of two equal domains stays.
    pub(crate) fn add(&mut self, domain: &str, host: u32) {
        if domain == "*" {
            self.any.get_or_insert(host);
        } else if let Some(suffix) = domain.strip_prefix('*') {
            add_wildcard(&mut self.suffixes, suffix, host);
        } else if let Some(prefix) = domain.strip_suffix('*') {
            add_wildcard(&mut self.prefixes, prefix, host);
        } else {
            self.exact.entry(domain.into()).or_insert(host);
        }
    }

    /// The virtual host for the `authority` of a request.
    pub(crate) fn find(&self, authority: &str, ignore_port: bool) -> Option<u32> {
        if authority.is_empty() {
            return self.any;
        }
        let host = if ignore_port { without_port(authority) } else { authority };
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        if let Some(found) = self.exact.get(&*host) {
            return Some(*found);
        }
        // A wildcard stands for at least one character, so that the host is longer than what remains of the domain.
        for (length, domains) in self.suffixes.iter().filter(|(length, _)| *length < host.len()) {
            if let Some(found) = host.get(host.len() - length..).and_then(|suffix| domains.get(suffix)) {
                return Some(*found);
            }
        }
        for (length, domains) in self.prefixes.iter().filter(|(length, _)| *length < host.len()) {
            if let Some(found) = host.get(..*length).and_then(|prefix| domains.get(prefix)) {
                return Some(*found);
            }
        }
        self.any
    }
}

fn add_wildcard(lengths: &mut Vec<(usize, HashMap<Box<str>, u32>)>, part: &str, host: u32) {
    let at = lengths.partition_point(|(length, _)| *length > part.len());
    if lengths.get(at).is_none_or(|(length, _)| *length != part.len()) {
        lengths.insert(at, (part.len(), HashMap::new()));
    }
    lengths[at].1.entry(part.into()).or_insert(host);
}

/// The host without its port; an IPv6 address keeps its brackets.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if authority.rfind(']').is_none_or(|bracket| bracket < colon) => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(authority: &str, ignore_port: bool, expected: Option<u32>) {
        let mut index = HostIndex::default();
        let domains = ["a.com", "*.a.com", "*-x.a.com", "*.com", "a.*", "a.b*", "*", "p.com:8080", "[::1]"];
        for (i, domain) in domains.iter().enumerate() {
            index.add(domain, i as u32);
        }
        assert_eq!(index.find(authority, ignore_port), expected, "{authority}");
    }

    #[test]
    fn exact_then_longest_suffix_then_longest_prefix_then_any() {
        check("a.com", false, Some(0));
        check("A.COM", false, Some(0));
        check("b.a.com", false, Some(1));
        check("b-x.a.com", false, Some(2));
        check("-x.a.com", false, Some(1));
        check(".a.com", false, Some(3));
        check("b.com", false, Some(3));
        check("a.org", false, Some(4));
        check("a.bx", false, Some(5));
        check("a.b", false, Some(4));
        check("other", false, Some(6));
        check("", false, Some(6));
    }

    #[test]
    fn the_port_counts_unless_it_is_ignored() {
        check("a.com:80", false, Some(4));
        check("a.com:80", true, Some(0));
        check("p.com:8080", false, Some(7));
        check("p.com:8080", true, Some(3));
        check("[::1]:80", true, Some(8));
        check("[::1]", true, Some(8));
    }
}
