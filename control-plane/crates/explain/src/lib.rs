//! Which route a request takes, why, and which policies apply.
//!
//! Looks at the Envoy resources a configuration becomes, as the proxies do: virtual host by the longest domain that fits, then
//! the first route that matches. Runtime fractions and gRPC's own rules are said, not played. Never does I/O.

mod request;
mod walk;

use cp_model::problem::did_you_mean;
use cp_model::{Draft, Kind};
use proto::Any;
use proto::weir::management::v1 as pb;
use serde_json::Value;
use shared_config::core::Address;
use shared_config::hcm::RouteSource;
use shared_config::invalid::Invalid;
use shared_config::listener::{Listener, Terminal};
use shared_config::resource::{Resource, decode_resource};
use shared_config::route::{Action, ClusterSpecifier, RedirectPath, RouteConfiguration};

pub use request::Request;
use walk::walk;

/// Decoded resources, and the operator's objects for what only they say.
#[derive(Default)]
pub struct Configuration {
    listeners: Vec<Listener>,
    routes: Vec<RouteConfiguration>,
    /// Kind, name and value of routes, apis and listeners.
    objects: Vec<(Kind, String, Value)>,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub listener: String,
    /// None, as `domain`: none has a domain that fits.
    pub virtual_host: Option<String>,
    pub domain: Option<String>,
    /// None: none matches.
    pub route: Option<String>,
    pub because: Vec<String>,
    pub action: Option<String>,
    /// In the order they apply.
    pub policies: Vec<String>,
    /// Routes before the one that matched, and why each did not.
    pub passed_over: Vec<(String, String)>,
    /// What the answer does not take into account.
    pub notes: Vec<String>,
}

impl From<Report> for pb::RouteTestResponse {
    /// Of no revision; who knows one says it.
    fn from(report: Report) -> Self {
        let passed_over = report.passed_over.into_iter();
        pb::RouteTestResponse {
            listener: report.listener,
            virtual_host: report.virtual_host.unwrap_or_default(),
            domain: report.domain.unwrap_or_default(),
            route: report.route.unwrap_or_default(),
            because: report.because,
            action: report.action.unwrap_or_default(),
            policies: report.policies,
            passed_over: passed_over.map(|(route, why)| pb::route_test_response::PassedOver { route, why }).collect(),
            notes: report.notes,
            revision: 0,
        }
    }
}

/// Why no route was looked for.
#[derive(Debug, thiserror::Error)]
pub enum Unexplained {
    #[error("no listener `{name}`{}", hint(.name, .known))]
    NoListener { name: String, known: String },
    #[error("no listener has port {port}: write the port into the URL, or name the listener (one of {known})")]
    NoPort { port: u16, known: String },
    #[error("the configuration has no listener")]
    Empty,
    #[error("listener `{0}` does not speak HTTP: no request is looked at")]
    NotHttp(String),
    #[error("listener `{listener}` wants routes `{routes}`, which are not there")]
    NoRoutes { listener: String, routes: String },
    #[error("{0}")]
    Unreadable(Invalid),
}

/// The one that may have been meant, or all.
fn hint(name: &str, known: &str) -> String {
    match did_you_mean(name, known.split(", ")) {
        near if near.is_empty() => format!("; listeners: {known}"),
        near => near,
    }
}

impl Unexplained {
    /// Whether another question about the same configuration may have an answer.
    pub fn is_of_question(&self) -> bool {
        matches!(self, Unexplained::NoListener { .. } | Unexplained::NoPort { .. })
    }
}

impl Configuration {
    /// # Errors
    /// The proxy's own decoder refuses a resource.
    pub fn new<'a>(resources: impl IntoIterator<Item = &'a Any>, draft: &Draft) -> Result<Self, Unexplained> {
        let objects = draft.objects.iter().zip(draft.display_names());
        let objects = objects.map(|(o, name)| (o.kind, name, o.node.to_json())).collect();
        let mut configuration = Configuration { objects, ..Configuration::default() };
        for any in resources {
            match decode_resource(any).map_err(Unexplained::Unreadable)? {
                Resource::Listener(listener) => configuration.listeners.push(*listener),
                Resource::Routes(routes) => configuration.routes.push(*routes),
                _ => (),
            }
        }
        Ok(configuration)
    }

    /// The way of a request that comes to the listener of that name, or to the one with the request's port.
    pub fn explain(&self, request: &Request, listener: Option<&str>) -> Result<Report, Unexplained> {
        let listener = self.listener(listener, request)?;
        let found = walk(self.routes(listener)?, request);
        let route = found.route.map(|r| r.name.clone());
        Ok(Report {
            listener: listener.name.clone(),
            virtual_host: found.host.map(|h| h.name.clone()),
            domain: found.domain,
            policies: route.as_deref().map(|r| self.policies(&listener.name, r)).unwrap_or_default(),
            route,
            because: found.because,
            action: found.route.map(|r| action(&r.action)),
            passed_over: found.tried,
            notes: found.notes,
        })
    }

    /// The one that is named; else the one with the request's port; else the only one.
    fn listener(&self, name: Option<&str>, request: &Request) -> Result<&Listener, Unexplained> {
        let known = || self.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(name) = name {
            let found = self.listeners.iter().find(|l| l.name == name);
            return found.ok_or_else(|| Unexplained::NoListener { name: name.to_owned(), known: known() });
        }
        let here = |l: &&Listener| {
            l.addresses.iter().any(|a| matches!(a.address, Address::Ip(ip) if ip.port() == request.port))
        };
        let with_port: Vec<&Listener> = self.listeners.iter().filter(here).collect();
        match (&with_port[..], &self.listeners[..]) {
            ([listener, ..], _) => Ok(listener),
            ([], [listener]) => Ok(listener),
            ([], []) => Err(Unexplained::Empty),
            _ => Err(Unexplained::NoPort { port: request.port, known: known() }),
        }
    }

    /// The first chain that speaks HTTP: all chains of one listener of ours have the same routes.
    fn routes<'c>(&'c self, listener: &'c Listener) -> Result<&'c RouteConfiguration, Unexplained> {
        let http = listener.chains().find_map(|chain| match &chain.terminal {
            Terminal::Http(http) => Some(http),
            _ => None,
        });
        let http = http.ok_or_else(|| Unexplained::NotHttp(listener.name.clone()))?;
        let name = match &http.routes {
            RouteSource::Inline(routes) => return Ok(routes),
            RouteSource::Rds { name, .. } => name,
        };
        let missing = || Unexplained::NoRoutes { listener: listener.name.clone(), routes: name.clone() };
        self.routes.iter().find(|r| r.name == *name).ok_or_else(missing)
    }

    fn object(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.iter().find(|(k, n, _)| *k == kind && n == name).map(|(_, _, value)| value)
    }

    /// The policies of the listener, then those of the route (or of the api and its version), in the order they apply.
    fn policies(&self, listener: &str, route: &str) -> Vec<String> {
        let named = |value: Option<&Value>| match value.map(|v| &v["policies"]) {
            Some(Value::Array(names)) => names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect(),
            Some(Value::String(name)) => vec![name.clone()],
            _ => Vec::new(),
        };
        let mut policies: Vec<String> = named(self.object(Kind::Listener, listener));
        policies.extend(named(self.object(Kind::Route, route)));
        if let Some((api, version)) = route.split_once('/') {
            let api = self.object(Kind::Api, api);
            policies.extend(named(api));
            policies.extend(named(api.map(|a| &a["versions"][version])));
        }
        policies
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Route(route) => match &route.cluster {
            ClusterSpecifier::Cluster(name) => format!("to cluster {name}"),
            ClusterSpecifier::Header(name) => format!("to the cluster that header {name} names"),
            ClusterSpecifier::Weighted(weighted) => {
                let part = |c: &shared_config::route::ClusterWeight| {
                    let name = match &c.cluster {
                        ClusterSpecifier::Cluster(name) => name.clone(),
                        _ => "the cluster a header names".to_owned(),
                    };
                    format!("{name} {}/{}", c.weight, weighted.total)
                };
                format!("to clusters {}", weighted.clusters.iter().map(part).collect::<Vec<_>>().join(", "))
            }
        },
        Action::Redirect(to) => {
            let mut parts = Vec::new();
            parts.extend(to.scheme.as_ref().map(|s| format!("scheme {s}")));
            parts.extend(to.host.as_ref().map(|h| format!("host {h}")));
            parts.extend(to.port.map(|p| format!("port {p}")));
            match &to.path {
                RedirectPath::Keep => (),
                RedirectPath::Replace(path) => parts.push(format!("path {path}")),
                RedirectPath::Prefix(prefix) => parts.push(format!("prefix {prefix}")),
                RedirectPath::Regex(_) => parts.push("a path rewritten by an expression".to_owned()),
            }
            format!("redirect {} to {}", to.status, parts.join(", "))
        }
        Action::DirectResponse(answer) => format!("answered {}", answer.status),
        Action::NonForwarding => "not forwarded".to_owned(),
    }
}

#[cfg(test)]
mod tests;
