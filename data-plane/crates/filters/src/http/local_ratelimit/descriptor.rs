//! What a request is counted as: descriptors, made by the actions of a rate limit.

use std::borrow::Cow;
use std::sync::Arc;

use dp_format::query::parameter as query_parameter;
use dp_http::info::Address;
use dp_http::{RequestHead, StreamInfo};
use ipnet::IpNet;
use shared_config::http_filter::local_ratelimit::{Action, RateLimit};
use shared_config::matcher::QueryParameterMatcher;

use crate::matching::{HeaderMatch, Source};
use crate::services::Scope;

/// One descriptor of a request.
pub(super) struct Descriptor<'a> {
    pub(super) entries: Vec<(&'a str, Cow<'a, str>)>,
    pub(super) hits: u32,
}

/// Makes one descriptor of each request that has all it needs.
pub(super) struct Generator {
    actions: Box<[Step]>,
    hits: u32,
}

enum Step {
    SourceCluster(Arc<str>),
    DestinationCluster,
    RemoteAddress,
    MaskedRemoteAddress { v4: u8, v6: u8 },
    Constant { key: String, value: String },
    Header { key: String, source: Source, skip_if_absent: bool },
    Query { key: String, parameter: String, skip_if_absent: bool },
    HeaderMatch { key: String, value: String, expect: bool, headers: Box<[HeaderMatch]> },
    QueryMatch { key: String, value: String, expect: bool, parameters: Vec<QueryParameterMatcher> },
}

/// What a step adds.
enum Entry<'a> {
    Add(&'a str, Cow<'a, str>),
    Skip,
    /// No descriptor of this request.
    None,
}

impl Generator {
    pub(super) fn compile(limit: &RateLimit, scope: &Scope<'_>) -> Self {
        let step = |action: &Action| match action.clone() {
            Action::SourceCluster => Step::SourceCluster(Arc::clone(&scope.services.node_cluster)),
            Action::DestinationCluster => Step::DestinationCluster,
            Action::RemoteAddress => Step::RemoteAddress,
            Action::MaskedRemoteAddress { v4, v6 } => Step::MaskedRemoteAddress { v4, v6 },
            Action::GenericKey { key, value } => Step::Constant { key, value },
            Action::RequestHeader { key, header, skip_if_absent } => {
                Step::Header { key, source: Source::new(&header), skip_if_absent }
            }
            Action::QueryParameter { key, parameter, skip_if_absent } => Step::Query { key, parameter, skip_if_absent },
            Action::HeaderMatch { key, value, expect, headers } => {
                Step::HeaderMatch { key, value, expect, headers: HeaderMatch::all(&headers) }
            }
            Action::QueryMatch { key, value, expect, parameters } => {
                Step::QueryMatch { key, value, expect, parameters }
            }
        };
        Self { actions: limit.actions.iter().map(step).collect(), hits: limit.hits }
    }

    pub(super) fn descriptor<'a>(&'a self, info: &'a StreamInfo, head: &'a RequestHead) -> Option<Descriptor<'a>> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(info, head) {
                Entry::Add(key, value) => entries.push((key, value)),
                Entry::Skip => {}
                Entry::None => return None,
            }
        }
        (!entries.is_empty()).then_some(Descriptor { entries, hits: self.hits })
    }
}

impl Step {
    fn entry<'a>(&'a self, info: &'a StreamInfo, head: &'a RequestHead) -> Entry<'a> {
        let needed = |key, value: Option<Cow<'a, str>>| value.map_or(Entry::None, |value| Entry::Add(key, value));
        let optional = |key, value: Option<Cow<'a, str>>, skip| match value {
            Some(value) => Entry::Add(key, value),
            None if skip => Entry::Skip,
            None => Entry::None,
        };
        match self {
            Self::SourceCluster(name) => Entry::Add("source_cluster", (**name).into()),
            Self::DestinationCluster => {
                needed("destination_cluster", info.upstream.cluster.as_deref().map(Cow::Borrowed))
            }
            Self::RemoteAddress => needed("remote_address", info.client.ip().map(|ip| ip.to_string().into())),
            Self::MaskedRemoteAddress { v4, v6 } => {
                needed("masked_remote_address", masked(&info.client, *v4, *v6).map(Cow::Owned))
            }
            Self::Constant { key, value } => Entry::Add(key, value.into()),
            Self::Header { key, source, skip_if_absent } => {
                let value = source.value(head).map(|value| String::from_utf8_lossy(&value).into_owned().into());
                optional(key, value, *skip_if_absent)
            }
            Self::Query { key, parameter, skip_if_absent } => {
                optional(key, query_parameter(head.query(), parameter), *skip_if_absent)
            }
            Self::HeaderMatch { key, value, expect, headers } => {
                let matched = headers.iter().all(|header| header.matches(head));
                if matched == *expect { Entry::Add(key, value.into()) } else { Entry::None }
            }
            Self::QueryMatch { key, value, expect, parameters } => {
                let query = head.query();
                let matched = parameters.iter().all(|parameter| {
                    let found = query_parameter(query, &parameter.name);
                    parameter.matches(found.as_deref().map(str::as_bytes))
                });
                if matched == *expect { Entry::Add(key, value.into()) } else { Entry::None }
            }
        }
    }
}

fn masked(address: &Address, v4: u8, v6: u8) -> Option<String> {
    let ip = address.ip()?;
    let net = IpNet::new(ip, if ip.is_ipv4() { v4 } else { v6 }).ok()?;
    Some(net.trunc().to_string())
}
