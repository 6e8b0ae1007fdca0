//! Where the data plane gets its configuration from: xDS streams, files, and the last good state on disk.
//!
//! Hands encoded resources to a consumer and tells the sources what the consumer thought of them. Never decodes a
//! resource beyond its name and never starts anything that serves.

mod connect;
mod consumer;
mod core;
mod file;
mod last_good;
mod limit;
mod link;
mod load;
mod node;
mod source;
mod stats;
mod watch;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;

pub use consumer::{Consumer, Event, FileWanted, Raw, ResourceKind, Verdict, Wanted};
pub use load::{Asked, Loads, report_loads};
pub use node::{Extension, NodeIdentity};
pub use shared_xds::Protocol;
pub use shared_xds::load::EndpointView;
pub use source::{FileSource, LastGoodOptions, Setup, StreamSource, Tls};
pub use stats::{KindStats, ResourceView, Stats, StatsView};

/// Reaches a running client from elsewhere.
#[derive(Debug, Clone)]
pub struct Handle {
    stats: Arc<Stats>,
}

impl Handle {
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// Makes the client of all sources. The future is to be polled on the control thread, in a tokio runtime; it is not
/// `Send`, and it ends only when it is dropped: without a control plane it goes on trying.
pub fn client(setup: Setup, consumer: impl Consumer + 'static) -> (Handle, impl Future<Output = ()>) {
    let stats = Arc::new(Stats::default());
    let handle = Handle { stats: stats.clone() };
    (handle, run(setup, Box::new(consumer), stats))
}

async fn run(setup: Setup, consumer: Box<dyn Consumer>, stats: Arc<Stats>) {
    let store = setup.last_good.map(last_good::Store::new);
    let core = Rc::new(RefCell::new(core::Core::new(consumer, setup.wanted, stats, store)));
    let links = setup.streams.into_iter().flat_map(StreamSource::split);
    let node = setup.node.encode();
    let links = join_all(links.map(|source| link::Link::new(source, node.clone(), core.clone()).run()));
    let files = file::run(setup.files, core.clone());
    let saving = core::save(core.clone());
    tokio::join!(links, files, saving);
}
