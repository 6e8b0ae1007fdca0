//! The compiled filters of a route, and the compiler that makes them for all routes of a listener.
//!
//! All chains of one compiler have the same slots in the operator's order: a route changes what a slot holds or sets
//! it `Off`, so a stream may go from one route's chain to another's.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use shared_config::http_filter::{FilterSource, HttpFilter, PerRouteConfig, PerRouteConfigs, router};
use shared_config::invalid::Problem;
use shared_telemetry::Registry;

use crate::registry::Filter;
use crate::services::{Scope, Services};

/// The filters of one route. Cloning is cheap; routes without overrides share one.
#[derive(Clone)]
pub struct Chain(Arc<[Arc<Filter>]>);

/// A level of the route configuration that may override filters.
#[derive(Clone, Copy)]
pub struct Level<'a> {
    /// What tells this level from others, for example `virtual_host.NAME`; shared state hangs on it.
    pub name: &'a str,
    pub configs: &'a PerRouteConfigs,
}

/// Compiles the chains of one listener's routes. What no level overrides is compiled once and shared.
pub struct Compiler<'a> {
    filters: &'a [HttpFilter],
    /// Names the place of the chain, for example listener and filter chain.
    place: &'a str,
    services: &'a Services<'a>,
    made: RefCell<HashMap<Key, Arc<Filter>>>,
    plain: RefCell<Option<Chain>>,
    refused: RefCell<Vec<Problem>>,
}

/// The slot, and the addresses of the overrides that apply; those live as long as the compiler.
type Key = (usize, Vec<usize>);

// === impl Compiler ===

impl<'a> Compiler<'a> {
    pub fn new(filters: &'a [HttpFilter], place: &'a str, services: &'a Services<'a>) -> Self {
        Self {
            filters,
            place,
            services,
            made: RefCell::default(),
            plain: RefCell::default(),
            refused: RefCell::default(),
        }
    }

    /// The chain of a route, from its levels, least specific first: route table, virtual host, route, weighted cluster.
    pub fn chain(&self, levels: &[Level<'a>]) -> Chain {
        let overridden = |filter: &HttpFilter| levels.iter().any(|level| level.configs.contains_key(&filter.name));
        if !self.filters.iter().any(overridden) {
            return self.plain.borrow_mut().get_or_insert_with(|| self.compile(&[])).clone();
        }
        self.compile(levels)
    }

    /// Where statistics are registered.
    pub fn registry(&self) -> &'a Registry {
        self.services.registry
    }

    /// What is wrong with the filters of the chains made so far; a snapshot with problems must not be published. The
    /// path of each is the name of the filter.
    pub fn problems(&self) -> Vec<Problem> {
        self.refused.borrow().clone()
    }

    fn compile(&self, levels: &[Level<'a>]) -> Chain {
        Chain(self.filters.iter().enumerate().map(|(slot, filter)| self.slot(slot, filter, levels)).collect())
    }

    fn slot(&self, slot: usize, filter: &HttpFilter, levels: &[Level<'a>]) -> Arc<Filter> {
        let here: Vec<(Level<'a>, &'a PerRouteConfig)> =
            levels.iter().filter_map(|level| Some((*level, level.configs.get(&filter.name)?))).collect();
        let key = (slot, here.iter().map(|(_, config)| std::ptr::from_ref(*config) as usize).collect());
        if let Some(made) = self.made.borrow().get(&key) {
            return made.clone();
        }
        let made = Arc::new(self.filter(slot, filter, &here));
        self.made.borrow_mut().insert(key, made.clone());
        made
    }

    fn filter(&self, slot: usize, filter: &HttpFilter, here: &[(Level<'a>, &'a PerRouteConfig)]) -> Filter {
        // The most specific level decides whether the filter runs, and one that configures it switches it on.
        let disabled = here.last().map_or(filter.disabled, |(_, config)| config.disabled);
        if disabled {
            return Filter::Off;
        }
        let discovered;
        let config = match &filter.source {
            FilterSource::Config(config) => config,
            FilterSource::Discovery(discovery) => {
                discovered = (self.services.discovered)(&filter.name);
                if let Some(config) = &discovered
                    && !discovery.type_names.contains(&config.type_name())
                {
                    let reason = format!("{} came, which is not among type_urls", config.type_name());
                    self.refused.borrow_mut().push(Problem { path: filter.name.clone(), reason });
                }
                match discovered.as_deref().or(discovery.default_config.as_ref()) {
                    Some(config) => config,
                    None => return Filter::Missing,
                }
            }
        };
        let mut place = format!("{}\0{}", self.place, filter.name);
        let mut overrides = Vec::new();
        for (level, per_route) in here {
            if let Some(config) = &per_route.config {
                place.push('\0');
                place.push_str(level.name);
                overrides.push(config);
            }
        }
        let scope =
            Scope { services: self.services, place: &place, filters: self.filters, slot, refused: &self.refused };
        Filter::compile(config, &overrides, &scope)
    }
}

// === impl Chain ===

impl Chain {
    /// The filter of a slot.
    pub(crate) fn get(&self, slot: usize) -> Option<&Filter> {
        self.0.get(slot).map(Arc::as_ref)
    }

    /// How many filters there are; the registry takes no more than fit.
    pub(crate) fn slots(&self) -> u8 {
        u8::try_from(self.0.len()).unwrap_or(u8::MAX)
    }

    pub(crate) fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.0.iter().map(Arc::as_ref)
    }

    /// What the router filter tells the proxy. Every checked chain ends with a router.
    pub fn router(&self) -> Option<&router::Config> {
        match self.0.last().map(Arc::as_ref) {
            Some(Filter::Router(router)) => Some(router.config()),
            _ => None,
        }
    }
}
