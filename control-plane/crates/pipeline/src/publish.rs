//! From revisions to nodes: follows the store, and hands each node group the resources that are for it.
//!
//! Every control plane follows its store alike, so it does not matter which of them a change came through.

use std::sync::Arc;

use cp_model::Kind;
use cp_store::Revision;
use cp_translate::{Audience, Resource};
use cp_xds::{Class, Publisher, Res};

use crate::apply::{Compiled, Pipeline, Refused, compile, draft_of, now};
use crate::drain::Drains;

const CLASSES: [Class; 3] = [Class::Weir, Class::Envoy, Class::Grpc];

/// Publishes the newest revision, and each later one, until `stop` resolves; endpoints that operators drained are laid over
/// it. A revision that this version of the control plane no longer accepts is not published: nodes keep the one before.
pub async fn follow(pipeline: Arc<Pipeline>, publisher: Publisher, stop: impl Future<Output = ()>) {
    let mut newest = pipeline.store.watch();
    let mut beside = pipeline.store.watch_beside();
    newest.mark_changed();
    tokio::pin!(stop);
    let mut published: Option<(u64, Compiled)> = None;
    let mut drains = Drains::default();
    loop {
        tokio::select! {
            () = &mut stop => return,
            changed = newest.changed() => {
                if changed.is_err() { return }
                match load(&pipeline).await {
                    Ok(None) => (),
                    Ok(Some((revision, compiled))) => {
                        tracing::info!(revision = revision.header.id, author = revision.header.author, "publishing");
                        published = Some((revision.header.id, compiled));
                    }
                    Err(error) => {
                        tracing::error!(%error, "the newest revision cannot be published; nodes keep what they have");
                    }
                }
            }
            changed = beside.changed() => if changed.is_err() { return },
            () = comes_back(&drains) => (),
        }
        match pipeline.drains().await {
            Ok(now) => drains = now,
            Err(error) => tracing::error!(%error, "drained endpoints stay as they were"),
        }
        if let Some((revision, compiled)) = &published {
            publish(&pipeline, &publisher, *revision, compiled, &drains);
        }
    }
}

/// Resolves when a drained endpoint has been out for as long as it should be.
async fn comes_back(drains: &Drains) {
    match drains.next_end(now()) {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

async fn load(pipeline: &Pipeline) -> Result<Option<(Arc<Revision>, Compiled)>, Refused> {
    let Some(revision) = pipeline.store.head().await? else { return Ok(None) };
    let compiled = compile(&draft_of(Some(&revision))?, &pipeline.groups)?;
    Ok(Some((revision, compiled)))
}

fn publish(pipeline: &Pipeline, publisher: &Publisher, revision: u64, compiled: &Compiled, drains: &Drains) {
    for group in pipeline.groups.names() {
        for class in CLASSES {
            let fits = |r: &&Resource| for_class(r, class) && for_group(compiled, r, group);
            let resources = compiled.resources.iter().filter(fits).filter_map(|r| encode(r, drains)).collect();
            publisher.publish(group, class, resources, revision);
        }
    }
}

fn for_class(resource: &Resource, class: Class) -> bool {
    match resource.audience {
        Audience::All => true,
        Audience::Proxies => class != Class::Grpc,
        Audience::Weir => class == Class::Weir,
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

fn encode(resource: &Resource, drains: &Drains) -> Option<Res> {
    match cp_xds::resource(drains.over(resource)) {
        Ok(resource) => Some(resource),
        Err(error) => {
            // The read back would have refused it; so this is a type that cannot be served.
            tracing::error!(%error, name = resource.name, "a resource cannot be served");
            None
        }
    }
}
