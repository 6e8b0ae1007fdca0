//! Which endpoint a try takes: balancing's choice, less what the retry policy wants to avoid.

use std::sync::Arc;

use dp_upstream::{Cluster, Endpoint, PickContext, PickError};
use shared_config::route::{Avoid, RetryPolicy};
use smallvec::SmallVec;

use super::Failure;
use crate::destination;
use crate::fault::Fault;
use crate::route::Chosen;
use crate::stream::Stream;

/// What was tried before.
#[derive(Debug, Default)]
pub(super) struct Tried {
    endpoints: SmallVec<[u64; 2]>,
    /// One for each try since all priorities were tried.
    priorities: SmallVec<[u32; 4]>,
    /// Priorities that take nothing for now.
    without: SmallVec<[u32; 4]>,
}

impl Tried {
    fn note(&mut self, endpoint: &Endpoint) {
        self.endpoints.push(endpoint.state.id);
        self.priorities.push(endpoint.priority);
    }

    /// The endpoint noted last got nothing, so it was not tried.
    pub(super) fn forget_last(&mut self) {
        self.endpoints.pop();
        self.priorities.pop();
    }

    /// After every so many tries, leaves out the priorities they took (Envoy `previous_priorities`).
    fn leave_out_priorities(&mut self, policy: &RetryPolicy, cluster: &Cluster) {
        let Some(frequency) = policy.new_priority_after else { return };
        if self.priorities.is_empty() || !self.priorities.len().is_multiple_of(frequency as usize) {
            return;
        }
        self.without.clone_from(&self.priorities);
        if !cluster.has_priority_besides(&self.without) {
            // All were tried: start over.
            self.without.clear();
            self.priorities.clear();
        }
    }
}

pub(super) fn pick(stream: &mut Stream<'_>, chosen: &Chosen, tried: &mut Tried) -> Result<Arc<Endpoint>, Failure> {
    let policy = chosen.plan().config.retry.as_ref().filter(|_| !tried.endpoints.is_empty());
    if let Some(policy) = policy {
        tried.leave_out_priorities(policy, &chosen.cluster);
    }
    let avoid = policy.map_or(&[][..], |policy| &policy.avoid);
    let refuse = |endpoint: &Endpoint| {
        let before = tried.endpoints.contains(&endpoint.state.id);
        avoid.iter().any(|avoid: &Avoid| avoid.matches(&endpoint.metadata, before))
    };
    let criteria = chosen.criteria(stream);
    let sticky = chosen.sticky(stream, tried.endpoints.len());
    let mut foreseen = stream.worker.pools.foreseen(&chosen.cluster);
    let mut rng = stream.worker.rng();
    let mut context = PickContext {
        criteria: criteria.as_deref(),
        now: Some(stream.clocks.now),
        sticky: sticky.as_deref(),
        place: chosen.place,
        destination: destination::of_request(&chosen.cluster, stream),
        hash: chosen.hash,
        refuse: if avoid.is_empty() { None } else { Some(&refuse) },
        reselect: policy.filter(|_| !avoid.is_empty()).map_or(0, |policy| policy.host_picks),
        without: &tried.without,
        ..PickContext::new(foreseen.as_mut().unwrap_or(&mut rng), stream.worker.index())
    };
    match chosen.cluster.pick(&mut context) {
        Ok(endpoint) => {
            tried.note(&endpoint);
            Ok(endpoint)
        }
        Err(PickError::Strict) => {
            stream.info.upstream.host = None;
            let status = stream.info.sticky.as_ref().map_or(503, |sticky| sticky.status);
            Err(Failure::Final(Fault::NoStickyUpstream(status)))
        }
        Err(PickError::Full) => Err(Failure::Final(Fault::Overflow)),
        Err(PickError::Dropped) => {
            // It was dropped before a try was made.
            stream.info.upstream.attempts -= 1;
            Err(Failure::Final(Fault::Dropped { all: chosen.cluster.drops_all() }))
        }
        Err(PickError::Empty | PickError::Unhealthy) => {
            stream.info.upstream.host = None;
            stream.info.host_metadata = None;
            Err(Failure::Final(Fault::NoHealthyUpstream))
        }
    }
}
