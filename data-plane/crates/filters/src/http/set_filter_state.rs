//! The set_filter_state filter: writes what is known of a request for hash policies, access control and logs.

use dp_http::RequestHead;
use shared_config::http_filter::set_filter_state::Config;

use crate::filter::{Cx, Flow, HttpFilter};
use crate::services::Scope;
use crate::state::Objects;

pub struct SetFilterState {
    on_request: Objects,
    reroute: bool,
}

impl HttpFilter for SetFilterState {
    type Config = Config;
    type Override = Config;
    type Stream = ();

    fn compile(config: &Config, overrides: &[&Config], scope: &Scope<'_>) -> Option<Self> {
        let config = overrides.last().copied().unwrap_or(config);
        let on_request = Objects::compile(&config.on_request).map_err(|error| scope.refuse(error)).ok()?;
        (!on_request.is_empty()).then_some(Self { on_request, reroute: config.reroute })
    }

    fn on_request(&self, _s: &mut (), cx: &mut Cx<'_>, head: &mut RequestHead) -> Flow {
        self.on_request.write(cx.info, Some(head));
        if self.reroute { Flow::Reroute } else { Flow::Continue }
    }
}

#[cfg(test)]
mod tests {
    use dp_http::Method;
    use dp_http::info::FilterObject;
    use shared_config::filter_state::FilterStateValue;
    use shared_config::http_filter::HttpFilterConfig;
    use shared_config::substitution::{SubstitutionFormat, Template};

    use super::*;
    use crate::testing::{Origin, Proxy, filter};

    fn value(key: &str, format: &str) -> FilterStateValue {
        let format = SubstitutionFormat::of(Template::Text(format.into()));
        FilterStateValue { key: key.into(), format, hashable: false, skip_if_empty: false }
    }

    /// What stands under `key` after a request with `x-user: ann`.
    async fn check(on_request: Vec<FilterStateValue>, key: &str, expected: Option<&str>) -> Option<FilterObject> {
        let config = Config { on_request, reroute: false };
        let proxy = Proxy::new(&[filter("set", HttpFilterConfig::SetFilterState(config))]);
        let mut head = RequestHead::new(Method::Get, "a", "/");
        head.headers.set("x-user", b"ann");
        let info = proxy.exchange(head, &[], &Origin::default()).await.info;
        let object = info.filter_object(key).cloned();
        assert_eq!(object.as_ref().map(|object| &*object.text), expected);
        object
    }

    #[tokio::test]
    async fn what_is_known_of_a_request_is_written() {
        check(vec![value("a", "u=%REQ(x-user)%")], "a", Some("u=ann")).await;
        check(vec![value("a", "%REQ(x-none)%")], "a", Some("-")).await;
        check(vec![value("a", "1"), value("a", "2%FILTER_STATE(a:PLAIN)%")], "a", Some("21")).await;
        let mut skipped = value("a", "%REQ(x-none)%");
        (skipped.skip_if_empty, skipped.format.omit_empty_values) = (true, true);
        check(vec![skipped], "a", None).await;
    }

    #[tokio::test]
    async fn hash_policies_find_only_what_was_made_for_them() {
        let mut hashable = value("a", "x");
        hashable.hashable = true;
        assert!(check(vec![hashable], "a", Some("x")).await.unwrap().hashable);
        assert!(!check(vec![value("a", "x")], "a", Some("x")).await.unwrap().hashable);
    }
}
