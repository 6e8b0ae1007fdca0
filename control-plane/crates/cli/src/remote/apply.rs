//! apply, diff, delete: what changes the configuration, or would.

use cp_model::Problem;
use proto::weir::management::v1 as pb;

use crate::client::Client;
use crate::failure::Failure;
use crate::files;
use crate::flags::{Apply, Delete, DiffArgs, Global, Output};
use crate::offline::many;
use crate::out::{Out, Paint, message};
use crate::remote::{converge, kind};

pub(crate) async fn apply(given: &Apply, global: &Global, out: &Out) -> Result<u8, Failure> {
    let files = files::read(&given.changed.files)?;
    let mut client = Client::connect(global).await?;
    let request = pb::ApplyRequest {
        change: Some(files.change(given.changed.prune, &given.changed.select_tag)),
        validate_only: given.dry_run,
        etag: given.etag.clone(),
        message: given.message.clone(),
    };
    let applied = client.config.apply(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
    out.warnings(&warnings(&applied.warnings));
    report(&message(&applied)?, applied.revision.as_ref(), &applied.changes, given.dry_run, out);
    let (Some(bound), Some(revision), false) = (given.wait, &applied.revision, given.dry_run) else { return Ok(0) };
    let nodes = converge::wait(&mut client, revision.id, bound, |_| ()).await?;
    out.note(&match nodes {
        0 => "no node is connected".to_owned(),
        n => {
            format!("{} revision {}", if n == 1 { "1 node has".into() } else { format!("{n} nodes have") }, revision.id)
        }
    });
    Ok(0)
}

pub(crate) async fn diff(given: &DiffArgs, global: &Global, out: &Out) -> Result<u8, Failure> {
    let files = files::read(&given.changed.files)?;
    let mut client = Client::connect(global).await?;
    let change = Some(files.change(given.changed.prune, &given.changed.select_tag));
    let request = pb::DiffRequest { change, from_revision: 0, to_revision: 0, envoy: given.envoy };
    let answer = client.config.diff(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
    out.warnings(&warnings(&answer.warnings));
    match out.output {
        Output::Json | Output::Yaml => {
            out.machine(&message(&answer)?);
        }
        Output::Name => {
            answer.changes.iter().for_each(|c| out.data(&kind::name(c.kind, &c.name)));
        }
        _ => {
            for change in &answer.changes {
                out.data(&line(change, out));
                change.diff.lines().for_each(|l| out.data(&coloured(l, out)));
            }
        }
    }
    Ok(u8::from(!answer.changes.is_empty()))
}

pub(crate) async fn delete(given: &Delete, global: &Global, out: &Out) -> Result<u8, Failure> {
    let wanted = kind::to_wire(kind::object_kind(&given.kind)?);
    let mut client = Client::connect(global).await?;
    let objects = given.names.iter().map(|name| pb::ObjectName { kind: wanted.into(), name: name.clone() });
    let request = pb::DeleteRequest {
        objects: objects.collect(),
        validate_only: given.dry_run,
        etag: given.etag.clone(),
        message: given.message.clone(),
        allow_missing: given.allow_missing,
    };
    let answer = client.config.delete(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
    report(&message(&answer)?, answer.revision.as_ref(), &answer.changes, given.dry_run, out);
    Ok(0)
}

/// What became of a write.
pub(crate) fn report(
    answer: &serde_json::Value,
    revision: Option<&pb::Revision>,
    changes: &[pb::Change],
    dry_run: bool,
    out: &Out,
) {
    if out.machine(answer) {
        return;
    }
    changes.iter().for_each(|c| out.data(&line(c, out)));
    let id = revision.map_or(0, |r| r.id);
    let etag = revision.map(|r| format!(" (etag {})", r.etag)).unwrap_or_default();
    out.note(&match (changes.is_empty(), dry_run) {
        (true, _) => format!("nothing changes; the newest revision is {id}{etag}"),
        (false, true) => format!("{} would be made onto revision {id}", many(changes.len(), "change")),
        (false, false) => format!("revision {id}{etag}: {}", many(changes.len(), "change")),
    });
}

/// `+ cluster/app`.
fn line(change: &pb::Change, out: &Out) -> String {
    let (sign, paint) = match change.action() {
        pb::change::Action::Added => ("+", Paint::Good),
        pb::change::Action::Removed => ("-", Paint::Bad),
        _ => ("~", Paint::Caution),
    };
    out.paint(&format!("{sign} {}", kind::name(change.kind, &change.name)), paint)
}

fn coloured(line: &str, out: &Out) -> String {
    let paint = match line.as_bytes().first() {
        Some(b'+') => Paint::Good,
        Some(b'-') => Paint::Bad,
        Some(b'@') => Paint::Faint,
        _ => return format!("  {line}"),
    };
    format!("  {}", out.paint(line, paint))
}

pub(crate) fn warnings(warnings: &[pb::Warning]) -> Vec<Problem> {
    let problem = |w: &pb::Warning| Problem {
        place: cp_model::Place { file: w.file.clone(), line: w.line, column: w.column },
        field: w.field.clone(),
        code: cp_model::Code::Suspicious,
        message: w.message.clone(),
        hint: (!w.hint.is_empty()).then(|| w.hint.clone()),
    };
    warnings.iter().map(problem).collect()
}

/// A change in one word each, for `describe` and `history`.
pub(crate) fn short(changes: &[pb::Change]) -> String {
    let line = |c: &pb::Change| {
        let sign = match c.action() {
            pb::change::Action::Added => '+',
            pb::change::Action::Removed => '-',
            _ => '~',
        };
        format!("{sign}{}", kind::name(c.kind, &c.name))
    };
    match changes {
        [] => "-".to_owned(),
        [a, b, c, rest @ ..] if !rest.is_empty() => {
            format!("{} {} {} and {} more", line(a), line(b), line(c), rest.len())
        }
        few => few.iter().map(line).collect::<Vec<_>>().join(" "),
    }
}
