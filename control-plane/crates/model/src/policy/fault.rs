//! `fault`: delays and failures on purpose.

use std::time::Duration;

use crate::node::{Node, Value};
use crate::problem::Code;
use crate::read::{Keys, Reader};
use crate::value::Percent;

#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    pub delay: Option<(Duration, Percent)>,
    pub abort: Option<(u32, Percent)>,
}

pub(crate) fn fault(r: &mut Reader<'_>, node: &Node) -> Option<Fault> {
    const KEYS: Keys = Keys { known: &["delay", "abort"], not_yet: &["bandwidth", "by_header"] };
    const DELAY: Keys = Keys { known: &["time", "percent"], not_yet: &[] };
    const ABORT: Keys = Keys { known: &["status", "percent"], not_yet: &["grpc_status"] };
    let fields = r.fields(node, KEYS)?;
    let delay = r.field(&fields, "delay", |r, n| {
        if let Value::Scalar { .. } = n.value {
            return Some((r.duration(n)?, Percent::ALL));
        }
        let fields = r.fields(n, DELAY)?;
        let percent = r.field(&fields, "percent", Reader::percent).unwrap_or(Percent::ALL);
        Some((r.required(&fields, "time", Reader::duration)?, percent))
    });
    let abort = r.field(&fields, "abort", |r, n| {
        let status = |r: &mut Reader<'_>, n: &Node| r.number(n, 200..=599);
        if let Value::Scalar { .. } = n.value {
            return Some((status(r, n)?, Percent::ALL));
        }
        let fields = r.fields(n, ABORT)?;
        let percent = r.field(&fields, "percent", Reader::percent).unwrap_or(Percent::ALL);
        Some((r.required(&fields, "status", status)?, percent))
    });
    if delay.is_none() && abort.is_none() && fields.get("delay").is_none() && fields.get("abort").is_none() {
        r.wrong(node, Code::Shape, "`delay` or `abort` is missing");
    }
    Some(Fault { delay, abort })
}
