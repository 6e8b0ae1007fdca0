//! `envoy.extensions.filters.http.set_filter_state.v3`: writes what is known of a request where other filters, hash
//! policies and logs find it.

use proto::envoy::extensions::filters::http::set_filter_state::v3 as wire;

use super::Decode;
use crate::filter_state::{FilterStateValue, values};
use crate::invalid::Problems;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub on_request: Vec<FilterStateValue>,
    /// The route is matched again afterwards.
    pub reroute: bool,
}

/// On a route it takes the place of the one in the chain.
pub type Override = Config;

impl Decode for Config {
    type Proto = wire::Config;

    fn decode(proto: &wire::Config, p: &mut Problems) -> Option<Self> {
        let before = p.count();
        let on_request = values("on_request_headers", &proto.on_request_headers, false, p);
        (p.count() == before).then_some(Self { on_request, reroute: proto.clear_route_cache })
    }
}
