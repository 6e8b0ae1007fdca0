//! In which order the addresses of one endpoint are tried ("happy eyeballs", RFC 8305).

use proto::envoy::config::cluster::v3 as wire;
use wire::upstream_connection_options::FirstAddressFamilyVersion as Version;

use crate::core::Address;
use crate::invalid::Problems;

/// Which family comes first, and how many of it before the other one has its turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HappyEyeballs {
    /// `None`: that of the endpoint's own address.
    pub first: Option<Family>,
    /// At least 1.
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    Pipe,
}

impl Default for HappyEyeballs {
    fn default() -> Self {
        Self { first: None, count: 1 }
    }
}

impl HappyEyeballs {
    /// The addresses in the order they are to be tried.
    pub fn order<'a>(&self, addresses: &[&'a Address]) -> Vec<&'a Address> {
        let first = self.first.or_else(|| addresses.first().map(|address| Family::of(address)));
        let (first, others): (Vec<&Address>, Vec<&Address>) =
            addresses.iter().partition(|address| Some(Family::of(address)) == first);
        let (mut first, mut others) = (first.into_iter(), others.into_iter());
        let mut ordered: Vec<&Address> = first.by_ref().take(self.count as usize).collect();
        loop {
            match (others.next(), first.next()) {
                (None, None) => return ordered,
                (other, first) => ordered.extend(other.into_iter().chain(first)),
            }
        }
    }

    pub(crate) fn decode(proto: &wire::Cluster, p: &mut Problems) -> Self {
        let options = proto.upstream_connection_options.as_ref();
        let Some(config) = options.and_then(|options| options.happy_eyeballs_config.as_ref()) else {
            return Self::default();
        };
        p.at("upstream_connection_options", |p| {
            p.at("happy_eyeballs_config", |p| {
                let first = match Version::try_from(config.first_address_family_version) {
                    Ok(Version::Default) => None,
                    Ok(Version::V4) => Some(Family::V4),
                    Ok(Version::V6) => Some(Family::V6),
                    Ok(Version::Pipe) => Some(Family::Pipe),
                    Ok(Version::Internal) | Err(_) => {
                        p.refuse_at("first_address_family_version", "is not DEFAULT, V4, V6 or PIPE")
                    }
                };
                let count = config.first_address_family_count.unwrap_or(1);
                if count == 0 {
                    p.refuse_at::<()>("first_address_family_count", "must be at least 1");
                }
                Self { first, count: count.max(1) }
            })
        })
    }
}

impl Family {
    fn of(address: &Address) -> Self {
        match address {
            Address::Ip(address) if address.is_ipv4() => Self::V4,
            Address::Ip(_) => Self::V6,
            Address::Pipe { .. } | Address::Name { .. } => Self::Pipe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(first: Option<Family>, count: u32, given: &[&str], wanted: &[&str]) {
        let addresses: Vec<Address> = given.iter().map(|text| Address::Ip(text.parse().unwrap())).collect();
        let order = HappyEyeballs { first, count };
        let ordered: Vec<String> =
            order.order(&addresses.iter().collect::<Vec<_>>()).iter().map(ToString::to_string).collect();
        assert_eq!(ordered, wanted);
    }

    #[test]
    fn the_families_take_turns() {
        let (a, b, c) = ("[::1]:1", "[::2]:1", "[::3]:1");
        let (x, y) = ("1.1.1.1:1", "2.2.2.2:1");
        check(None, 1, &[a, b, c, x, y], &[a, x, b, y, c]);
        check(None, 2, &[a, b, c, x, y], &[a, b, x, c, y]);
        check(Some(Family::V4), 1, &[a, b, x, y], &[x, a, y, b]);
        check(Some(Family::V6), 1, &[x, y], &[x, y]);
    }
}
