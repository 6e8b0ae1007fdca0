//! The header_mutation filter: changes headers, trailers and query parameters at its place in the chain.
//!
//! The mutations of the chain come first, then those of the route's levels. The route is not matched again.

use dp_http::{Headers, RequestHead, ResponseHead};
use shared_config::http_filter::header_mutation::{Config, Override};

use crate::fields::Change;
use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;

mod query;

use query::QueryChange;

pub struct HeaderMutation {
    request: Box<[Change]>,
    request_trailers: Box<[Change]>,
    response: Box<[Change]>,
    response_trailers: Box<[Change]>,
    query: Box<[QueryChange]>,
}

impl HttpFilter for HeaderMutation {
    type Config = Config;
    type Override = Override;
    type Stream = ();

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        let mut levels: Vec<_> = overrides.iter().map(|Override(mutations)| mutations).collect();
        if !config.most_specific_wins {
            levels.reverse();
        }
        levels.insert(0, &config.mutations);
        let changes = |of: fn(&_) -> &Vec<_>| {
            levels.iter().flat_map(&of).filter_map(|mutation| Change::compile(mutation, scope)).collect()
        };
        let filter = Self {
            request: changes(|level| &level.request),
            request_trailers: changes(|level| &level.request_trailers),
            response: changes(|level| &level.response),
            response_trailers: changes(|level| &level.response_trailers),
            query: levels
                .iter()
                .flat_map(|level| &level.query)
                .filter_map(|change| QueryChange::compile(change, scope))
                .collect(),
        };
        (!filter.is_empty()).then_some(filter)
    }

    fn on_request(&self, _s: &mut (), cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        for change in &self.request {
            if let Some(field) = change.remove(&mut head.headers) {
                field.add_to_request(cx.info, head);
            }
        }
        for change in &self.query {
            change.apply(cx.info, head);
        }
        Flow::Continue
    }

    fn on_request_trailers(&self, _s: &mut (), cx: &mut Cx<'_>, trailers: &mut Headers) -> Flow {
        change_trailers(&self.request_trailers, cx, trailers);
        Flow::Continue
    }

    fn on_response(&self, _s: &mut (), cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        for change in &self.response {
            if let Some(field) = change.remove(&mut head.headers) {
                field.add_to_response(cx.info, cx.request, head);
            }
        }
        Flow::Continue
    }

    fn on_response_trailers(&self, _s: &mut (), cx: &mut Cx<'_>, trailers: &mut Headers) -> Flow {
        change_trailers(&self.response_trailers, cx, trailers);
        Flow::Continue
    }
}

impl HeaderMutation {
    fn is_empty(&self) -> bool {
        [&self.request, &self.request_trailers, &self.response, &self.response_trailers].iter().all(|l| l.is_empty())
            && self.query.is_empty()
    }
}

fn change_trailers(changes: &[Change], cx: &mut Cx<'_>, trailers: &mut Headers) {
    for change in changes {
        if let Some(field) = change.remove(trailers) {
            field.add_to_trailers(cx.info, cx.request, trailers);
        }
    }
}

#[cfg(test)]
mod tests;
