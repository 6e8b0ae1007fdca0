//! `weir describe`: everything about one object, node or revision.

use proto::weir::management::v1 as pb;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::Global;
use crate::out::{Out, Paint, message};
use crate::remote::kind::{self, Subject};
use crate::remote::status::{short_type, word};
use crate::remote::time::{date, since};
use crate::remote::{apply, endpoint, get};

pub(crate) async fn describe(word: &str, name: &str, global: &Global, out: &Out) -> Result<u8, Failure> {
    let subject = kind::subject(word)?;
    let mut client = Client::connect(global).await?;
    match subject {
        Subject::All => Err(Failure::usage("`all` takes no name")),
        Subject::Endpoints => Err(Failure::usage("endpoints belong to a cluster: `weir describe cluster NAME`")),
        Subject::Objects(kind) => object(kind, name, &mut client, out).await,
        Subject::Nodes => node(name, &mut client, out).await,
        Subject::Revisions => revision(get::revision_number(name)?, &mut client, out).await,
    }
}

fn line(out: &Out, name: &str, value: &str) {
    if !value.is_empty() {
        out.data(&format!("{} {value}", out.paint(&format!("{name:<12}"), Paint::Strong)));
    }
}

fn block(out: &Out, name: &str, text: &str) {
    out.data(&out.paint(name, Paint::Strong));
    text.lines().for_each(|l| out.data(&format!("  {l}")));
}

async fn object(kind: cp_model::Kind, name: &str, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let request = pb::GetRequest { kind: kind::to_wire(kind).into(), name: name.to_owned(), revision: 0 };
    let answer = client.config.get(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
    let object = answer.object.unwrap_or_default();
    if out.machine(&get::as_json(&object)) {
        return Ok(0);
    }
    line(out, "Kind", kind.word());
    line(out, "Name", &object.name);
    if !object.file.is_empty() {
        line(out, "Written at", &format!("{}:{}:{}", object.file, object.line, object.column));
    }
    if let Some(revision) = &answer.revision {
        line(out, "Revision", &format!("{} of {}", revision.id, date(revision.create_time.as_ref())));
    }
    line(out, "Tag", &object.tag);
    block(out, "Value", &object.yaml);
    if kind == cp_model::Kind::Cluster {
        endpoint::table(&endpoint::of(name, client).await?, out);
    }
    Ok(0)
}

async fn node(id: &str, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let request = client.request(pb::GetNodeRequest { id: id.to_owned() });
    let answer = client.fleet.get_node(request).await.map_err(|s| client.failure(&s))?.into_inner();
    let node = answer.node.unwrap_or_default();
    if out.machine(&message(&node)?) {
        return Ok(0);
    }
    line(out, "Node", &node.id);
    line(out, "Cluster", &node.cluster);
    line(out, "Group", &node.group);
    line(out, "Program", &node.user_agent);
    line(
        out,
        "Connected",
        &match node.connected {
            true => format!("for {}", since(node.connect_time.as_ref())),
            false => format!("no, left {} ago", since(node.disconnect_time.as_ref())),
        },
    );
    line(out, "Revision", &node.revision.to_string());
    for (key, value) in &node.labels {
        line(out, "Label", &format!("{key}={value}"));
    }
    let row = |t: &pb::TypeStatus| {
        vec![
            short_type(&t.type_url),
            word(t.status()).to_owned(),
            t.resources.to_string(),
            t.revision.to_string(),
            t.version_sent.clone(),
            t.version_acked.clone(),
            since(t.last_ack_time.as_ref()),
        ]
    };
    if !node.types.is_empty() {
        let head = ["TYPE", "STATUS", "RESOURCES", "REVISION", "SENT", "ACKNOWLEDGED", "AGE"];
        out.table(&head, node.types.iter().map(row).collect());
    }
    for refused in node.types.iter().filter(|t| !t.error.is_empty()) {
        block(out, &format!("{} refused", short_type(&refused.type_url)), &refused.error);
    }
    Ok(0)
}

async fn revision(id: u64, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let answer = client.config.get_revision(client.request(pb::GetRevisionRequest { id })).await;
    let revision = answer.map_err(|s| client.failure(&s))?.into_inner().revision.unwrap_or_default();
    if out.machine(&message(&revision)?) {
        return Ok(0);
    }
    line(out, "Revision", &revision.id.to_string());
    line(out, "Etag", &revision.etag);
    line(out, "Author", &revision.author);
    line(out, "Time", &date(revision.create_time.as_ref()));
    line(out, "Message", &revision.message);
    if revision.rollback_of != 0 {
        line(out, "Content of", &revision.rollback_of.to_string());
    }
    line(out, "Changes", &apply::short(&revision.changes));
    if revision.id > 0 {
        let request =
            pb::DiffRequest { change: None, from_revision: revision.id - 1, to_revision: revision.id, envoy: false };
        // Revision 0, the empty one, cannot be compared with: 0 means the newest there.
        if request.from_revision > 0 {
            let diff = client.config.diff(client.request(request)).await.map_err(|s| client.failure(&s))?.into_inner();
            for change in &diff.changes {
                block(out, &kind::name(change.kind, &change.name), &change.diff);
            }
        }
    }
    Ok(0)
}
