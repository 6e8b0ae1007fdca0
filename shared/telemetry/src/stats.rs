//! Blocks of statistics: counters, gauges, histograms and response-code counters of one thing (a cluster, a listener).
//!
//! Writing is a load and a store on the writer's own shard: no lock, no clock, and memory only at the first write of
//! a shard. So a cluster that sees no traffic costs little. Never decides which things are counted.

use std::any::Any;

pub use stdx::shard::Shards;

pub mod histogram;
pub mod registry;
pub mod render;
pub mod scope;

use histogram::{Codes, Histogram, Snapshot};

/// What a field of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// One counter for each HTTP status code.
    Codes,
}

/// A field of a block: its name after the block's prefix, in Envoy's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub kind: Kind,
}

/// What a field says at the moment of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    Number(u64),
    /// `None` while nothing was recorded.
    Histogram(Option<Box<Snapshot>>),
    /// Status codes seen, with their counts.
    Codes(Vec<(u16, u64)>),
}

/// Something the registry can read. [`stats!`] implements it; by hand it serves values computed at the scrape.
pub trait Source: Any + Send + Sync {
    fn fields(&self) -> &'static [Field];
    fn read(&self, index: usize) -> Reading;
    /// Sets the counters and histograms back to zero; gauges stay.
    fn reset(&self);
}

/// One counter of a block.
#[derive(Debug, Clone, Copy)]
pub struct Counter<'a> {
    pub cells: &'a Shards,
    pub index: usize,
}

/// One gauge of a block.
#[derive(Debug, Clone, Copy)]
pub struct Gauge<'a> {
    pub cells: &'a Shards,
    pub index: usize,
}

/// A field that needs more than one number; empty until it is first used.
#[derive(Debug)]
pub enum Extra {
    Histogram(Histogram),
    Codes(Codes),
}

// === impl Counter ===

impl Counter<'_> {
    /// Counts one more on behalf of `shard`.
    pub fn inc(self, shard: usize) {
        self.add(shard, 1);
    }

    pub fn add(self, shard: usize, n: u64) {
        self.cells.add(shard, self.index, n);
    }

    pub fn value(self) -> u64 {
        self.cells.sum(self.index)
    }
}

// === impl Gauge ===

impl Gauge<'_> {
    pub fn inc(self, shard: usize) {
        self.add(shard, 1);
    }

    pub fn dec(self, shard: usize) {
        self.sub(shard, 1);
    }

    pub fn add(self, shard: usize, n: u64) {
        self.cells.add(shard, self.index, n);
    }

    pub fn sub(self, shard: usize, n: u64) {
        self.cells.sub(shard, self.index, n);
    }

    /// Makes the value `n`. Only for gauges that one thread sets and nobody raises or lowers.
    pub fn set(self, n: u64) {
        let change = n.wrapping_sub(self.cells.sum(self.index));
        if change != 0 {
            self.add(0, change);
        }
    }

    /// The value; a reading between the two halves of a move between shards is never below zero.
    pub fn value(self) -> u64 {
        not_negative(self.cells.sum(self.index))
    }
}

fn not_negative(sum: u64) -> u64 {
    if sum > i64::MAX as u64 { 0 } else { sum }
}

// === impl Extra ===

impl Extra {
    /// Empty storage for the fields of `fields` that are not plain numbers, in their order.
    pub fn for_fields(fields: &[Field], shards: usize) -> Box<[Extra]> {
        let make = |field: &Field| match field.kind {
            Kind::Histogram => Some(Extra::Histogram(Histogram::new(shards))),
            Kind::Codes => Some(Extra::Codes(Codes::new(shards))),
            Kind::Counter | Kind::Gauge => None,
        };
        fields.iter().filter_map(make).collect()
    }

    fn reset(&self) {
        match self {
            Extra::Histogram(histogram) => histogram.reset(),
            Extra::Codes(codes) => codes.reset(),
        }
    }
}

/// The place of field `index` among the fields that are not plain numbers.
pub const fn ordinal(fields: &[Field], index: usize) -> usize {
    let (mut at, mut found) = (0, 0);
    while at < index {
        if matches!(fields[at].kind, Kind::Histogram | Kind::Codes) {
            found += 1;
        }
        at += 1;
    }
    found
}

/// Reads field `index` of a block made by [`stats!`].
pub fn read(fields: &[Field], cells: &Shards, extras: &[Extra], index: usize) -> Reading {
    match fields[index].kind {
        Kind::Counter => Reading::Number(cells.sum(index)),
        Kind::Gauge => Reading::Number(not_negative(cells.sum(index))),
        Kind::Histogram | Kind::Codes => match &extras[ordinal(fields, index)] {
            Extra::Histogram(histogram) => Reading::Histogram(histogram.snapshot().map(Box::new)),
            Extra::Codes(codes) => Reading::Codes(codes.counts()),
        },
    }
}

/// Resets the counters of a block made by [`stats!`].
pub fn reset(fields: &[Field], cells: &Shards, extras: &[Extra]) {
    for (index, _) in fields.iter().enumerate().filter(|(_, field)| field.kind == Kind::Counter) {
        cells.clear(index);
    }
    extras.iter().for_each(Extra::reset);
}

/// Defines a block of statistics.
///
/// ```
/// shared_telemetry::stats! {
///     /// What a cluster counts.
///     pub struct ClusterStats {
///         counter upstream_rq_total,
///         gauge upstream_rq_active,
///         gauge default_rq_open = "circuit_breakers.default.rq_open",
///         histogram upstream_rq_time,
///         codes upstream_rq,
///     }
/// }
/// let registry = shared_telemetry::Registry::new(3);
/// let stats = ClusterStats::register(&registry, shared_telemetry::Scope::cluster("api"));
/// let shard = 1;
/// stats.upstream_rq_total().inc(shard);
/// stats.upstream_rq_active().inc(shard);
/// stats.upstream_rq_time().record(shard, 12);
/// stats.upstream_rq().inc(shard, 200);
/// assert_eq!(stats.upstream_rq_total().value(), 1);
/// ```
#[macro_export]
macro_rules! stats {
    ($(#[$doc:meta])* $vis:vis struct $name:ident { $($kind:ident $field:ident $(= $text:literal)?),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        $vis struct $name {
            cells: $crate::stats::Shards,
            extras: Box<[$crate::stats::Extra]>,
        }

        const _: () = {
            #[allow(non_camel_case_types)]
            #[derive(Clone, Copy)]
            enum Index { $($field),+ }

            const FIELDS: &[$crate::stats::Field] = &[$(
                $crate::stats::Field {
                    name: $crate::__stat_name!($field $($text)?),
                    kind: $crate::__stat_kind!($kind),
                },
            )+];

            #[allow(dead_code, unreachable_pub)]
            impl $name {
                /// A block for `shards` writers that no registry shows.
                pub fn new(shards: usize) -> Self {
                    Self {
                        cells: $crate::stats::Shards::new(shards, FIELDS.len()),
                        extras: $crate::stats::Extra::for_fields(FIELDS, shards),
                    }
                }

                /// The block of this scope: the living one if there is one, else a new one. The registry shows it
                /// for as long as somebody holds it.
                pub fn register(registry: &$crate::Registry, scope: $crate::Scope) -> std::sync::Arc<Self> {
                    registry.register(scope, Self::new)
                }

                $($crate::__stat_method!($kind $field FIELDS Index);)+
            }

            impl $crate::stats::Source for $name {
                fn fields(&self) -> &'static [$crate::stats::Field] {
                    FIELDS
                }

                fn read(&self, index: usize) -> $crate::stats::Reading {
                    $crate::stats::read(FIELDS, &self.cells, &self.extras, index)
                }

                fn reset(&self) {
                    $crate::stats::reset(FIELDS, &self.cells, &self.extras);
                }
            }
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stat_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $text:literal) => {
        $text
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stat_kind {
    (counter) => {
        $crate::stats::Kind::Counter
    };
    (gauge) => {
        $crate::stats::Kind::Gauge
    };
    (histogram) => {
        $crate::stats::Kind::Histogram
    };
    (codes) => {
        $crate::stats::Kind::Codes
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stat_method {
    (counter $field:ident $fields:ident $index:ident) => {
        pub fn $field(&self) -> $crate::stats::Counter<'_> {
            $crate::stats::Counter { cells: &self.cells, index: $index::$field as usize }
        }
    };
    (gauge $field:ident $fields:ident $index:ident) => {
        pub fn $field(&self) -> $crate::stats::Gauge<'_> {
            $crate::stats::Gauge { cells: &self.cells, index: $index::$field as usize }
        }
    };
    (histogram $field:ident $fields:ident $index:ident) => {
        pub fn $field(&self) -> &$crate::stats::histogram::Histogram {
            const AT: usize = $crate::stats::ordinal($fields, $index::$field as usize);
            match &self.extras[AT] {
                $crate::stats::Extra::Histogram(histogram) => histogram,
                $crate::stats::Extra::Codes(_) => unreachable!("extras are made in the order of the fields"),
            }
        }
    };
    (codes $field:ident $fields:ident $index:ident) => {
        pub fn $field(&self) -> &$crate::stats::histogram::Codes {
            const AT: usize = $crate::stats::ordinal($fields, $index::$field as usize);
            match &self.extras[AT] {
                $crate::stats::Extra::Codes(codes) => codes,
                $crate::stats::Extra::Histogram(_) => unreachable!("extras are made in the order of the fields"),
            }
        }
    };
}

#[cfg(test)]
mod tests;
