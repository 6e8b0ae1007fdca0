//! Times between two moments of a stream.

use std::time::Duration;

use dp_http::StreamInfo;

/// What to measure, and in what unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    from: Moment,
    to: Moment,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Start,
    RequestComplete,
    ConnectStart,
    ConnectEnd,
    HandshakeEnd,
    UpstreamFirstSent,
    UpstreamLastSent,
    UpstreamFirstReceived,
    UpstreamLastReceived,
    FirstSent,
    LastSent,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    Microseconds,
    Nanoseconds,
}

impl Span {
    pub(crate) const TOTAL: Self = Self::milliseconds(Moment::Start, Moment::End);
    pub(crate) const REQUEST: Self = Self::milliseconds(Moment::Start, Moment::RequestComplete);
    pub(crate) const REQUEST_SENT: Self = Self::milliseconds(Moment::Start, Moment::UpstreamLastSent);
    pub(crate) const RESPONSE: Self = Self::milliseconds(Moment::Start, Moment::UpstreamFirstReceived);
    pub(crate) const RESPONSE_SENT: Self = Self::milliseconds(Moment::UpstreamFirstReceived, Moment::LastSent);

    const fn milliseconds(from: Moment, to: Moment) -> Self {
        Self { from, to, unit: Unit::Milliseconds }
    }

    /// Parses `START:END:UNIT`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [from, to, unit] = parts[..] else {
            return Err("needs START:END:PRECISION, for example DS_RX_BEG:DS_TX_END:ms".into());
        };
        let unit = match unit {
            "ms" => Unit::Milliseconds,
            "us" => Unit::Microseconds,
            "ns" => Unit::Nanoseconds,
            other => return Err(format!("{other:?} is not ms, us or ns")),
        };
        Ok(Self { from: Moment::parse(from)?, to: Moment::parse(to)?, unit })
    }

    /// The time in the unit; `None` when one of the moments did not come, or they came in the other order.
    pub(crate) fn measure(self, info: &StreamInfo) -> Option<u64> {
        let time = self.to.of(info)?.checked_sub(self.from.of(info)?)?;
        let count = match self.unit {
            Unit::Milliseconds => time.as_millis(),
            Unit::Microseconds => time.as_micros(),
            Unit::Nanoseconds => time.as_nanos(),
        };
        u64::try_from(count).ok()
    }
}

impl Moment {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "DS_RX_BEG" => Self::Start,
            "DS_RX_END" => Self::RequestComplete,
            "US_CX_BEG" => Self::ConnectStart,
            "US_CX_END" => Self::ConnectEnd,
            "US_HS_END" => Self::HandshakeEnd,
            "US_TX_BEG" => Self::UpstreamFirstSent,
            "US_TX_END" => Self::UpstreamLastSent,
            "US_RX_BEG" => Self::UpstreamFirstReceived,
            "US_RX_END" => Self::UpstreamLastReceived,
            "DS_TX_BEG" => Self::FirstSent,
            "DS_TX_END" => Self::LastSent,
            other => return Err(format!("{other:?} is not a moment such as DS_RX_BEG or US_TX_END")),
        })
    }

    /// When it came, as time since the start of the stream.
    fn of(self, info: &StreamInfo) -> Option<Duration> {
        let timing = &info.timing;
        match self {
            Self::Start => Some(Duration::ZERO),
            Self::RequestComplete => timing.request_complete,
            Self::ConnectStart => timing.upstream_connect_start,
            Self::ConnectEnd => timing.upstream_connect_complete,
            Self::HandshakeEnd => timing.upstream_handshake_complete,
            Self::UpstreamFirstSent => timing.upstream_first_sent,
            Self::UpstreamLastSent => timing.upstream_last_sent,
            Self::UpstreamFirstReceived => timing.upstream_first_received,
            Self::UpstreamLastReceived => timing.upstream_last_received,
            Self::FirstSent => timing.downstream_first_sent,
            Self::LastSent => timing.downstream_last_sent,
            Self::End => info.duration,
        }
    }
}
