//! history, rollback, and the revisions as `get` shows them.

use proto::weir::management::v1 as pb;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::Output;
use crate::out::{Out, message};
use crate::remote::apply::{report, short};
use crate::remote::time::date;

pub(crate) async fn history(limit: u32, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let request = client.request(pb::ListRevisionsRequest { page_size: limit, page_token: String::new() });
    let answer = client.config.list_revisions(request).await.map_err(|s| client.failure(&s))?.into_inner();
    show(&answer.revisions, out)?;
    match answer.revisions.is_empty() {
        true => out.note("no revision yet"),
        false if !answer.next_page_token.is_empty() => out.note("there are older ones; see --limit"),
        false => (),
    }
    Ok(0)
}

pub(crate) fn show(revisions: &[pb::Revision], out: &Out) -> Result<(), Failure> {
    match out.output {
        Output::Json | Output::Yaml => {
            let revisions = revisions.iter().map(message).collect::<Result<Vec<_>, _>>()?;
            out.machine(&Value::Array(revisions));
        }
        Output::Name => revisions.iter().for_each(|r| out.data(&format!("revision/{}", r.id))),
        _ if revisions.is_empty() => (),
        wide => {
            let mut head = vec!["REVISION", "TIME", "AUTHOR", "CHANGES", "MESSAGE"];
            if wide == Output::Wide {
                head.extend(["ETAG", "CONTENT"]);
            }
            let row = |r: &pb::Revision| {
                let text = match r.rollback_of {
                    0 => r.message.clone(),
                    of => format!("rollback to {of}{}{}", if r.message.is_empty() { "" } else { ": " }, r.message),
                };
                let first = text.lines().next().unwrap_or_default().to_owned();
                let mut row =
                    vec![r.id.to_string(), date(r.create_time.as_ref()), r.author.clone(), short(&r.changes), first];
                if wide == Output::Wide {
                    row.extend([r.etag.clone(), r.content_hash.clone()]);
                }
                row
            };
            out.table(&head, revisions.iter().map(row).collect());
        }
    }
    Ok(())
}

pub(crate) async fn rollback(
    revision: u64,
    why: &str,
    dry_run: bool,
    client: &mut Client,
    out: &Out,
) -> Result<u8, Failure> {
    let request =
        pb::RollbackRequest { id: revision, etag: String::new(), message: why.to_owned(), validate_only: dry_run };
    let answer = client.config.rollback(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
    report(&message(&answer)?, answer.revision.as_ref(), &answer.changes, dry_run, out);
    Ok(0)
}
