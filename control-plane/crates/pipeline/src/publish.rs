//! From revisions to nodes: follows the store, and hands each node group the resources that are for it.
//!
//! Every control plane follows its store alike, so it does not matter which of them a change came through.

use std::sync::Arc;

use cp_model::Kind;
use cp_store::Revision;
use cp_translate::{Audience, Resource};
use cp_xds::{Class, Publisher, Res};

use crate::apply::{Compiled, Pipeline, Refused, compile, draft_of};

const CLASSES: [Class; 3] = [Class::Weir, Class::Envoy, Class::Grpc];

/// Publishes the newest revision, and each later one, until `stop` resolves. A revision that this version of the control plane
/// no longer accepts is not published: nodes keep the one before.
pub async fn follow(pipeline: Arc<Pipeline>, publisher: Publisher, stop: impl Future<Output = ()>) {
    let mut newest = pipeline.store.watch();
    newest.mark_changed();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            changed = newest.changed() => if changed.is_err() { return },
        }
        newest.borrow_and_update();
        match load(&pipeline).await {
            Ok(None) => (),
            Ok(Some((revision, compiled))) => {
                publish(&pipeline, &publisher, revision.header.id, &compiled);
                tracing::info!(revision = revision.header.id, author = revision.header.author, "published");
            }
            Err(error) => tracing::error!(%error, "the newest revision cannot be published; nodes keep what they have"),
        }
    }
}

async fn load(pipeline: &Pipeline) -> Result<Option<(Arc<Revision>, Compiled)>, Refused> {
    let Some(revision) = pipeline.store.head().await? else { return Ok(None) };
    let compiled = compile(&draft_of(Some(&revision))?, &pipeline.groups)?;
    Ok(Some((revision, compiled)))
}

fn publish(pipeline: &Pipeline, publisher: &Publisher, revision: u64, compiled: &Compiled) {
    for group in pipeline.groups.names() {
        for class in CLASSES {
            let fits = |r: &&Resource| for_class(r, class) && for_group(compiled, r, group);
            let resources = compiled.resources.iter().filter(fits).filter_map(encode).collect();
            publisher.publish(group, class, resources, revision);
        }
    }
}

fn for_class(resource: &Resource, class: Class) -> bool {
    match resource.audience {
        Audience::All => true,
        Audience::Proxies => class != Class::Grpc,
        Audience::Grpc => class == Class::Grpc,
    }
}

/// A listener of other groups, with its routes and secrets, is not for this one.
fn for_group(compiled: &Compiled, resource: &Resource, group: &str) -> bool {
    if resource.kind != Kind::Listener {
        return true;
    }
    let listener = compiled.checked.model.listeners.iter().find(|l| l.name == resource.object);
    listener.is_none_or(|l| l.groups.is_empty() || l.groups.iter().any(|g| g == group))
}

fn encode(resource: &Resource) -> Option<Res> {
    match cp_xds::resource(resource.any.clone()) {
        Ok(resource) => Some(resource),
        Err(error) => {
            // The read back would have refused it; so this is a type that cannot be served.
            tracing::error!(%error, name = resource.name, "a resource cannot be served");
            None
        }
    }
}
