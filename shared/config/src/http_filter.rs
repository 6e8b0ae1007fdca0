//! HTTP filters in the chain of a connection manager, and their configuration on routes.
//!
//! One line a filter in the list below; its type, decode, refusals and tests are in `http_filter/<name>.rs`.

use std::collections::BTreeMap;

use proto::Any;
use proto::envoy::config::core::v3::ExtensionConfigSource;
use proto::envoy::config::route::v3::FilterConfig;
use proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use crate::core::{self, ConfigSource};
use crate::invalid::Problems;

pub mod buffer;
pub mod compressor;
pub mod cors;
pub mod dynamic_forward_proxy;
pub mod fault;
pub mod header_mutation;
pub mod health_check;
pub mod local_ratelimit;
pub mod rbac;
pub mod router;
pub mod set_filter_state;
pub mod stateful_session;

/// The most filters a chain may hold: one bit each in the data plane.
pub const MAX_FILTERS: usize = 32;

/// A filter in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpFilter {
    /// What routes refer to it by.
    pub name: String,
    pub source: FilterSource,
    /// Off unless a route switches it on.
    pub disabled: bool,
}

/// Where the configuration of a filter comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum FilterSource {
    Config(HttpFilterConfig),
    Discovery(ConfigDiscovery),
}

/// A filter that gets its configuration by ECDS, under its own name.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigDiscovery {
    pub source: ConfigSource,
    /// Used until something better came.
    pub default_config: Option<HttpFilterConfig>,
    /// Serve with the default at once instead of waiting for the first configuration.
    pub apply_default_config_without_warming: bool,
    /// The full message names that may come.
    pub type_names: Vec<String>,
}

/// What a route, virtual host or route table says about one filter.
#[derive(Debug, Clone, PartialEq)]
pub struct PerRouteConfig {
    pub disabled: bool,
    pub config: Option<FilterOverride>,
}

/// By the name of the filter in the chain.
pub type PerRouteConfigs = BTreeMap<String, PerRouteConfig>;

/// The wire type of a configuration and how it is read.
pub(crate) trait Decode: Sized {
    type Proto: prost::Message + prost::Name + Default;
    fn decode(proto: &Self::Proto, p: &mut Problems) -> Option<Self>;
}

/// For filters that cannot be configured on a route; there is no value of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoOverride {}

macro_rules! http_filters {
    ($($name:ident => $module:ident,)+) => {
        /// The configuration of a filter in the chain.
        #[derive(Debug, Clone, PartialEq)]
        pub enum HttpFilterConfig { $($name($module::Config),)+ }

        /// The configuration of a filter on a route.
        #[derive(Debug, Clone, PartialEq)]
        pub enum FilterOverride { $($name($module::Override),)+ }

        impl HttpFilterConfig {
            /// The full name of the message that this is decoded from.
            pub fn type_name(&self) -> String {
                match self {
                    $(Self::$name(_) => <<$module::Config as Decode>::Proto as prost::Name>::full_name(),)+
                }
            }
        }

        /// The full names of the messages that configure the filters we have.
        pub const TYPE_NAMES: &[fn() -> String] =
            &[$(<<$module::Config as Decode>::Proto as prost::Name>::full_name,)+];

        fn decode_known(any: &Any, p: &mut Problems) -> Option<Option<HttpFilterConfig>> {
            $(if let Some(read) = unpack::<$module::Config>(any, p) {
                return Some(read.map(HttpFilterConfig::$name));
            })+
            None
        }

        fn decode_known_override(any: &Any, p: &mut Problems) -> Option<Option<FilterOverride>> {
            $(if let Some(read) = unpack::<$module::Override>(any, p) {
                return Some(read.map(FilterOverride::$name));
            })+
            None
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

// === decode ===

/// Reads the filters of a connection manager, and checks that the chain as a whole makes sense.
pub fn decode_chain(protos: &[hcm::HttpFilter], p: &mut Problems) -> Vec<HttpFilter> {
    let before = p.count();
    let filters = p.each("http_filters", protos, |p, proto| decode(proto, p));
    if p.count() == before {
        p.at("http_filters", |p| check_chain(&filters, p));
    }
    filters
}

/// Refuses a chain that is too long, or in which the router is not the last filter and the only one of its kind.
pub fn check_chain(filters: &[HttpFilter], p: &mut Problems) {
    if filters.len() > MAX_FILTERS {
        p.refuse(format!("{} filters, at most {MAX_FILTERS} are possible", filters.len()));
    }
    let is_router = |f: &HttpFilter| matches!(f.source, FilterSource::Config(HttpFilterConfig::Router(_)));
    match filters.split_last() {
        Some((last, others)) => {
            if !is_router(last) {
                p.index(others.len(), |p| p.refuse(format!("the last filter must be the router, not {}", last.name)));
            } else if last.disabled {
                p.index(others.len(), |p| p.refuse("the router cannot be disabled"));
            }
            for (i, filter) in others.iter().enumerate().filter(|(_, f)| is_router(f)) {
                p.index(i, |p| p.refuse(format!("{}: the router must be the last filter", filter.name)));
            }
        }
        None => p.refuse("empty; the last filter must be the router"),
    }
}

/// Reads one filter of the chain; `None` when it is refused, or optional and unknown.
pub fn decode(proto: &hcm::HttpFilter, p: &mut Problems) -> Option<HttpFilter> {
    use hcm::http_filter::ConfigType;
    if proto.name.is_empty() {
        p.refuse_at("name", "empty")?;
    }
    let source = match &proto.config_type {
        Some(ConfigType::TypedConfig(any)) => {
            FilterSource::Config(p.at("typed_config", |p| decode_config(any, proto.is_optional, p))?)
        }
        Some(ConfigType::ConfigDiscovery(discovery)) => {
            FilterSource::Discovery(p.at("config_discovery", |p| decode_discovery(discovery, p))?)
        }
        None => return p.refuse_at("typed_config", "required"),
    };
    Some(HttpFilter { name: proto.name.clone(), source, disabled: proto.disabled })
}

/// Reads the configuration of a filter, as in a chain or in an ECDS resource.
pub fn decode_config(any: &Any, is_optional: bool, p: &mut Problems) -> Option<HttpFilterConfig> {
    let any = &core::extension(any, p)?;
    match decode_known(any, p) {
        Some(config) => config,
        None if is_optional => None,
        None => {
            p.refuse(format!("no HTTP filter of type {:?} in weir-proxy", any.type_name()));
            None
        }
    }
}

fn decode_discovery(proto: &ExtensionConfigSource, p: &mut Problems) -> Option<ConfigDiscovery> {
    let before = p.count();
    let source = match &proto.config_source {
        Some(source) => p.at("config_source", |p| core::config_source(source, p)),
        None => p.refuse_at("config_source", "required"),
    };
    if proto.type_urls.is_empty() {
        p.at("type_urls", |p| p.refuse("empty"));
    }
    let name = |url: &String| url.rsplit('/').next().unwrap_or_default().to_owned();
    let type_names = p.each("type_urls", &proto.type_urls, |p, url| {
        let name = name(url);
        if !TYPE_NAMES.iter().any(|known| known() == name) {
            p.refuse(format!("no HTTP filter of type {name:?} in weir-proxy"));
        }
        Some(name)
    });
    let default_config = match &proto.default_config {
        Some(any) => Some(p.at("default_config", |p| decode_config(any, false, p))?),
        None => None,
    };
    if proto.apply_default_config_without_warming && default_config.is_none() {
        p.at("default_config", |p| p.refuse("required by apply_default_config_without_warming"));
    }
    (p.count() == before).then_some(ConfigDiscovery {
        source: source?,
        default_config,
        apply_default_config_without_warming: proto.apply_default_config_without_warming,
        type_names,
    })
}

/// Reads what a route, virtual host or route table says about the filter `name`; `None` when it is refused, or
/// optional and unknown.
pub fn decode_per_route(_name: &str, any: &Any, p: &mut Problems) -> Option<PerRouteConfig> {
    if let Some(wrapper) = any.unpack::<FilterConfig>() {
        let Ok(wrapper) = wrapper else {
            p.refuse("the bytes are not an encoded envoy.config.route.v3.FilterConfig");
            return None;
        };
        if wrapper.disabled {
            return Some(PerRouteConfig { disabled: true, config: None });
        }
        return match &wrapper.config {
            // Without a configuration it only switches the filter on.
            None => Some(PerRouteConfig { disabled: false, config: None }),
            Some(any) => p.at("config", |p| decode_override(any, wrapper.is_optional, p)),
        };
    }
    decode_override(any, false, p)
}

fn decode_override(any: &Any, is_optional: bool, p: &mut Problems) -> Option<PerRouteConfig> {
    let any = &core::extension(any, p)?;
    match decode_known_override(any, p) {
        Some(config) => Some(PerRouteConfig { disabled: false, config: Some(config?) }),
        None if is_optional => None,
        None => {
            p.refuse(format!("no route configuration of an HTTP filter has type {:?} in weir-proxy", any.type_name()));
            None
        }
    }
}

/// The inner `None`: it is of this type and was refused.
fn unpack<T: Decode>(any: &Any, p: &mut Problems) -> Option<Option<T>> {
    Some(match any.unpack::<T::Proto>()? {
        Ok(proto) => T::decode(&proto, p),
        Err(error) => {
            p.refuse(format!("the bytes are not an encoded {}: {error}", any.type_name()));
            None
        }
    })
}

impl Decode for NoOverride {
    type Proto = ();

    fn decode(_proto: &(), p: &mut Problems) -> Option<Self> {
        p.refuse("no HTTP filter is configured on a route by google.protobuf.Empty");
        None
    }
}

#[cfg(test)]
mod tests;
