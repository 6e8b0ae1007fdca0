//! Commands that need no control plane: check, adapt, explain, version, completion.
//!
//! The check is the control plane's own: model, translation, and the proxy's decoder.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use cp_model::{Checked, Code, Kind, Problem};
use cp_translate::{Audience, Resource};
use proto::json::Secrets;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::files::{self, Files};
use crate::flags::{Adapt, AdaptTo, Check, Flags, Output};
use crate::out::{Out, Paint};

/// A configuration that the control plane would accept, and what it becomes.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) checked: Checked,
    pub(crate) resources: Vec<Resource>,
}

/// All that the control plane checks before it commits, except what only it knows (node groups, earlier revisions).
pub(crate) fn compile(files: &Files) -> Result<Compiled, Vec<Problem>> {
    let checked = cp_model::check_files(&files.sources, files.attachments.clone())?;
    let refused = |place: &cp_model::Place, kind: Kind, object: &str, message: String| Problem {
        place: place.clone(),
        field: format!("{}.{object}", kind.section()),
        code: Code::Refused,
        message,
        hint: None,
    };
    let resources = cp_translate::translate(&checked.model)
        .map_err(|e| vec![refused(&e.place, e.kind, &e.object, e.to_string())])?;
    let mut problems = Vec::new();
    for resource in resources.iter().filter(|r| r.audience != Audience::Grpc) {
        let Err(invalid) = shared_config::resource::decode_resource(&resource.any) else { continue };
        let message = resource.any.type_name().rsplit('.').next().unwrap_or_default();
        problems.extend(invalid.0.iter().map(|problem| {
            let text = format!("{message} `{}`: {problem}", resource.name);
            refused(&resource.place, resource.kind, &resource.object, text)
        }));
    }
    if problems.is_empty() { Ok(Compiled { checked, resources }) } else { Err(problems) }
}

pub(crate) fn check(given: &Check, out: &Out) -> Result<u8, Failure> {
    let files = files::read(&given.files)?;
    let (errors, warnings, model) = match compile(&files) {
        Ok(compiled) => (Vec::new(), compiled.checked.warnings, Some(compiled.checked.model)),
        Err(problems) => (problems, Vec::new(), None),
    };
    if matches!(out.output, Output::Json | Output::Yaml) {
        let list = |problems: &[Problem]| problems.iter().map(problem_json).collect::<Vec<_>>();
        out.machine(&json!({ "errors": list(&errors), "warnings": list(&warnings) }));
    } else {
        errors.iter().for_each(|p| out.problem(p, Paint::Bad));
        out.warnings(&warnings);
    }
    if !errors.is_empty() {
        out.note(&counted(errors.len(), "error", &warnings));
        return Ok(1);
    }
    if given.strict && !warnings.is_empty() {
        out.note(&format!("{} and --strict", counted(0, "error", &warnings)));
        return Ok(1);
    }
    if let Some(m) = model {
        let parts = [
            (m.listeners.len(), "listener"),
            (m.routes.len(), "route"),
            (m.apis.len(), "api"),
            (m.policies.len(), "policy"),
            (m.clusters.len(), "cluster"),
            (m.envoy.len(), "raw resource"),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(n, _)| *n > 0).map(|(n, w)| many(*n, w).replace("policys", "policies")).collect();
        let ok = out.paint_note("OK:", Paint::Good);
        out.note(&match parts.is_empty() {
            true => format!("{ok} an empty configuration"),
            false => format!("{ok} {}", parts.join(", ")),
        });
    }
    Ok(0)
}

fn counted(errors: usize, word: &str, warnings: &[Problem]) -> String {
    match warnings.len() {
        0 => many(errors, word),
        n if errors == 0 => many(n, "warning"),
        n => format!("{}, {}", many(errors, word), many(n, "warning")),
    }
}

/// `1 route`, `2 routes`.
pub(crate) fn many(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

fn problem_json(p: &Problem) -> Value {
    json!({
        "file": p.place.file, "line": p.place.line, "column": p.place.column, "field": p.field,
        "code": p.code.number(), "message": p.message, "hint": p.hint,
    })
}

pub(crate) fn adapt(given: &Adapt, out: &Out) -> Result<u8, Failure> {
    let files = files::read(&given.files)?;
    let compiled = compile(&files).map_err(Failure::invalid)?;
    out.warnings(&compiled.checked.warnings);
    let secrets = if given.show_secrets { Secrets::Shown } else { Secrets::Redacted };
    let mut resources = Vec::new();
    for resource in compiled.resources.iter().filter(|r| r.audience != Audience::Grpc) {
        resources.push(proto::json::to_value(&resource.any, secrets).map_err(|e| Failure::refused(e.to_string()))?);
    }
    let document = json!({ "resources": resources });
    match given.to {
        AdaptTo::EnvoyYaml => out.yaml(&document),
        AdaptTo::Json => out.json(&document),
    }
    Ok(0)
}

pub(crate) fn explain(code: &str, out: &Out) -> Result<u8, Failure> {
    match Code::ALL.into_iter().find(|c| c.number().eq_ignore_ascii_case(code)) {
        Some(code) => {
            out.data(&format!("{code}: {}", code.explanation()));
            Ok(0)
        }
        None => {
            let codes: Vec<&str> = Code::ALL.iter().map(|c| c.number()).collect();
            Err(Failure::usage(format!("there is no code `{code}`; codes: {}", codes.join(", "))))
        }
    }
}

pub(crate) fn version(out: &Out) -> Result<u8, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if !out.machine(&json!({ "version": version })) {
        out.data(&format!("weir {version}"));
    }
    Ok(0)
}

pub(crate) fn completion(shell: Shell, out: &Out) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Flags::command(), "weir", &mut script);
    out.data(&String::from_utf8_lossy(&script));
    Ok(0)
}

/// Files that must be right, for commands that go on with them.
pub(crate) fn compiled(paths: &[PathBuf]) -> Result<(Files, Compiled), Failure> {
    let files = files::read(paths)?;
    let compiled = compile(&files).map_err(Failure::invalid)?;
    Ok((files, compiled))
}
