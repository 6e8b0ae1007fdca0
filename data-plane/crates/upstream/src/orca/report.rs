//! Reads a load report from the head or the trailers of a response, in the forms that Envoy knows.
//!
//! `endpoint-load-metrics: TEXT name=value, …`, `JSON {…}` or `BIN …`; `endpoint-load-metrics-bin` of gRPC goes first. A
//! report with anything wrong in it is none. The text is read as it stands; a binary one is decoded into a buffer, and
//! JSON into maps.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dp_http::Headers;
use serde::Deserialize;
use shared_config::lb_policy::Metric;

use crate::grpc::take_varint;

const TEXT: &str = "endpoint-load-metrics";
const BINARY: &str = "endpoint-load-metrics-bin";
/// The fields of `OrcaLoadReport` that are maps.
const COST: u64 = 4;
const UTILIZATION: u64 = 5;
const NAMED: u64 = 8;
/// An honest report has a few metrics.
const MOST: usize = 256;

/// Tells what the report says; `None` when there is none.
pub(super) fn read(headers: &Headers, tell: impl FnMut(Metric<&str>, f64)) -> Option<()> {
    if let Some(value) = headers.text(BINARY) {
        return binary(value, tell);
    }
    match headers.text(TEXT)?.split_once(' ')? {
        ("TEXT", list) => text(list, tell),
        ("JSON", value) => json(value, tell),
        ("BIN", value) => binary(value, tell),
        _ => None,
    }
}

fn text(list: &str, mut tell: impl FnMut(Metric<&str>, f64)) -> Option<()> {
    let items = || list.split(',').map(str::trim).filter(|item| !item.is_empty());
    for (index, item) in items().enumerate() {
        let (name, value) = item.split_once(['=', ':'])?;
        let again = |before: &str| before.split(['=', ':']).next() == Some(name);
        if index >= MOST || items().take(index).any(again) {
            return None;
        }
        let metric = Metric::of(name).filter(|metric| !matches!(metric, Metric::RequestCost(_)))?;
        tell(metric, finite(value.parse().ok()?)?);
    }
    Some(())
}

/// `xds.data.orca.v3.OrcaLoadReport` as JSON; names in either spelling.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Report {
    #[serde(alias = "cpuUtilization")]
    cpu_utilization: Number,
    #[serde(alias = "memUtilization")]
    mem_utilization: Number,
    #[serde(alias = "applicationUtilization")]
    application_utilization: Number,
    #[serde(alias = "rpsFractional")]
    rps_fractional: Number,
    eps: Number,
    /// The whole number of former times counts for nothing.
    rps: Number,
    #[serde(alias = "namedMetrics")]
    named_metrics: HashMap<String, Number>,
    utilization: HashMap<String, Number>,
    #[serde(alias = "requestCost")]
    request_cost: HashMap<String, Number>,
}

/// A number, which JSON of protobuf also writes as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Number(f64),
    Text(String),
}

impl Default for Number {
    fn default() -> Self {
        Self::Number(0.0)
    }
}

impl Number {
    fn value(&self) -> Option<f64> {
        match self {
            Self::Number(value) => Some(*value),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

fn json(value: &str, mut tell: impl FnMut(Metric<&str>, f64)) -> Option<()> {
    let report: Report = serde_json::from_str(value).ok()?;
    report.rps.value()?;
    tell(Metric::Cpu, report.cpu_utilization.value()?);
    tell(Metric::Memory, report.mem_utilization.value()?);
    tell(Metric::Application, report.application_utilization.value()?);
    tell(Metric::Requests, report.rps_fractional.value()?);
    tell(Metric::Errors, report.eps.value()?);
    for (number, map) in
        [(NAMED, &report.named_metrics), (UTILIZATION, &report.utilization), (COST, &report.request_cost)]
    {
        for (name, value) in map {
            tell(of_map(number, name)?, value.value()?);
        }
    }
    Some(())
}

fn binary(value: &str, tell: impl FnMut(Metric<&str>, f64)) -> Option<()> {
    const BASE64: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    if value.is_empty() {
        return None;
    }
    message(&BASE64.decode(value).ok()?, tell)
}

/// Tells what an encoded `OrcaLoadReport` says.
pub(super) fn message(mut left: &[u8], mut tell: impl FnMut(Metric<&str>, f64)) -> Option<()> {
    while let Some((number, field)) = field(&mut left)? {
        let scalar: Option<Metric<&str>> = match number {
            1 => Some(Metric::Cpu),
            2 => Some(Metric::Memory),
            6 => Some(Metric::Requests),
            7 => Some(Metric::Errors),
            9 => Some(Metric::Application),
            _ => None,
        };
        match (field, scalar) {
            (Field::Double(value), Some(metric)) => tell(metric, value),
            (Field::Bytes(bytes), None) if [NAMED, UTILIZATION, COST].contains(&number) => {
                let (name, value) = entry(bytes)?;
                tell(of_map(number, name)?, value);
            }
            // A report may have more than we know.
            _ => {}
        }
    }
    Some(())
}

/// What a map of the report tells under a name, by the number of its field.
fn of_map(number: u64, name: &str) -> Option<Metric<&str>> {
    match number {
        COST => Some(Metric::RequestCost(name)),
        UTILIZATION => Some(Metric::Utilization(name)),
        NAMED => Some(Metric::Named(name)),
        _ => None,
    }
}

/// One entry of a map of numbers.
fn entry(mut left: &[u8]) -> Option<(&str, f64)> {
    let (mut name, mut value) = ("", 0.0);
    while let Some((number, field)) = field(&mut left)? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => name = std::str::from_utf8(bytes).ok()?,
            (2, Field::Double(double)) => value = double,
            _ => {}
        }
    }
    Some((name, value))
}

/// A field of a message in protobuf's encoding.
enum Field<'a> {
    Double(f64),
    Bytes(&'a [u8]),
    Other,
}

/// The next field and its number; `Some(None)` at the end, `None` when it is broken.
#[allow(clippy::option_option, reason = "broken is not the end")]
fn field<'a>(left: &mut &'a [u8]) -> Option<Option<(u64, Field<'a>)>> {
    if left.is_empty() {
        return Some(None);
    }
    let key = take_varint(left)?;
    let field = match key & 7 {
        0 => {
            take_varint(left)?;
            Field::Other
        }
        1 => Field::Double(f64::from_le_bytes(*take(left, 8)?.first_chunk()?)),
        2 => {
            let length = usize::try_from(take_varint(left)?).ok()?;
            Field::Bytes(take(left, length)?)
        }
        5 => {
            take(left, 4)?;
            Field::Other
        }
        _ => return None,
    };
    Some(Some((key >> 3, field)))
}

fn take<'a>(left: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = left.split_at_checked(count)?;
    *left = rest;
    Some(taken)
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
