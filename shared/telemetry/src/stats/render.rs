//! The registry as text: Envoy's `/stats`, its JSON form, and Prometheus.
//!
//! Works block by block into any [`Write`]; never holds the registry's lock while it writes.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use regex::Regex;
use serde_json::{Value, json};

use super::histogram::{ENVOY_BOUNDS, PERCENTILES, Snapshot};
use super::registry::{Entry, Registry};
use super::scope::metric_name;
use super::{Field, Kind, Reading};

/// Which statistics are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only what was ever counted: not zero.
    pub used_only: bool,
    /// Only names in Envoy's form (`cluster.x.upstream_rq_total`) in which this is found.
    pub filter: Option<Regex>,
    /// Only this kind.
    pub kind: Option<Kind>,
}

impl Selection {
    fn wants(&self, field: &Field, prefix: &str, name: &mut String) -> bool {
        if self.kind.is_some_and(|kind| kind != field.kind && !(kind == Kind::Counter && field.kind == Kind::Codes)) {
            return false;
        }
        let Some(filter) = &self.filter else { return true };
        name.clear();
        name.push_str(prefix);
        name.push_str(field.name);
        filter.is_match(name)
    }
}

// === Envoy's text ===

impl Registry {
    /// Envoy's `/stats`: one `name: value` a line, numbers first and histograms after them.
    pub fn write_text(&self, selection: &Selection, out: &mut impl Write) -> fmt::Result {
        let mut histograms = String::new();
        self.visit(selection, |entry, field, reading| {
            let (prefix, name) = (entry.scope.prefix(), field.name);
            match reading {
                Reading::Number(value) => writeln!(out, "{prefix}{name}: {value}"),
                Reading::Codes(codes) => {
                    codes.iter().try_for_each(|(code, count)| writeln!(out, "{prefix}{name}_{code}: {count}"))
                }
                Reading::Histogram(None) => writeln!(histograms, "{prefix}{name}: No recorded values"),
                Reading::Histogram(Some(snapshot)) => {
                    write!(histograms, "{prefix}{name}:")?;
                    for percent in PERCENTILES {
                        write!(histograms, " P{percent}(nan,{})", round(snapshot.percentile(percent)))?;
                    }
                    writeln!(histograms)
                }
            }
        })?;
        out.write_str(&histograms)
    }

    /// Envoy's `/stats?format=json`.
    pub fn json(&self, selection: &Selection) -> Value {
        let (mut stats, mut histograms) = (Vec::new(), Vec::new());
        let _ = self.visit(selection, |entry, field, reading| {
            let name = format!("{}{}", entry.scope.prefix(), field.name);
            match reading {
                Reading::Number(value) => stats.push(json!({ "name": name, "value": value })),
                Reading::Codes(codes) => {
                    stats.extend(codes.iter().map(|(code, n)| json!({ "name": format!("{name}_{code}"), "value": n })));
                }
                Reading::Histogram(None) => {}
                Reading::Histogram(Some(snapshot)) => histograms.push(json_histogram(&name, &snapshot)),
            }
            Ok(())
        });
        if !histograms.is_empty() {
            stats.push(json!({ "histograms": {
                "supported_quantiles": PERCENTILES,
                "computed_quantiles": histograms,
            }}));
        }
        json!({ "stats": stats })
    }

    fn visit(
        &self,
        selection: &Selection,
        mut each: impl FnMut(&Entry, &Field, Reading) -> fmt::Result,
    ) -> fmt::Result {
        let mut name = String::new();
        for entry in self.entries() {
            for (index, field) in entry.source.fields().iter().enumerate() {
                if !selection.wants(field, entry.scope.prefix(), &mut name) {
                    continue;
                }
                let reading = entry.source.read(index);
                if !(selection.used_only && reading.is_unused()) {
                    each(&entry, field, reading)?;
                }
            }
        }
        Ok(())
    }
}

fn json_histogram(name: &str, snapshot: &Snapshot) -> Value {
    let values =
        PERCENTILES.map(|percent| json!({ "cumulative": round(snapshot.percentile(percent)), "interval": null }));
    json!({ "name": name, "values": values })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Reading {
    fn is_unused(&self) -> bool {
        match self {
            Reading::Number(value) => *value == 0,
            Reading::Histogram(snapshot) => snapshot.is_none(),
            Reading::Codes(codes) => codes.is_empty(),
        }
    }
}

// === Prometheus ===

/// One series of a family: a field of a block.
struct Series {
    entry: usize,
    index: usize,
    /// The digit of `_2xx`, which Envoy shows as a label.
    class: Option<char>,
}

impl Registry {
    /// The Prometheus text format with Envoy's names, each family with its `TYPE` line once.
    pub fn write_prometheus(&self, selection: &Selection, out: &mut impl Write) -> fmt::Result {
        let entries = self.entries();
        for ((name, kind), series) in families(&entries, selection) {
            let mut typed = false;
            for one in series {
                let entry = &entries[one.entry];
                let reading = entry.source.read(one.index);
                if (selection.used_only && reading.is_unused()) || matches!(&reading, Reading::Codes(c) if c.is_empty())
                {
                    continue;
                }
                if !std::mem::replace(&mut typed, true) {
                    writeln!(out, "# TYPE envoy_{name} {kind}")?;
                }
                write_series(out, &name, entry.scope.labels(), one.class, &reading)?;
            }
        }
        Ok(())
    }
}

/// Series by the name and kind of their family.
type Families = BTreeMap<(String, &'static str), Vec<Series>>;

/// The families in order, with their kind and series. Fields that only differ in a status class share a family.
fn families(entries: &[Entry], selection: &Selection) -> Families {
    // A family's name is made once for each kind of block, not once for each of 10,000 clusters.
    let mut names: BTreeMap<(&str, usize), Vec<FamilyName>> = BTreeMap::new();
    let mut families = Families::new();
    let mut text = String::new();
    for (at, entry) in entries.iter().enumerate() {
        let fields = entry.source.fields();
        let family = entry.scope.family();
        let names = names
            .entry((family, fields.as_ptr() as usize))
            .or_insert_with(|| fields.iter().map(|field| family_name(family, field.name)).collect());
        for (index, (field, (name, class))) in fields.iter().zip(names.iter()).enumerate() {
            if !selection.wants(field, entry.scope.prefix(), &mut text) {
                continue;
            }
            let kind = match field.kind {
                Kind::Counter | Kind::Codes => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let series = Series { entry: at, index, class: *class };
            match families.get_mut(&(name.clone(), kind)) {
                Some(list) => list.push(series),
                None => {
                    families.insert((name.clone(), kind), vec![series]);
                }
            }
        }
    }
    families
}

/// A family's name, and the status class its field stands for.
type FamilyName = (String, Option<char>);

/// `upstream_rq_2xx` becomes the family `upstream_rq_xx` with the class `2`.
fn family_name(family: &str, field: &str) -> FamilyName {
    let class = field.strip_suffix("xx").and_then(|rest| rest.chars().last()).filter(char::is_ascii_digit);
    let field = match class {
        Some(_) => format!("{}xx", &field[..field.len() - 3]),
        None => field.to_owned(),
    };
    let joint = if family.is_empty() { "" } else { "_" };
    (format!("{family}{joint}{}", metric_name(&field)), class)
}

fn write_series(out: &mut impl Write, name: &str, labels: &str, class: Option<char>, reading: &Reading) -> fmt::Result {
    let comma = if labels.is_empty() { "" } else { "," };
    match (reading, class) {
        (Reading::Number(value), Some(class)) => {
            writeln!(out, "envoy_{name}{{envoy_response_code_class=\"{class}\"{comma}{labels}}} {value}")
        }
        (Reading::Number(value), None) => writeln!(out, "envoy_{name}{{{labels}}} {value}"),
        (Reading::Codes(codes), _) => codes.iter().try_for_each(|(code, count)| {
            writeln!(out, "envoy_{name}{{envoy_response_code=\"{code}\"{comma}{labels}}} {count}")
        }),
        (Reading::Histogram(snapshot), _) => {
            let (count, sum) = snapshot.as_ref().map_or((0, 0), |s| (s.count, s.sum));
            for bound in ENVOY_BOUNDS {
                let below = snapshot.as_ref().map_or(0, |s| s.at_most(bound));
                writeln!(out, "envoy_{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {below}")?;
            }
            writeln!(out, "envoy_{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}")?;
            writeln!(out, "envoy_{name}_sum{{{labels}}} {sum}")?;
            writeln!(out, "envoy_{name}_count{{{labels}}} {count}")
        }
    }
}
