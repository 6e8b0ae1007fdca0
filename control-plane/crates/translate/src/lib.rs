//! Model to Envoy v3 resources: what the operator said, in the proxies' words.
//!
//! Pure and sorted: the same model always gives the same bytes. Resources are written as the JSON of `build` and encoded with
//! the codec of `proto`. Never does I/O, never reads a clock, never names the store.

use std::collections::BTreeMap;

use cp_model::{Kind, Model, Place};
use proto::Any;
use serde_json::Value;

mod access_log;
mod api;
mod build;
mod cel;
mod cluster;
mod http_filters;
mod listener;
mod matching;
mod route;
mod secret;

/// One Envoy v3 resource, and the operator's object it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    pub name: String,
    pub any: Any,
    pub kind: Kind,
    /// The name of the operator's object.
    pub object: String,
    pub place: Place,
    pub audience: Audience,
}

/// Which clients understand a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Audience {
    All,
    /// Proxies: weir-proxy and stock Envoy.
    Proxies,
    /// weir-proxy alone.
    Weir,
    /// gRPC programs without a proxy, which know a listener only as an api_listener.
    Grpc,
}

impl Resource {
    pub fn type_url(&self) -> &str {
        &self.any.type_url
    }
}

/// A resource we wrote that the codec does not take: a defect of this crate, reported and not hidden.
#[derive(Debug, thiserror::Error)]
#[error("{kind} `{object}` became a resource that cannot be encoded: {source}")]
pub struct TranslateError {
    pub kind: Kind,
    pub object: String,
    pub place: Place,
    #[source]
    pub source: proto::json::JsonError,
}

/// The resources of a model, sorted by type (clusters first, as a proxy needs them) and name.
pub fn translate(model: &Model) -> Result<Vec<Resource>, TranslateError> {
    let mut out = Out::default();
    for c in &model.clusters {
        let origin = Origin { kind: Kind::Cluster, object: &c.name, place: &c.place };
        cluster::cluster(model, c, origin, &mut out)?;
    }
    for l in &model.listeners {
        let origin = Origin { kind: Kind::Listener, object: &l.name, place: &l.place };
        listener::listener(model, l, origin, &mut out)?;
    }
    for raw in &model.envoy {
        let name = raw.name.split_once('/').map_or(raw.name.as_str(), |(_, name)| name);
        let (any, place) = (raw.any.clone(), raw.place.clone());
        out.add(Resource {
            name: name.to_owned(),
            any,
            kind: Kind::Envoy,
            object: raw.name.clone(),
            place,
            audience: Audience::All,
        });
    }
    Ok(out.resources.into_values().collect())
}

/// Types in the order a proxy takes them in; others after these.
const ORDER: [&str; 5] = ["Secret", "Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"];

#[derive(Default)]
struct Out {
    resources: BTreeMap<(usize, String, String, Audience), Resource>,
}

#[derive(Clone, Copy)]
struct Origin<'m> {
    kind: Kind,
    object: &'m str,
    place: &'m Place,
}

impl Out {
    fn add(&mut self, resource: Resource) {
        let message = resource.any.type_url.rsplit('.').next().unwrap_or_default();
        let rank = ORDER.iter().position(|m| *m == message).unwrap_or(ORDER.len());
        self.resources
            .insert((rank, resource.any.type_url.clone(), resource.name.clone(), resource.audience), resource);
    }

    /// Adds the resource that `value`, with its `@type`, describes.
    fn write(&mut self, origin: Origin<'_>, name: &str, value: &Value) -> Result<(), TranslateError> {
        self.write_for(Audience::All, origin, name, value)
    }

    fn write_for(
        &mut self,
        audience: Audience,
        origin: Origin<'_>,
        name: &str,
        value: &Value,
    ) -> Result<(), TranslateError> {
        let any = proto::json::any_from_value(value).map_err(|source| TranslateError {
            kind: origin.kind,
            object: origin.object.to_owned(),
            place: origin.place.clone(),
            source,
        })?;
        let (object, place) = (origin.object.to_owned(), origin.place.clone());
        self.add(Resource { name: name.to_owned(), any, kind: origin.kind, object, place, audience });
        Ok(())
    }
}
