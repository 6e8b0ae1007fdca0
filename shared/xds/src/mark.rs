//! The marks of our own control plane around one revision on an ADS stream.
//!
//! A client subscribes to `snapshot:cds+lds`: the full-set kinds that it takes from this stream. END waits for those.

use prost::Message;
use proto::Any;
use proto::weir::xds::v1::{SnapshotMark, snapshot_mark::Phase};

use crate::ResourceKind;

/// What a client says in its node when it understands marks.
pub const CLIENT_FEATURE: &str = "weir.snapshot.v1";

const PREFIX: &str = "snapshot:";

/// One mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Begin(u64),
    End(u64),
}

/// The name to subscribe to for a client that takes `kinds`.
pub fn name(kinds: impl IntoIterator<Item = ResourceKind>) -> String {
    let shorts: Vec<_> = kinds.into_iter().map(ResourceKind::short).collect();
    format!("{PREFIX}{}", shorts.join("+"))
}

/// The kinds a subscribed name waits for; `None` when the name is not ours. Kinds we do not know are not waited for.
pub fn kinds(name: &str) -> Option<Vec<ResourceKind>> {
    Some(name.strip_prefix(PREFIX)?.split('+').filter_map(ResourceKind::from_short).collect())
}

impl Mark {
    pub fn revision(self) -> u64 {
        match self {
            Self::Begin(revision) | Self::End(revision) => revision,
        }
    }

    pub fn pack(self, name: &str) -> Any {
        let phase = if matches!(self, Self::Begin(_)) { Phase::Begin } else { Phase::End };
        Any::pack(&SnapshotMark { revision: self.revision(), phase: phase as i32, name: name.to_owned() })
    }

    /// # Errors
    /// It is not a mark, or one with a phase we do not know.
    pub fn unpack(any: &Any) -> Result<Self, String> {
        let mark = SnapshotMark::decode(any.value.clone()).map_err(|error| error.to_string())?;
        match mark.phase() {
            Phase::Begin => Ok(Self::Begin(mark.revision)),
            Phase::End => Ok(Self::End(mark.revision)),
            Phase::Unspecified => Err(format!("phase {} is unknown", mark.phase)),
        }
    }
}
