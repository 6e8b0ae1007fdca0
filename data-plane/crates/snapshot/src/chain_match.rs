//! Which filter chain a connection gets (Envoy `FilterChainMatch`).
//!
//! Pure. The criteria are tried in Envoy's order; at each one only the chains with the most specific match stay in the
//! race, and there is no way back: a chain that matches better early on wins even if it fails later.

use std::net::IpAddr;

use ipnet::IpNet;
use shared_config::listener::{FilterChainMatch, TransportProtocol};

/// What is known about a connection when its chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'c> {
    pub local: Option<(IpAddr, u16)>,
    pub direct_remote: Option<(IpAddr, u16)>,
    pub remote: Option<(IpAddr, u16)>,
    /// Lower case, empty when there is none.
    pub server_name: &'c str,
    pub is_tls: bool,
    pub application_protocols: &'c [String],
}

/// The index of the chain whose criteria match best.
pub fn choose<'a>(chains: impl Iterator<Item = &'a FilterChainMatch>, facts: &Facts<'_>) -> Option<usize> {
    let mut left: Vec<(usize, &FilterChainMatch)> = chains.enumerate().collect();
    let steps: [fn(&FilterChainMatch, &Facts<'_>) -> Option<usize>; 9] = [
        |c, f| one(c.destination_port.is_none(), c.destination_port == f.local.map(|l| l.1)),
        |c, f| prefix(&c.destinations, f.local),
        |c, f| server_name(&c.server_names, f.server_name),
        |c, f| {
            let transport = if f.is_tls { TransportProtocol::Tls } else { TransportProtocol::RawBuffer };
            one(c.transport_protocol.is_none(), c.transport_protocol == Some(transport))
        },
        |c, f| {
            let wanted = &c.application_protocols;
            one(wanted.is_empty(), f.application_protocols.iter().any(|p| wanted.contains(p)))
        },
        |c, f| prefix(&c.direct_sources, f.direct_remote),
        |c, f| source_type(c, f),
        |c, f| prefix(&c.sources, f.remote),
        |c, f| one(c.source_ports.is_empty(), f.remote.is_some_and(|r| c.source_ports.contains(&r.1))),
    ];
    for step in steps {
        let best = left.iter().filter_map(|(_, c)| step(c, facts)).max()?;
        left.retain(|(_, c)| step(c, facts) == Some(best));
    }
    left.first().map(|(index, _)| *index)
}

/// 0 for a chain that does not ask, 1 for one whose wish is met, `None` for one whose wish is not.
fn one(asks_nothing: bool, met: bool) -> Option<usize> {
    if asks_nothing { Some(0) } else { met.then_some(1) }
}

fn prefix(nets: &[IpNet], address: Option<(IpAddr, u16)>) -> Option<usize> {
    if nets.is_empty() {
        return Some(0);
    }
    let (address, _) = address?;
    let address = address.to_canonical();
    nets.iter().filter(|net| net.contains(&address)).map(|net| 1 + net.prefix_len() as usize).max()
}

fn server_name(names: &[String], asked: &str) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    let score = |name: &String| {
        if name == asked {
            return Some(usize::MAX);
        }
        let suffix = name.strip_prefix('*')?;
        (suffix.starts_with('.') && asked.len() > suffix.len() && asked.ends_with(suffix)).then_some(suffix.len())
    };
    names.iter().filter_map(score).max()
}

fn source_type(criteria: &FilterChainMatch, facts: &Facts<'_>) -> Option<usize> {
    let asks_nothing = criteria.source_type == shared_config::listener::SourceType::Any;
    let (Some((remote, _)), Some((local, _))) = (facts.remote, facts.local) else {
        return one(asks_nothing, false);
    };
    one(asks_nothing, criteria.source_type.matches(remote.to_canonical(), local.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> FilterChainMatch {
        FilterChainMatch { server_names: list.iter().map(|n| (*n).to_owned()).collect(), ..FilterChainMatch::default() }
    }

    fn check(chains: &[FilterChainMatch], server_name: &str, port: u16, alpn: &[&str], chosen: Option<usize>) {
        let alpn: Vec<String> = alpn.iter().map(|p| (*p).to_owned()).collect();
        let facts = Facts {
            local: Some(("10.0.0.1".parse().unwrap(), port)),
            direct_remote: Some(("192.0.2.1".parse().unwrap(), 5000)),
            remote: Some(("192.0.2.1".parse().unwrap(), 5000)),
            server_name,
            is_tls: !server_name.is_empty(),
            application_protocols: &alpn,
        };
        assert_eq!(choose(chains.iter(), &facts), chosen, "{server_name} {port}");
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let chains = [
            FilterChainMatch::default(),
            names(&["*.example.com"]),
            names(&["a.example.com"]),
            names(&["*.b.example.com"]),
        ];
        check(&chains, "a.example.com", 443, &[], Some(2));
        check(&chains, "x.example.com", 443, &[], Some(1));
        check(&chains, "x.b.example.com", 443, &[], Some(3));
        check(&chains, "example.com", 443, &[], Some(0));
        check(&chains[1..], "other.com", 443, &[], None);
    }

    #[test]
    fn an_early_criterion_wins_without_a_way_back() {
        let port = FilterChainMatch { destination_port: Some(443), ..names(&["a.com"]) };
        let chains = [FilterChainMatch::default(), port];
        check(&chains, "a.com", 443, &[], Some(1));
        check(&chains, "b.com", 443, &[], None);
        check(&chains, "b.com", 80, &[], Some(0));
    }

    #[test]
    fn the_longest_prefix_and_the_application_protocol_count() {
        let net = |n: &str| FilterChainMatch { sources: vec![n.parse().unwrap()], ..FilterChainMatch::default() };
        check(&[net("192.0.0.0/8"), net("192.0.2.0/24"), net("10.0.0.0/8")], "", 80, &[], Some(1));
        let h2 = FilterChainMatch { application_protocols: vec!["h2".into()], ..FilterChainMatch::default() };
        check(&[FilterChainMatch::default(), h2], "a", 443, &["h2", "http/1.1"], Some(1));
        let raw =
            FilterChainMatch { transport_protocol: Some(TransportProtocol::RawBuffer), ..FilterChainMatch::default() };
        check(std::slice::from_ref(&raw), "a.com", 443, &[], None);
        check(&[raw], "", 443, &[], Some(0));
    }
}
