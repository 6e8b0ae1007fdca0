//! The deadlines of one stream: which there are, which is next, which has passed.
//!
//! Reads the clock once for each time the stream is woken, not for each thing it does.

use std::time::Duration;

use tokio::time::Instant;

use crate::fault::Fault;
use crate::timer::{deadline, earlier};

/// The clocks of one stream; `None` is no limit.
#[derive(Debug)]
pub(crate) struct Clocks {
    pub(crate) began: Instant,
    /// The clock as last read.
    pub(crate) now: Instant,
    /// No byte either way for this long.
    pub(crate) idle: Option<Duration>,
    pub(crate) last_activity: Instant,
    /// Something moved since `last_activity` was set.
    pub(crate) touched: bool,
    /// The whole request must be in by then (`request_timeout`).
    pub(crate) request: Option<Instant>,
    /// The stream must be over by then (`max_stream_duration`).
    pub(crate) max_stream: Option<Instant>,
    /// How long a try may take, its response included, if the request says so (`x-envoy-upstream-stream-duration-ms`).
    pub(crate) asked_upstream: Option<Duration>,
    /// The current try must be over by then: that, or `max_stream_duration` of the cluster.
    pub(crate) max_upstream: Option<Instant>,
    /// How long the response may take once the request is complete (`RouteAction.timeout`).
    pub(crate) route_timeout: Option<Duration>,
    /// The response must be over by then; set when the request is complete.
    pub(crate) route: Option<Instant>,
    /// `per_try_timeout` of the current try.
    pub(crate) per_try_limit: Option<Duration>,
    /// A timeout is answered with 204 (`x-envoy-upstream-rq-timeout-alt-response`).
    pub(crate) timeout_is_204: bool,
    /// The current try has its connection.
    pub(crate) connected: bool,
    /// The head of the response must be in by then (`per_try_timeout`).
    pub(crate) per_try: Option<Instant>,
    pub(crate) per_try_idle: Option<Duration>,
    try_began: Instant,
}

/// Which limit has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    Idle,
    Request,
    MaxStream,
    MaxUpstream,
    Route,
    PerTry,
    PerTryIdle,
}

impl Clocks {
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            now: began,
            idle: None,
            last_activity: began,
            touched: false,
            request: None,
            max_stream: None,
            asked_upstream: None,
            max_upstream: None,
            route_timeout: None,
            route: None,
            per_try_limit: None,
            timeout_is_204: false,
            connected: false,
            per_try: None,
            per_try_idle: None,
            try_began: began,
        }
    }

    /// A try begins, with these limits of its own.
    pub(crate) fn begin_try(&mut self, limit: Option<Duration>, idle: Option<Duration>) {
        self.end_try();
        (self.per_try_limit, self.per_try_idle, self.try_began) = (limit, idle, self.now);
    }

    /// The try brought nothing: its limits mean nothing to the wait for the next one.
    pub(crate) fn end_try(&mut self) {
        (self.per_try, self.per_try_idle, self.max_upstream) = (None, None, None);
        self.connected = false;
    }

    /// The try has its connection; `most` is the longest that the cluster allows.
    pub(crate) fn connected(&mut self, most: Option<Duration>) {
        self.connected = true;
        let most = self.asked_upstream.or(most).filter(|most| !most.is_zero());
        self.max_upstream = deadline(self.now, most);
    }

    /// Something moved: the idle clocks start over. Costs nothing until the stream has to wait.
    pub(crate) fn touch(&mut self) {
        self.touched = true;
    }

    /// Reads the clock and settles what was touched.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.read();
            self.last_activity = self.now;
        }
    }

    /// Reads the clock, after a time in which nothing moved.
    pub(crate) fn read(&mut self) {
        self.now = Instant::now();
    }

    /// The request is complete and the route is known: the clock of the route runs.
    pub(crate) fn start_route(&mut self) {
        self.route = self.route.or(deadline(self.now, self.route_timeout));
    }

    /// The request is complete or the try has its connection: when it has both, the clock of the try runs.
    pub(crate) fn start_per_try(&mut self) {
        if self.connected {
            self.per_try = self.per_try.or(deadline(self.now, self.per_try_limit));
        }
    }

    /// The next moment at which something may have passed.
    pub(crate) fn next(&self) -> Option<Instant> {
        let idle = deadline(self.last_activity, self.idle);
        let per_try_idle = deadline(self.last_activity.max(self.try_began), self.per_try_idle);
        [self.request, self.max_stream, self.max_upstream, self.route, self.per_try, per_try_idle]
            .into_iter()
            .fold(idle, earlier)
    }

    /// What has passed at `now`.
    pub(crate) fn expired(&mut self, now: Instant) -> Option<Expired> {
        self.now = now;
        let passed = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        let rows = [
            (self.per_try, Expired::PerTry),
            (self.route, Expired::Route),
            (deadline(self.last_activity.max(self.try_began), self.per_try_idle), Expired::PerTryIdle),
            (self.max_upstream, Expired::MaxUpstream),
            (self.max_stream, Expired::MaxStream),
            (self.request, Expired::Request),
            (deadline(self.last_activity, self.idle), Expired::Idle),
        ];
        rows.into_iter().find(|(at, _)| passed(*at)).map(|(_, expired)| expired)
    }
}

impl Expired {
    pub(crate) fn fault(self) -> Fault {
        match self {
            Self::Idle => Fault::StreamIdle,
            Self::Request => Fault::RequestTimeout,
            Self::MaxStream => Fault::MaxStreamDuration,
            Self::MaxUpstream => Fault::UpstreamMaxStreamDuration,
            Self::Route => Fault::RouteTimeout,
            Self::PerTry => Fault::PerTryTimeout,
            Self::PerTryIdle => Fault::PerTryIdleTimeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_deadline_is_the_earliest_and_names_itself() {
        let start = Instant::now();
        let mut clocks = Clocks::new(start);
        assert_eq!(clocks.next(), None);
        clocks.idle = Some(Duration::from_secs(300));
        clocks.route = Some(start + Duration::from_secs(15));
        assert_eq!(clocks.next(), clocks.route);
        assert_eq!(clocks.expired(start + Duration::from_secs(14)), None);
        assert_eq!(clocks.expired(start + Duration::from_secs(15)), Some(Expired::Route));
        tokio::time::advance(Duration::from_secs(10)).await;
        clocks.touch();
        clocks.settle();
        assert_eq!(clocks.last_activity, start + Duration::from_secs(10));
    }
}
