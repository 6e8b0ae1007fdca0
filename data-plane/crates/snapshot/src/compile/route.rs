//! Compiles the routes of a connection manager: every override resolved, every format parsed, every name looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dp_filters::{Chain, Compiler, Level};
use dp_http::HeaderName;
use dp_observe::stats::RouteStats;
use dp_routing::{
    HashPolicies, HeaderLevels, HeaderPlan, HeaderSteps, HostRewrite, PathRewrite, Redirect, RouteTable, Weights,
};
use dp_upstream::Criteria;
use shared_config::core::flatten_metadata;
use shared_config::header::Mutations;
use shared_config::http_filter::PerRouteConfig;
use shared_config::route as config;

use super::Refusal;
use crate::files::Files;
use crate::runtime::{Action, ClusterName, Direct, Forward, Headers, MirrorPlan, RouteEntry, Target, Targets};

type Overrides = BTreeMap<String, PerRouteConfig>;

/// What the routes of one virtual host are compiled with.
struct Levels<'a> {
    configuration: &'a config::RouteConfiguration,
    virtual_host: &'a config::VirtualHost,
    route: &'a config::Route,
}

/// Compiles all routes.
pub(super) fn table<'a>(
    configuration: &'a config::RouteConfiguration,
    compiler: &Compiler<'a>,
    files: &mut Files,
) -> Result<RouteTable<Arc<RouteEntry>>, Refusal> {
    RouteTable::compile(configuration, |virtual_host, route| {
        let levels = Levels { configuration, virtual_host, route };
        entry(&levels, compiler, files).map(Arc::new).map_err(|refusal| {
            let name = if route.name.is_empty() { "without a name" } else { &route.name };
            refusal.at(format!("virtual host {}, route {name}", virtual_host.name))
        })
    })
}

/// Refuses routes to clusters that are not there, where the configuration asks for that: always for routes in place
/// unless it says no, for discovered ones only if it says yes (Envoy `validate_clusters`).
pub(super) fn check_clusters(
    configuration: &config::RouteConfiguration,
    is_inline: bool,
    clusters: &BTreeSet<String>,
) -> Result<(), Refusal> {
    if !configuration.validate_clusters.unwrap_or(is_inline) {
        return Ok(());
    }
    let routes = configuration.virtual_hosts.iter().flat_map(|host| host.routes.iter());
    for route in routes {
        let config::Action::Route(action) = &route.action else { continue };
        let weighted = match &action.cluster {
            config::ClusterSpecifier::Weighted(weighted) => weighted.clusters.iter().map(|c| &c.cluster).collect(),
            one => vec![one],
        };
        for specifier in weighted.into_iter().chain(action.mirrors.iter().map(|mirror| &mirror.cluster)) {
            if let config::ClusterSpecifier::Cluster(name) = specifier
                && !clusters.contains(name)
            {
                return Err(Refusal(format!("route: unknown cluster '{name}'")));
            }
        }
    }
    Ok(())
}

fn entry<'a>(levels: &Levels<'a>, compiler: &Compiler<'a>, files: &mut Files) -> Result<RouteEntry, Refusal> {
    let (virtual_host, route) = (levels.virtual_host, levels.route);
    let path = &route.matches.path;
    let action = match &route.action {
        config::Action::Route(action) => Action::Forward(Box::new(forward(action, levels, compiler)?)),
        config::Action::Redirect(redirect) => Action::Redirect(Redirect::compile(redirect, path)),
        config::Action::DirectResponse(response) => Action::Direct(direct(response, files)?),
        config::Action::NonForwarding => Action::NonForwarding,
    };
    let metadata = (!route.metadata.is_empty()).then(|| Arc::new(flatten_metadata(&route.metadata)));
    Ok(RouteEntry {
        name: route.name.as_str().into(),
        action,
        headers: headers(levels, None)?,
        filters: chain(levels, None, compiler),
        metadata,
        buffer_limit: route.buffer_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        attempt_count_in_request: virtual_host.attempt_count_in_request,
        attempt_count_in_response: virtual_host.attempt_count_in_response,
        is_timeout_retry_header: virtual_host.is_timeout_retry_header,
        stats: (!route.stat_prefix.is_empty()).then(|| {
            RouteStats::register(compiler.registry(), RouteStats::scope(&virtual_host.name, &route.stat_prefix))
        }),
    })
}

fn headers(levels: &Levels<'_>, weighted_cluster: Option<&Mutations>) -> Result<Headers, Refusal> {
    let most_specific_wins = levels.configuration.most_specific_wins;
    Ok(Headers {
        request: HeaderPlan::compile(HeaderLevels {
            weighted_cluster: weighted_cluster.map(|changes| &changes.request),
            route: &levels.route.headers.request,
            virtual_host: &levels.virtual_host.headers.request,
            configuration: &levels.configuration.headers.request,
            most_specific_wins,
        })?,
        response: HeaderPlan::compile(HeaderLevels {
            weighted_cluster: weighted_cluster.map(|changes| &changes.response),
            route: &levels.route.headers.response,
            virtual_host: &levels.virtual_host.headers.response,
            configuration: &levels.configuration.headers.response,
            most_specific_wins,
        })?,
    })
}

/// The filters with their settings for this route; what no level changes is shared by all routes.
fn chain<'a>(levels: &Levels<'a>, target: Option<(&'a str, &'a Overrides)>, compiler: &Compiler<'a>) -> Chain {
    let all = [
        (&*levels.configuration.name, &levels.configuration.filters),
        (&*levels.virtual_host.name, &levels.virtual_host.filters),
        (&*levels.route.name, &levels.route.filters),
    ];
    let levels: Vec<Level<'a>> = all
        .into_iter()
        .chain(target)
        .filter(|(_, c)| !c.is_empty())
        .map(|(name, configs)| Level { name, configs })
        .collect();
    compiler.chain(&levels)
}

fn forward<'a>(
    action: &'a Arc<config::RouteAction>,
    levels: &Levels<'a>,
    compiler: &Compiler<'a>,
) -> Result<Forward, Refusal> {
    let criteria = Criteria::compile(&action.metadata_match);
    let targets = match &action.cluster {
        config::ClusterSpecifier::Weighted(weighted) => {
            let compile = |cluster: &'a config::ClusterWeight| {
                let name = match &cluster.cluster {
                    config::ClusterSpecifier::Cluster(name) | config::ClusterSpecifier::Header(name) => name.as_str(),
                    config::ClusterSpecifier::Weighted(_) => "",
                };
                Ok(Target {
                    cluster: cluster_name(&cluster.cluster)?,
                    headers: headers(levels, Some(&cluster.headers))?,
                    criteria: match (&criteria, Criteria::compile(&cluster.metadata_match)) {
                        (Some(route), Some(own)) => Some(route.merged(&own)),
                        (route, own) => own.or_else(|| route.clone()),
                    },
                    filters: chain(levels, Some((name, &cluster.filters)), compiler),
                    host_rewrite: cluster.host_rewrite.clone(),
                })
            };
            let targets = weighted.clusters.iter().map(compile).collect::<Result<_, Refusal>>()?;
            Targets::Weighted { targets, weights: Weights::compile(weighted), source: weighted.source.clone() }
        }
        one => Targets::One(cluster_name(one)?),
    };
    let mirror = |mirror: &config::Mirror| {
        Ok(MirrorPlan {
            cluster: cluster_name(&mirror.cluster)?,
            headers: HeaderSteps::compile(&mirror.headers)?,
            config: mirror.clone(),
        })
    };
    Ok(Forward {
        path: PathRewrite::compile(&action.path_rewrite, &levels.route.matches.path),
        host: HostRewrite::compile(&action.host_rewrite)?,
        targets,
        hash: HashPolicies::compile(&action.hash)?,
        criteria,
        mirrors: action.mirrors.iter().map(mirror).collect::<Result<_, Refusal>>()?,
        config: Arc::clone(action),
    })
}

fn cluster_name(specifier: &config::ClusterSpecifier) -> Result<ClusterName, Refusal> {
    match specifier {
        config::ClusterSpecifier::Cluster(name) => Ok(ClusterName::Fixed(name.as_str().into())),
        config::ClusterSpecifier::Header(name) => Ok(ClusterName::Header(HeaderName::new(name)?)),
        config::ClusterSpecifier::Weighted(_) => Err(Refusal("weighted clusters cannot be nested".into())),
    }
}

fn direct(response: &config::DirectResponse, files: &mut Files) -> Result<Direct, Refusal> {
    let body = match &response.body {
        Some(source) => files.load(source)?,
        None => bytes::Bytes::new(),
    };
    if body.len() > response.max_body {
        return Err(Refusal(format!("direct_response.body has {} bytes, at most {}", body.len(), response.max_body)));
    }
    Ok(Direct { status: response.status, body })
}
