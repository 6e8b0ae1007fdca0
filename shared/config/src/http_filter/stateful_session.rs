//! `envoy.extensions.filters.http.stateful_session.v3`: requests of a session go to the endpoint of its first one.

use proto::envoy::config::core::v3::TypedExtensionConfig;
use proto::envoy::extensions::filters::http::stateful_session::v3 as wire;
use proto::envoy::extensions::filters::http::stateful_session::v3::stateful_session_per_route::Override as Choice;
use proto::envoy::extensions::http::stateful_session::{cookie, header};

use super::Decode;
use crate::core;
use crate::header::is_header_name;
use crate::invalid::Problems;
use crate::route::CookieSpec;

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Nothing is done without.
    pub state: Option<State>,
    /// When the endpoint cannot take a request, no other one does.
    pub strict: bool,
    /// What is answered then.
    pub strict_status: u16,
    /// Nothing is counted without one.
    pub stat_prefix: String,
}

/// Where the client keeps the address of its endpoint.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Without a time to live it lives as long as the browser.
    Cookie(CookieSpec),
    /// Lower case.
    Header(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Override {
    Disabled,
    Config(Config),
}

// === decode ===

impl Decode for Config {
    type Proto = wire::StatefulSession;

    fn decode(proto: &wire::StatefulSession, p: &mut Problems) -> Option<Self> {
        let strict_status = match u16::try_from(proto.status_on_strict_destination_not_found) {
            Ok(0) => 503,
            Ok(status @ 200..=599) => status,
            _ => {
                return p.refuse_at("status_on_strict_destination_not_found", "must be an HTTP status from 200 to 599");
            }
        };
        let state = match &proto.session_state {
            Some(extension) => Some(p.at("session_state.typed_config", |p| State::decode(extension, p))?),
            None => None,
        };
        Some(Self { state, strict: proto.strict, strict_status, stat_prefix: proto.stat_prefix.clone() })
    }
}

impl State {
    fn decode(extension: &TypedExtensionConfig, p: &mut Problems) -> Option<Self> {
        let Some(any) = &extension.typed_config else {
            p.refuse("required");
            return None;
        };
        let any = &core::extension(any, p)?;
        if any.is::<cookie::v3::CookieBasedSessionState>() {
            let state = core::unpack::<cookie::v3::CookieBasedSessionState>(any, p)?;
            let Some(cookie) = &state.cookie else { return p.refuse_at("cookie", "required") };
            let attributes: Vec<_> = cookie.attributes.iter().map(|a| (a.name.clone(), a.value.clone())).collect();
            let spec =
                p.at("cookie", |p| CookieSpec::decode(&cookie.name, cookie.ttl.as_ref(), &cookie.path, &attributes, p));
            return spec.map(Self::Cookie);
        }
        if any.is::<header::v3::HeaderBasedSessionState>() {
            let state = core::unpack::<header::v3::HeaderBasedSessionState>(any, p)?;
            if !is_header_name(&state.name) {
                return p.refuse_at("name", format!("{:?} is not a header name", state.name));
            }
            return Some(Self::Header(state.name.to_ascii_lowercase()));
        }
        p.refuse(format!("{} is not implemented by weir-proxy; cookie and header are", any.type_name()));
        None
    }
}

impl Decode for Override {
    type Proto = wire::StatefulSessionPerRoute;

    fn decode(proto: &wire::StatefulSessionPerRoute, p: &mut Problems) -> Option<Self> {
        match &proto.r#override {
            Some(Choice::Disabled(true)) => Some(Self::Disabled),
            Some(Choice::Disabled(false)) => p.refuse_at("disabled", "must be true"),
            Some(Choice::StatefulSession(config)) => {
                p.at("stateful_session", |p| Config::decode(config, p)).map(Self::Config)
            }
            None => p.refuse_at("override", "required"),
        }
    }
}
