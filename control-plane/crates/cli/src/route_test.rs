//! `weir route test`: which route a request takes, why, and which policies apply.
//!
//! Looks at the Envoy resources the configuration becomes, as the proxies do: virtual host by the longest domain that fits, then
//! the first route that matches. Runtime fractions and gRPC's own rules are said, not played.

mod request;
mod walk;

use std::path::PathBuf;

use cp_model::Kind;
use proto::weir::management::v1 as pb;
use serde_json::{Value, json};
use shared_config::core::Address;
use shared_config::hcm::RouteSource;
use shared_config::listener::{Listener, Terminal};
use shared_config::resource::{Resource, decode_resource};
use shared_config::route::{Action, ClusterSpecifier, RedirectPath, RouteConfiguration};

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{Flags, RouteCommand, RouteTest};
use crate::offline;
use crate::out::{Out, Paint};
use crate::remote::get;
use crate::route_test::request::Request;
use crate::route_test::walk::{Found, walk};

pub(crate) async fn run(command: &RouteCommand, flags: &Flags, out: &Out) -> Result<u8, Failure> {
    let RouteCommand::Test(given) = command;
    let request = Request::parse(&given.request, &given.headers).map_err(Failure::Usage)?;
    let configuration = match given.files.is_empty() {
        false => Configuration::of_files(&given.files, out)?,
        true => Configuration::of_server(flags).await?,
    };
    let listener = configuration.listener(given, &request)?;
    let routes = configuration.routes(listener)?;
    let found = walk(routes, &request);
    show(&found, listener, &configuration, &request, out);
    Ok(u8::from(found.route.is_none()))
}

/// Decoded resources, and the operator's objects for what only they say.
#[derive(Default)]
struct Configuration {
    listeners: Vec<Listener>,
    routes: Vec<RouteConfiguration>,
    /// Kind, name and value of routes, apis and listeners.
    objects: Vec<(Kind, String, Value)>,
}

impl Configuration {
    fn of_files(paths: &[PathBuf], out: &Out) -> Result<Self, Failure> {
        let (files, compiled) = offline::compiled(paths)?;
        out.warnings(&compiled.checked.warnings);
        let mut configuration = Configuration::default();
        for resource in compiled.resources.iter().filter(|r| r.audience != cp_translate::Audience::Grpc) {
            configuration.add(&resource.any)?;
        }
        let mut problems = cp_model::Problems::default();
        let draft = cp_model::Draft::read(&files.sources, &[], files.attachments, &mut problems);
        let objects = draft.objects.iter().zip(draft.display_names()).map(|(o, name)| (o.kind, name, o.node.to_json()));
        configuration.objects = objects.collect();
        Ok(configuration)
    }

    async fn of_server(flags: &Flags) -> Result<Self, Failure> {
        let mut client = Client::connect(&flags.global).await?;
        let request = pb::ExportRequest { revision: 0, format: pb::export_request::Format::EnvoyJson.into() };
        let export = client.config.export(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
        let defect = |e: String| Failure::refused(format!("the control plane's export cannot be read: {e}"));
        let document: Value = serde_json::from_str(&export.text).map_err(|e| defect(e.to_string()))?;
        let mut configuration = Configuration::default();
        for resource in document["resources"].as_array().into_iter().flatten() {
            // Private keys are blotted out of an export, and no secret says where a request goes.
            if resource["@type"].as_str().is_some_and(|t| t.ends_with(".Secret")) {
                continue;
            }
            let any = proto::json::any_from_value(resource).map_err(|e| defect(e.to_string()))?;
            configuration.add(&any)?;
        }
        for object in get::list(pb::Kind::Unspecified, export.revision.map_or(0, |r| r.id), &mut client).await? {
            if let Some(kind) = crate::remote::kind::of_wire(object.kind) {
                configuration.objects.push((kind, object.name.clone(), get::value(&object)));
            }
        }
        Ok(configuration)
    }

    fn add(&mut self, any: &proto::Any) -> Result<(), Failure> {
        match decode_resource(any).map_err(|e| Failure::refused(e.to_string()))? {
            Resource::Listener(listener) => self.listeners.push(*listener),
            Resource::Routes(routes) => self.routes.push(*routes),
            _ => (),
        }
        Ok(())
    }

    /// The one that is named; else the one with the request's port; else the only one.
    fn listener(&self, given: &RouteTest, request: &Request) -> Result<&Listener, Failure> {
        let names = || self.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(name) = &given.listener {
            let found = self.listeners.iter().find(|l| l.name == *name);
            return found.ok_or_else(|| Failure::usage(format!("no listener `{name}`; listeners: {}", names())));
        }
        let here = |l: &&Listener| {
            l.addresses.iter().any(|a| matches!(a.address, Address::Ip(ip) if ip.port() == request.port))
        };
        let with_port: Vec<&Listener> = self.listeners.iter().filter(here).collect();
        match (&with_port[..], &self.listeners[..]) {
            ([listener, ..], _) => Ok(listener),
            ([], [listener]) => Ok(listener),
            ([], []) => Err(Failure::refused("the configuration has no listener")),
            _ => Err(Failure::usage(format!(
                "no listener has port {}: write the port into the URL, or give --listener (one of {})",
                request.port,
                names()
            ))),
        }
    }

    /// The first chain that speaks HTTP: all chains of one listener of ours have the same routes.
    fn routes<'c>(&'c self, listener: &'c Listener) -> Result<&'c RouteConfiguration, Failure> {
        let http = listener.chains().find_map(|chain| match &chain.terminal {
            Terminal::Http(http) => Some(http),
            Terminal::Tcp(_) | Terminal::Close => None,
        });
        let Some(http) = http else {
            return Err(Failure::refused(format!(
                "listener `{}` does not speak HTTP: no request is looked at",
                listener.name
            )));
        };
        let name = match &http.routes {
            RouteSource::Inline(routes) => return Ok(routes),
            RouteSource::Rds { name, .. } => name,
        };
        let found = self.routes.iter().find(|r| r.name == *name);
        found.ok_or_else(|| {
            Failure::refused(format!("listener `{}` wants routes `{name}`, which are not there", listener.name))
        })
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

fn show(found: &Found<'_>, listener: &Listener, configuration: &Configuration, request: &Request, out: &Out) {
    let route = found.route.map(|r| r.name.clone());
    let policies = route.as_deref().map(|r| configuration.policies(&listener.name, r)).unwrap_or_default();
    let action = found.route.map(|r| action(&r.action));
    let tried: Vec<Value> =
        found.tried.iter().map(|(name, why)| json!({ "route": name, "passed_over": why })).collect();
    let value = json!({
        "listener": listener.name, "virtual_host": found.host.map(|h| &h.name), "domain": found.domain,
        "route": route, "because": found.because, "action": action, "policies": policies, "tried": tried,
        "notes": found.notes,
    });
    if out.machine(&value) {
        return;
    }
    let line =
        |name: &str, text: &str| out.data(&format!("{} {text}", out.paint(&format!("{name:<13}"), Paint::Strong)));
    line("Listener", &listener.name);
    match (found.host, &found.domain) {
        (Some(host), Some(domain)) => {
            line("Virtual host", &format!("{} (domain {domain} fits {})", host.name, request.host))
        }
        _ => line("Virtual host", &format!("none has a domain that fits {}: answered 404", request.host)),
    }
    found.tried.iter().for_each(|(name, why)| line("Passed over", &format!("{name}: {why}")));
    match (&route, action) {
        (Some(route), Some(action)) => {
            line("Route", &out.paint(route, Paint::Good));
            found.because.iter().for_each(|because| line("Because", because));
            line("Action", &action);
            line("Policies", &if policies.is_empty() { "none".to_owned() } else { policies.join(", ") });
        }
        _ if found.host.is_some() => line("Route", "none matches: answered 404"),
        _ => (),
    }
    found.notes.iter().for_each(|note| line("Note", note));
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
