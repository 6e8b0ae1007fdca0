//! What each path answers.
//!
//! Paths that change something are POST only, so that a link or an image cannot change anything.

use http::StatusCode;
use regex::Regex;
use serde_json::{Value, json};
use shared_telemetry::Selection;
use shared_telemetry::stats::Kind;

use crate::config_dump::{self, Wanted};
use crate::query::Query;
use crate::server::Admin;
use crate::state::{Drain, Ready};
use crate::views;

/// An answer before it is HTTP.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// A path, whether it changes something, and what it does.
pub(crate) struct Path {
    pub(crate) path: &'static str,
    pub(crate) changes: bool,
    pub(crate) help: &'static str,
    pub(crate) answer: fn(&Admin, &Query) -> Answer,
}

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

const fn read(path: &'static str, help: &'static str, answer: fn(&Admin, &Query) -> Answer) -> Path {
    Path { path, changes: false, help, answer }
}

const fn change(path: &'static str, help: &'static str, answer: fn(&Admin, &Query) -> Answer) -> Path {
    Path { path, changes: true, help, answer }
}

/// Every path, in the order of `/help`.
pub(crate) static PATHS: &[Path] = &[
    read("/", "Admin home page", |_, _| home()),
    read("/certs", "print certs on machine", |admin, _| Answer::json(&admin.state.certs())),
    read("/clusters", "upstream cluster status (?format=json)", clusters),
    read("/config_dump", "dump current configs (?resource= &mask= &name_regex= &include_eds)", config_dump),
    change("/drain_listeners", "drain listeners (?graceful &skip_exit &inboundonly)", drain),
    change("/healthcheck/fail", "cause the server to fail health checks", |admin, _| {
        admin.state.fail_health_check(true);
        Answer::ok()
    }),
    change("/healthcheck/ok", "cause the server to pass health checks", |admin, _| {
        admin.state.fail_health_check(false);
        Answer::ok()
    }),
    read("/help", "print out list of admin commands", |_, _| Answer::text(StatusCode::OK, help())),
    read("/init_dump", "dump what waits before it can serve", |admin, _| init_dump(admin)),
    read("/listeners", "print listener info (?format=json)", listeners),
    read("/livez", "whether the process runs", |_, _| Answer::text(StatusCode::OK, "ok\n".into())),
    change("/logging", "query or change logging levels (?level= &paths=NAME:LEVEL,...)", logging),
    read("/memory", "print current memory usage", |_, _| Answer::json(&memory())),
    read("/metrics", "print statistics in the Prometheus format (?usedonly &filter=)", prometheus),
    change("/quitquitquit", "exit the server", |admin, _| {
        admin.state.quit();
        Answer::ok()
    }),
    read("/ready", "print server state, return 200 if LIVE, otherwise return 503", |admin, _| ready(admin)),
    read("/readyz", "whether the proxy takes traffic (?verbose)", readyz),
    change("/reopen_logs", "reopen access logs", reopen_logs),
    change("/reset_counters", "reset all counters to zero", |admin, _| {
        admin.registry.reset_counters();
        Answer::ok()
    }),
    read("/runtime", "print runtime values", |admin, _| Answer::json(&admin.state.runtime())),
    read("/server_info", "print server version and status information", |admin, _| {
        Answer::json(&admin.state.server_info())
    }),
    read("/stats", "print server stats (?usedonly &filter= &format=text|json|prometheus &type=)", stats),
    read("/stats/prometheus", "print server stats in the Prometheus format", prometheus),
];

// === impl Answer ===

impl Answer {
    pub(crate) fn text(status: StatusCode, body: String) -> Self {
        Self { status, content_type: TEXT, body }
    }

    fn ok() -> Self {
        Self::text(StatusCode::OK, "OK\n".into())
    }

    fn bad(reason: impl std::fmt::Display) -> Self {
        Self::text(StatusCode::BAD_REQUEST, format!("{reason}\n"))
    }

    fn json(value: &Value) -> Self {
        // Plain JSON values always serialise.
        let body = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
        Self { status: StatusCode::OK, content_type: "application/json", body }
    }
}

/// The list of paths.
pub(crate) fn help() -> String {
    let line = |path: &Path| format!("  {}{}: {}\n", path.path, if path.changes { " (POST)" } else { "" }, path.help);
    let lines: String = PATHS.iter().map(line).collect();
    format!("admin commands are:\n{lines}")
}

fn home() -> Answer {
    let row = |path: &Path| match path.changes {
        false => format!("<li><a href=\"{0}\">{0}</a> {1}</li>", path.path, path.help),
        true => format!(
            "<li><form method=\"post\" action=\"{0}\"><button>{0}</button> {1}</form></li>",
            path.path, path.help
        ),
    };
    let rows: String = PATHS.iter().map(row).collect();
    let body = format!(
        "<!doctype html><meta charset=utf-8><title>weir-proxy admin</title><h1>weir-proxy admin</h1><ul>{rows}</ul>\n"
    );
    Answer { status: StatusCode::OK, content_type: "text/html; charset=utf-8", body }
}

fn ready(admin: &Admin) -> Answer {
    let (status, word) = match admin.state.ready() {
        Ready::Live => (StatusCode::OK, "LIVE\n"),
        Ready::Draining => (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"),
        Ready::Initializing => (StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n"),
    };
    Answer::text(status, word.into())
}

fn readyz(admin: &Admin, query: &Query) -> Answer {
    let (checks, live) = (admin.state.checks(), admin.state.ready() == Ready::Live);
    let ok = live && checks.iter().all(|check| check.ok);
    let mut body = String::new();
    if query.has("verbose") {
        for check in &checks {
            body += &if check.ok { format!("[+]{} ok\n", check.name) } else { format!("[-]{} failed\n", check.name) };
        }
    }
    body += if ok { "ok\n" } else { "not ready\n" };
    Answer::text(if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

fn clusters(admin: &Admin, query: &Query) -> Answer {
    let clusters = admin.state.clusters();
    match query.value("format") {
        Some("json") => Answer::json(&views::clusters_json(&clusters)),
        _ => Answer::text(StatusCode::OK, views::clusters_text(&clusters)),
    }
}

fn listeners(admin: &Admin, query: &Query) -> Answer {
    let listeners = admin.state.listeners();
    match query.value("format") {
        Some("json") => Answer::json(&views::listeners_json(&listeners)),
        _ => Answer::text(StatusCode::OK, views::listeners_text(&listeners)),
    }
}

fn config_dump(admin: &Admin, query: &Query) -> Answer {
    let name_regex = match query.value("name_regex").map(Regex::new).transpose() {
        Ok(regex) => regex,
        Err(error) => return Answer::bad(format_args!("name_regex: {error}")),
    };
    let wanted = Wanted { resource: query.value("resource"), mask: query.value("mask"), name_regex };
    match config_dump::dump(admin.state.config_dump(query.has("include_eds")), &wanted) {
        Some(dump) => Answer::json(&dump),
        None => Answer::text(
            StatusCode::NOT_FOUND,
            format!("{} not found in config dump\n", wanted.resource.unwrap_or_default()),
        ),
    }
}

fn init_dump(admin: &Admin) -> Answer {
    let unready = admin.state.unready();
    let dumps: Vec<Value> =
        unready.iter().map(|unready| json!({ "name": unready.name, "target_names": unready.targets })).collect();
    Answer::json(&json!({ "unready_targets_dumps": dumps }))
}

fn drain(admin: &Admin, query: &Query) -> Answer {
    let (graceful, skip_exit) = (query.has("graceful"), query.has("skip_exit"));
    if skip_exit && !graceful {
        return Answer::bad("skip_exit requires graceful");
    }
    admin.state.drain_listeners(Drain { graceful, skip_exit, inbound_only: query.has("inboundonly") });
    Answer::ok()
}

fn reopen_logs(admin: &Admin, _: &Query) -> Answer {
    match admin.state.reopen_logs() {
        0 => Answer::ok(),
        failed => {
            Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{failed} access logs could not be reopened\n"))
        }
    }
}

/// `?level=debug` sets all levels, `?paths=a:debug,b:info` or `?a=debug` some of them.
fn logging(admin: &Admin, query: &Query) -> Answer {
    let Some(logs) = &admin.logs else {
        return Answer::text(StatusCode::SERVICE_UNAVAILABLE, "another program set logging up\n".to_owned());
    };
    let mut levels = logs.levels();
    for (name, value) in query.iter() {
        let changed = match name {
            "level" => value.parse().map(|level| {
                levels.default = level;
                levels.targets.clear();
            }),
            "paths" => levels.add_targets(value),
            name => levels.add_targets(&format!("{name}:{value}")),
        };
        if let Err(error) = changed {
            return Answer::bad(error);
        }
    }
    match logs.set(|now| *now = levels) {
        Ok(levels) => Answer::text(StatusCode::OK, levels.to_string()),
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// What the kernel says; there is no figure of the allocator.
fn memory() -> Value {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = pages.split(' ').map(|field| field.parse::<u64>().unwrap_or(0));
    let (size, resident) = (pages.next().unwrap_or(0) * 4096, pages.next().unwrap_or(0) * 4096);
    json!({ "allocated": resident.to_string(), "total_physical_bytes": resident.to_string(), "heap_size": size.to_string() })
}

// === Statistics ===

fn selection(query: &Query) -> Result<Selection, Answer> {
    let filter = query.value("filter").filter(|text| !text.is_empty()).map(Regex::new).transpose();
    let filter = filter.map_err(|error| Answer::bad(format_args!("filter: {error}")))?;
    let kind = match query.value("type") {
        None | Some("All") => None,
        Some("Counters") => Some(Kind::Counter),
        Some("Gauges") => Some(Kind::Gauge),
        Some("Histograms") => Some(Kind::Histogram),
        Some(_) => return Err(Answer::bad("type must be All, Counters, Gauges or Histograms")),
    };
    Ok(Selection { used_only: query.has("usedonly"), filter, kind })
}

fn stats(admin: &Admin, query: &Query) -> Answer {
    let selection = match selection(query) {
        Ok(selection) => selection,
        Err(answer) => return answer,
    };
    match query.value("format") {
        None | Some("text") => {
            let mut body = String::new();
            let _ = admin.registry.write_text(&selection, &mut body);
            Answer::text(StatusCode::OK, body)
        }
        Some("json") => Answer::json(&admin.registry.json(&selection)),
        Some("prometheus") => prometheus(admin, query),
        Some(_) => Answer::bad("format must be text, json or prometheus"),
    }
}

fn prometheus(admin: &Admin, query: &Query) -> Answer {
    match selection(query) {
        Ok(selection) => {
            let mut body = String::new();
            let _ = admin.registry.write_prometheus(&selection, &mut body);
            Answer { status: StatusCode::OK, content_type: PROMETHEUS, body }
        }
        Err(answer) => answer,
    }
}
