//! Accepting: one task a listening socket on each worker, following the listeners of the snapshot.
//!
//! A socket that is still wanted is never closed and reopened; a listener that is no more stops accepting at once.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use dp_snapshot::{Listener, Sockets};
use stdx::drain::Phase;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::worker::Worker;
use crate::{connection, udp};

/// Starts and stops accept loops as snapshots come, until the process drains.
pub(crate) async fn follow(worker: Rc<Worker>, mut published: watch::Receiver<u64>) {
    let mut accepting: HashMap<u64, AbortHandle> = HashMap::new();
    let mut draining = worker.drain.reached(Phase::Draining);
    let mut is_serving = true;
    loop {
        let snapshot = worker.snapshot();
        let mut wanted: HashMap<u64, (&Arc<Listener>, &Arc<Sockets>)> = HashMap::new();
        for listener in snapshot.listeners() {
            // A client cannot take its datagrams elsewhere, so that they are served while the process drains.
            if (is_serving || listener.udp.is_some()) && listener.accepts() {
                wanted.extend(listener.sockets.iter().map(|sockets| (sockets.id, (listener, sockets))));
            }
        }
        accepting.retain(|id, task| {
            let keep = wanted.contains_key(id);
            if !keep {
                task.abort();
            }
            keep
        });
        for (id, (listener, sockets)) in wanted {
            accepting.entry(id).or_insert_with(|| {
                let name = Arc::clone(&listener.name);
                let (worker, sockets) = (Rc::clone(&worker), Arc::clone(sockets));
                if listener.udp.is_some() {
                    tokio::task::spawn_local(udp::serve(worker, name, sockets)).abort_handle()
                } else {
                    tokio::task::spawn_local(accept(worker, name, sockets)).abort_handle()
                }
            });
        }
        drop(snapshot);
        tokio::select! {
            changed = published.changed() => if changed.is_err() {
                return;
            },
            () = &mut draining, if is_serving => is_serving = false,
        }
    }
}

async fn accept(worker: Rc<Worker>, name: Arc<str>, sockets: Arc<Sockets>) {
    let Some(bound) = sockets.take(worker.shard) else { return };
    let socket = match bound.into_listener() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %name, %error, "cannot accept on this worker");
            return;
        }
    };
    loop {
        let accepted = socket.accept().await;
        // Looked up for each connection, so that new connections see the listener as it is now.
        let Some(listener) = worker.snapshot().listener(&name).cloned() else { return };
        tokio::task::spawn_local(connection::serve(Rc::clone(&worker), listener, accepted));
    }
}
