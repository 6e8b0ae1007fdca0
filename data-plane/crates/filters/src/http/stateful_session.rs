//! The stateful_session filter: the client carries the address of the endpoint that served it, in a cookie or header.
//!
//! It only asks for an endpoint; whether that is in the cluster and well enough is decided where endpoints are picked,
//! so that a client cannot make the proxy connect to an address of its own.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dp_http::cookie::{cookie, set_cookie};
use dp_http::flags::Flags;
use dp_http::info::{Address, StickyHost};
use dp_http::{HeaderName, RequestHead, ResponseHead, name};
use shared_config::http_filter::stateful_session::{Config, Override, State};
use shared_config::route::CookieSpec;
use shared_telemetry::stats;

use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;

use token::Token;

mod token;

pub struct StatefulSession {
    carrier: Carrier,
    is_strict: bool,
    status: u16,
    stats: Option<Arc<Stats>>,
}

stats! {
    /// `http.STAT_PREFIX.stateful_session.PREFIX.`
    struct Stats {
        counter routed,
        counter failed_open,
        counter failed_closed,
        counter no_session,
    }
}

enum Carrier {
    Cookie(CookieSpec),
    Header(HeaderName),
}

/// The session of one stream.
#[derive(Default)]
pub struct Session {
    /// It passed this filter, on a path that the cookie is for.
    is_active: bool,
    /// The endpoint that the client asked for.
    address: Option<Address>,
}

impl HttpFilter for StatefulSession {
    type Config = Config;
    type Override = Override;
    type Stream = Session;

    fn compile(config: &Config, overrides: &[&Override], scope: &Scope<'_>) -> Option<Self> {
        // Only the filter itself counts, not its overrides, as in Envoy.
        let stats = (!config.stat_prefix.is_empty()).then(|| {
            let place = scope.stats("stateful_session").child(&config.stat_prefix);
            Stats::register(scope.registry(), place)
        });
        let config = match overrides.last() {
            Some(Override::Disabled) => return None,
            Some(Override::Config(config)) => config,
            None => config,
        };
        let carrier = match config.state.as_ref()? {
            State::Cookie(spec) => Carrier::Cookie(spec.clone()),
            State::Header(header) => match HeaderName::new(header) {
                Ok(header) => Carrier::Header(header),
                Err(error) => {
                    scope.refuse(error);
                    return None;
                }
            },
        };
        Some(Self { carrier, is_strict: config.strict, status: config.strict_status, stats })
    }

    fn on_request(&self, session: &mut Session, cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        let token = match &self.carrier {
            Carrier::Cookie(spec) if !is_below(head.path(), &spec.path) => return Flow::Continue,
            Carrier::Cookie(spec) => {
                cookie(&head.headers, &spec.name).and_then(|value| Token::read(value, cx.info.start))
            }
            Carrier::Header(header) => head.headers.get(header).and_then(Token::read_plain),
        };
        session.is_active = true;
        session.address = token;
        cx.info.sticky = session
            .address
            .clone()
            .map(|address| Box::new(StickyHost { address, is_strict: self.is_strict, status: self.status }));
        Flow::Continue
    }

    fn on_response(&self, session: &mut Session, cx: &mut Cx<'_>, head: &mut ResponseHead) -> Flow {
        self.count(session, cx);
        let Some(host) = cx.info.upstream.host.as_ref().filter(|_| session.is_active) else { return Flow::Continue };
        if session.address.as_ref() == Some(host) {
            return Flow::Continue;
        }
        match &self.carrier {
            Carrier::Cookie(spec) => {
                let seconds = spec.ttl.map_or(0, |ttl| ttl.as_secs());
                let expires = (seconds > 0).then(|| unix_seconds(cx.info.start) + seconds);
                let value = Token::write(host, expires);
                let value = set_cookie(&spec.name, &value, seconds, &spec.path, &spec.attributes);
                head.headers.append(&name::SET_COOKIE, value.as_bytes());
            }
            Carrier::Header(header) => head.headers.set(header, Token::write_plain(host).as_bytes()),
        }
        Flow::Continue
    }
}

impl StatefulSession {
    fn count(&self, session: &Session, cx: &Cx<'_>) {
        let Some(stats) = self.stats.as_ref().filter(|_| session.is_active) else { return };
        let counter = match (&session.address, &cx.info.upstream.host) {
            (None, Some(_)) => stats.no_session(),
            (Some(address), Some(host)) if address == host => stats.routed(),
            (Some(_), Some(_)) if !self.is_strict => stats.failed_open(),
            (Some(_), None) if self.is_strict && cx.info.flags.has(Flags::NO_HEALTHY_UPSTREAM) => stats.failed_closed(),
            _ => return,
        };
        counter.inc(cx.shard());
    }
}

/// Whether a cookie with this path is sent with a request for `path`.
fn is_below(path: &str, cookie_path: &str) -> bool {
    if cookie_path.is_empty() || cookie_path == "/" {
        return true;
    }
    match path.strip_prefix(cookie_path) {
        Some(rest) => cookie_path.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?', '#']),
        None => false,
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
