//! The dynamic_forward_proxy filter: a request to a forward proxy cluster waits here until its host is resolved.
//!
//! Looks names up in a cache that the cluster shares; never asks a name server itself.

use std::sync::Arc;

use dp_http::flags::Flags;
use dp_http::{LocalReply, RequestHead};
use shared_config::http_filter::dynamic_forward_proxy::{Config, Override};

use crate::filter::{Cx, Flow, HeaderEdits, HttpFilter, Verdict};
use crate::services::{NameLookup, Names, Scope};

pub struct DynamicForwardProxy {
    names: Arc<dyn Names>,
    rewrite: Option<Override>,
}

impl HttpFilter for DynamicForwardProxy {
    type Config = Config;
    type Override = Override;
    type Stream = ();

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        match scope.services.names.cache(&config.cache) {
            Ok(names) => Some(Self { names, rewrite: overrides.last().map(|o| (*o).clone()) }),
            Err(reason) => {
                scope.refuse(reason);
                None
            }
        }
    }

    fn on_request(&self, _s: &mut (), cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        let Some(port) = cx.forward_port else { return Flow::Continue };
        match &self.rewrite {
            None => {}
            Some(Override::Literal(host)) => head.set_authority(host),
            Some(Override::Header(name)) => {
                if let Some(host) = head.headers.text(name.as_str()).map(str::to_owned) {
                    head.set_authority(&host);
                }
            }
        }
        if head.authority().is_empty() {
            return reply(400, "empty_host_header", "Empty host header");
        }
        match self.names.look_up(head.authority(), port) {
            NameLookup::Found => Flow::Continue,
            NameLookup::Failed => Flow::Reply(unresolved()),
            NameLookup::Overflow => reply(503, "dns_cache_overflow", "DNS cache overflow"),
            NameLookup::PendingOverflow => reply(
                503,
                "dynamic_forward_proxy_pending_request_overflow",
                "Dynamic forward proxy pending request overflow",
            ),
            NameLookup::Waiting(found) => Flow::Wait(Box::pin(async move {
                if found.await { Verdict::Continue(HeaderEdits::default()) } else { Verdict::Reply(unresolved()) }
            })),
        }
    }
}

fn reply(status: u16, details: &'static str, body: &'static str) -> Flow {
    Flow::Reply(Box::new(LocalReply::new(status, details).body(body)))
}

fn unresolved() -> Box<LocalReply> {
    let mut reply = LocalReply::new(503, "dns_resolution_failure").body("DNS resolution failure");
    reply.flags.set(Flags::DNS_RESOLUTION_FAILED);
    Box::new(reply)
}

#[cfg(test)]
mod tests;
