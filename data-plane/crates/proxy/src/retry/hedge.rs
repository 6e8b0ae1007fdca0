//! Hedging: a try that is slow stays in the race while another one is made (Envoy `hedge_on_per_try_timeout`).
//!
//! The first answer that the retry policy does not call bad wins, all others are reset. A try takes part only once its
//! request was sent completely, so that the body belongs to one try at a time.

use std::task::{Context, Poll};

use dp_http::ResponseHead;
use dp_http::info::UpstreamInfo;
use dp_http::stream::{Reset, StreamError};
use dp_upstream::Checkout;

use super::decide::Criteria;
use super::running::Running;
use super::{Failure, Upstream, upstream_fault};
use crate::clocks::Expired;
use crate::fault::Fault;
use crate::stream::Stream;

/// A try that ran out of its time and may still win.
pub(crate) struct Rival {
    pub(super) checkout: Checkout,
    pub(super) request: Running,
    pub(super) info: UpstreamInfo,
}

/// The tries of a request that still run beside the current one. Nearly always none.
#[derive(Default)]
pub(crate) struct Hedges(Option<Box<Race>>);

struct Race {
    rivals: Vec<Rival>,
    criteria: Criteria<'static>,
    /// No other try runs or will be made: what comes now is the answer.
    last: bool,
    winner: Option<(Rival, ResponseHead)>,
}

// === impl Hedges ===

impl Hedges {
    pub(super) fn add(&mut self, rival: Rival, criteria: &Criteria<'_>) {
        let race =
            || Box::new(Race { rivals: vec![], criteria: criteria.clone().into_owned(), last: false, winner: None });
        self.0.get_or_insert_with(race).rivals.push(rival);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|race| race.rivals.is_empty())
    }

    /// Resets all that still run.
    pub(super) fn cancel(&mut self) {
        if let Some(race) = self.0.take() {
            race.rivals.into_iter().for_each(Rival::lose);
        }
    }
}

/// The try that overtook all others.
pub(super) fn winner(stream: &mut Stream<'_>) -> Option<Box<Upstream>> {
    let (rival, head) = stream.hedges.0.as_mut()?.winner.take()?;
    stream.hedges.cancel();
    stream.clocks.touch();
    stream.clocks.settle();
    let attempts = stream.info.upstream.attempts;
    stream.info.upstream = UpstreamInfo { attempts, ..rival.info };
    stream.info.timing.upstream_first_received = Some(stream.since_start(stream.clocks.now));
    Some(Box::new(Upstream { checkout: rival.checkout, head, request: rival.request }))
}

/// Waits for the tries that still run, because no other will be made. `otherwise`: what is wrong if there are none.
pub(super) async fn outlast(stream: &mut Stream<'_>, otherwise: Fault) -> Fault {
    match &mut stream.hedges.0 {
        Some(race) if !race.rivals.is_empty() => race.last = true,
        _ => return otherwise,
    }
    std::future::poll_fn(|cx| stream.poll_trouble(cx, Expired::fault)).await
}

impl Stream<'_> {
    /// Ready when one of the tries in the race won, or when the last of them is lost.
    pub(crate) fn poll_hedges(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let Some(race) = &mut self.hedges.0 else { return Poll::Pending };
        let mut index = 0;
        while let Some(rival) = race.rivals.get_mut(index) {
            let Poll::Ready(answered) = rival.poll_head(cx) else {
                index += 1;
                continue;
            };
            let mut rival = race.rivals.swap_remove(index);
            let is_last = race.last && race.rivals.is_empty();
            match answered {
                Ok(head) => {
                    rival.request.answered(&self.request, &head, tokio::time::Instant::now());
                    if is_last || !race.criteria.wanted(&head) {
                        race.winner = Some((rival, head));
                        return Poll::Ready(Fault::Overtaken);
                    }
                    rival.request.charge_retried(&head);
                    rival.cut();
                }
                Err(error) => {
                    rival.request.lost(&Failure::Stream { error, reused: false }, false);
                    if is_last {
                        return Poll::Ready(upstream_fault(&error));
                    }
                }
            }
        }
        Poll::Pending
    }
}

// === impl Rival ===

impl Rival {
    /// It ran out of its time, and stays.
    pub(super) fn of(stream: &Stream<'_>, checkout: Checkout, request: Running) -> Box<Self> {
        request.timed_out();
        Box::new(Self { checkout, request, info: stream.info.upstream.clone() })
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        // A failed flush shows in the response.
        let _ = self.checkout.stream.poll_flush(cx);
        loop {
            match self.checkout.stream.poll_head(cx) {
                // Whether its final answer is wanted is not known yet.
                Poll::Ready(Ok(head)) if head.is_informational() && head.status != 101 => {}
                other => return other,
            }
        }
    }

    fn cut(mut self) {
        self.checkout.stream.reset(Reset::Cancel);
        self.request.finish();
    }

    fn lose(mut self) {
        self.checkout.stream.reset(Reset::Cancel);
        self.request.overtaken();
    }
}
