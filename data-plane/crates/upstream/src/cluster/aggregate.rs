//! Aggregate clusters: the levels of several clusters in a row, and the member whose turn it is.
//!
//! Only chooses; everything else is done by the member, with its own endpoints, connections, breakers and statistics.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Cluster;
use crate::balance::priority::{LevelHealth, Load};
use crate::balance::{Place, Tables};

/// What an aggregate is made of. There are no aggregates among the members: theirs stand in their place.
pub(crate) struct Aggregate {
    members: Vec<Arc<Cluster>>,
    /// Percent.
    panic_threshold: f64,
    view: ArcSwap<View>,
}

/// The members as they were at one moment.
struct View {
    /// The tables of each member.
    seen: Vec<Arc<Tables>>,
    load: Load,
    /// The member and its level, for each level of `load`.
    places: Vec<(usize, usize)>,
}

// === impl Aggregate ===

impl Aggregate {
    pub(crate) fn new(members: &[Arc<Cluster>], panic_threshold: f64) -> Self {
        let flat = members.iter().flat_map(|member| match &member.aggregate {
            Some(inner) => inner.members.clone(),
            None => vec![Arc::clone(member)],
        });
        let mut members: Vec<Arc<Cluster>> = Vec::new();
        for member in flat {
            if !members.iter().any(|there| Arc::ptr_eq(there, &member)) {
                members.push(member);
            }
        }
        let view = ArcSwap::from_pointee(View::of(&members, panic_threshold));
        Self { members, panic_threshold, view }
    }

    /// The member for a request, and where in it to look.
    pub(crate) fn choose(&self, rng: &mut fastrand::Rng) -> Option<(&Arc<Cluster>, Place)> {
        let mut view = self.view.load_full();
        if !view.is_current(&self.members) {
            // Once for each change of a member's endpoints or their health.
            view = Arc::new(View::of(&self.members, self.panic_threshold));
            self.view.store(Arc::clone(&view));
        }
        let chosen = view.load.choose(rng.u64(..), &[])?;
        let (member, level) = *view.places.get(chosen.level)?;
        Some((self.members.get(member)?, Place { level, ..chosen }))
    }
}

// === impl View ===

impl View {
    /// Levels without endpoints do not count.
    fn of(members: &[Arc<Cluster>], panic_threshold: f64) -> Self {
        let seen: Vec<Arc<Tables>> = members.iter().map(|member| member.tables.load_full()).collect();
        let mut places = Vec::new();
        let mut levels: Vec<LevelHealth> = Vec::new();
        for (member, tables) in seen.iter().enumerate() {
            for (level, health) in tables.health().iter().enumerate().filter(|(_, health)| !health.is_empty()) {
                places.push((member, level));
                levels.push(*health);
            }
        }
        Self { load: Load::of(&levels, panic_threshold), seen, places }
    }

    fn is_current(&self, members: &[Arc<Cluster>]) -> bool {
        members.iter().zip(&self.seen).all(|(member, seen)| Arc::ptr_eq(&*member.tables.load(), seen))
    }
}
