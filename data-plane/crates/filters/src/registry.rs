//! The list of HTTP filters, and the enum that dispatches to them.
//!
//! To add a filter, write its file in `http/` and its line here; `docs/adding-a-filter.md` has the whole list.

use bytes::Bytes;
use dp_http::{Headers, RequestHead, ResponseHead, StreamInfo};
use shared_config::http_filter::{FilterOverride, HttpFilterConfig};

use crate::filter::{Cx, Flow, HttpFilter};
use crate::http;
use crate::services::Scope;

macro_rules! http_filters {
    ($($name:ident => $module:ident,)+) => {
        /// A compiled filter in its slot.
        pub enum Filter {
            /// Disabled on this route, or nothing to do.
            Off,
            /// Its configuration did not come yet by discovery: requests are refused.
            Missing,
            $($name(http::$module::$name),)+
        }

        /// What the filter of a slot remembers about one stream.
        pub enum FilterStream {
            Off,
            $($name(<http::$module::$name as HttpFilter>::Stream),)+
        }

        impl Filter {
            pub(crate) fn compile(config: &HttpFilterConfig, overrides: &[&FilterOverride], scope: &Scope<'_>) -> Self {
                match config {
                    $(HttpFilterConfig::$name(config) => {
                        // An override of another type than the filter of that name has no effect, as in Envoy.
                        let overrides: Vec<_> = overrides
                            .iter()
                            .filter_map(|o| match o {
                                FilterOverride::$name(o) => Some(o),
                                #[allow(unreachable_patterns)]
                                _ => None,
                            })
                            .collect();
                        <http::$module::$name as HttpFilter>::compile(config, &overrides, scope).map_or(Self::Off, Self::$name)
                    })+
                }
            }

            pub(crate) fn stream(&self) -> FilterStream {
                match self {
                    Self::Off | Self::Missing => FilterStream::Off,
                    $(Self::$name(_) => FilterStream::$name(Default::default()),)+
                }
            }

            pub(crate) fn on_end(&self, stream: &mut FilterStream, info: &StreamInfo) {
                match (self, stream) {
                    $((Self::$name(filter), FilterStream::$name(stream)) => filter.on_end(stream, info),)+
                    _ => {}
                }
            }

            http_filters! { @hooks $($name)+;
                on_request(head: &mut RequestHead);
                on_request_held(head: &mut RequestHead, body: &mut Bytes);
                on_request_data(data: &mut Bytes, end: bool);
                on_request_trailers(trailers: &mut Headers);
                on_response(head: &mut ResponseHead);
                on_response_held(head: &mut ResponseHead, body: &mut Bytes);
                on_response_data(data: &mut Bytes, end: bool);
                on_response_trailers(trailers: &mut Headers);
            }
        }
    };
    (@hooks $($name:ident)+; $hook:ident $arguments:tt; $($rest:tt)*) => {
        http_filters! { @hook $hook $arguments $($name)+ }
        http_filters! { @hooks $($name)+; $($rest)* }
    };
    (@hooks $($name:ident)+;) => {};
    (@hook $hook:ident ($a:ident: $a_type:ty) $($name:ident)+) => {
        pub(crate) fn $hook(&self, stream: &mut FilterStream, cx: &mut Cx<'_>, $a: $a_type) -> Flow {
            match (self, stream) {
                $((Self::$name(filter), FilterStream::$name(stream)) => filter.$hook(stream, cx, $a),)+
                // Off, or another route's override changed what the slot holds after this stream passed it.
                _ => Flow::Continue,
            }
        }
    };
    (@hook $hook:ident ($a:ident: $a_type:ty, $b:ident: $b_type:ty) $($name:ident)+) => {
        pub(crate) fn $hook(&self, stream: &mut FilterStream, cx: &mut Cx<'_>, $a: $a_type, $b: $b_type) -> Flow {
            match (self, stream) {
                $((Self::$name(filter), FilterStream::$name(stream)) => filter.$hook(stream, cx, $a, $b),)+
                _ => Flow::Continue,
            }
        }
    };
}

http_filters! {
    Buffer => buffer,
    Compressor => compressor,
    Cors => cors,
    DynamicForwardProxy => dynamic_forward_proxy,
    Fault => fault,
    HeaderMutation => header_mutation,
    HealthCheck => health_check,
    LocalRatelimit => local_ratelimit,
    Rbac => rbac,
    Router => router,
    SetFilterState => set_filter_state,
    StatefulSession => stateful_session,
}

const _: () = assert!(size_of::<FilterStream>() <= 64, "box the cold part of this filter's Stream");
