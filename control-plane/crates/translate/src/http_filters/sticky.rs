//! Sessions that stay with their endpoint: envoy.filters.http.stateful_session.

use cp_model::cluster::Sticky;
use cp_model::cluster::balance::StickyBy;
use serde_json::{Value, json};

use crate::build::{duration, extension, set, typed};

pub(super) const NAME: &str = "envoy.filters.http.stateful_session";
const MESSAGE: &str = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession";

pub(super) fn idle() -> Value {
    super::idle(NAME, MESSAGE, json!({}))
}

pub(super) fn per_route(sticky: &Sticky) -> Value {
    let state = match &sticky.by {
        StickyBy::Cookie { name, ttl, path } => {
            let mut cookie = json!({ "name": name, "path": path.as_deref().unwrap_or("/") });
            set(&mut cookie, "ttl", ttl.map(duration));
            extension(
                "envoy.http.stateful_session.cookie",
                "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
                json!({ "cookie": cookie }),
            )
        }
        StickyBy::Header(name) => extension(
            "envoy.http.stateful_session.header",
            "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState",
            json!({ "name": name }),
        ),
    };
    let mut session = json!({ "session_state": state });
    set(&mut session, "strict", sticky.strict.then_some(true));
    typed(
        "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute",
        json!({ "stateful_session": session }),
    )
}
