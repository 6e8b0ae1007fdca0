//! All routes of a route configuration, and the look-up among them.

use std::sync::Arc;

use dp_http::RequestHead;
use shared_config::route as config;
use shared_config::route::RequireTls;

use crate::CompileError;
use crate::host::HostIndex;
use crate::matcher::{MatchContext, RequestPath, RouteMatcher};
use crate::path::PathIndex;

/// Routes with what their owner keeps for each of them.
#[derive(Debug)]
pub struct RouteTable<P> {
    hosts: HostIndex,
    virtual_hosts: Vec<VirtualHost<P>>,
    ignore_port: bool,
    ignore_path_parameters: bool,
}

#[derive(Debug)]
pub struct VirtualHost<P> {
    pub name: Arc<str>,
    require_tls: RequireTls,
    index: PathIndex,
    entries: Vec<Entry<P>>,
}

/// A route.
#[derive(Debug)]
pub struct Entry<P> {
    /// What the route's owner keeps for it.
    pub payload: P,
    matcher: RouteMatcher,
}

/// Where a request goes.
#[derive(Debug)]
pub enum Found<'t, P> {
    Route(&'t VirtualHost<P>, &'t Entry<P>),
    /// The virtual host wants TLS: redirect to [`crate::tls_location`] with 301.
    TlsRequired(&'t VirtualHost<P>),
    NoRoute(&'t VirtualHost<P>),
    NoVirtualHost,
}

impl<P> RouteTable<P> {
    /// Compiles a configuration; `payload` makes what is kept for each route.
    ///
    /// # Errors
    /// What `payload` answers, or a part of the configuration that cannot be compiled.
    pub fn compile<E: From<CompileError>>(
        config: &config::RouteConfiguration,
        mut payload: impl FnMut(&config::VirtualHost, &config::Route) -> Result<P, E>,
    ) -> Result<Self, E> {
        let mut hosts = HostIndex::default();
        let mut virtual_hosts = Vec::with_capacity(config.virtual_hosts.len());
        for (number, host) in config.virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                hosts.add(domain, number as u32);
            }
            let mut entries = Vec::with_capacity(host.routes.len());
            for route in &host.routes {
                let matcher = RouteMatcher::compile(&route.matches)?;
                entries.push(Entry { payload: payload(host, route)?, matcher });
            }
            let paths = host.routes.iter().map(|route| (&route.matches.path, route.matches.case_sensitive));
            virtual_hosts.push(VirtualHost {
                name: host.name.as_str().into(),
                require_tls: host.require_tls,
                index: PathIndex::new(paths),
                entries,
            });
        }
        Ok(Self {
            hosts,
            virtual_hosts,
            ignore_port: config.ignore_port,
            ignore_path_parameters: config.ignore_path_parameters,
        })
    }

    /// The first route that matches, in the virtual host that the request's authority names.
    pub fn find(&self, head: &RequestHead, context: &MatchContext<'_>) -> Found<'_, P> {
        let Some(number) = self.hosts.find(head.authority(), self.ignore_port) else { return Found::NoVirtualHost };
        let host = &self.virtual_hosts[number as usize];
        let tls_required = match host.require_tls {
            RequireTls::None => false,
            RequireTls::ExternalOnly => !context.internal,
            RequireTls::All => true,
        };
        if tls_required && !context.https {
            return Found::TlsRequired(host);
        }
        let path = RequestPath::new(head, self.ignore_path_parameters);
        host.index
            .candidates(path.path)
            .map(|route| &host.entries[route as usize])
            .find(|entry| entry.matcher.matches(head, path, context))
            .map_or(Found::NoRoute(host), |entry| Found::Route(host, entry))
    }

    /// All routes, virtual host by virtual host.
    pub fn entries(&self) -> impl Iterator<Item = (&VirtualHost<P>, &Entry<P>)> {
        self.virtual_hosts.iter().flat_map(|host| host.entries.iter().map(move |entry| (host, entry)))
    }

    /// Like [`Self::find`], but trying every route of the virtual host: the meaning that the index must keep.
    #[cfg(test)]
    fn find_slowly(&self, head: &RequestHead, context: &MatchContext<'_>) -> Found<'_, P> {
        let Some(number) = self.hosts.find(head.authority(), self.ignore_port) else { return Found::NoVirtualHost };
        let host = &self.virtual_hosts[number as usize];
        let path = RequestPath::new(head, self.ignore_path_parameters);
        let found = host.entries.iter().find(|entry| entry.matcher.matches(head, path, context));
        found.map_or(Found::NoRoute(host), |entry| Found::Route(host, entry))
    }
}

#[cfg(test)]
mod tests;
