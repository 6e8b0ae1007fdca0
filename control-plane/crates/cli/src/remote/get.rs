//! `weir get`: objects, nodes and revisions, once or at every change.

use proto::weir::management::v1 as pb;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{Get, Global, Output};
use crate::out::Out;
use crate::remote::kind::{self, Subject};
use crate::remote::{endpoint, history, status};

pub(crate) async fn get(given: &Get, global: &Global, out: &Out) -> Result<u8, Failure> {
    let subject = kind::subject(&given.kind)?;
    if given.revision != 0 && !matches!(subject, Subject::Objects(_) | Subject::All) {
        return Err(Failure::usage("--revision is for objects of the configuration"));
    }
    if given.revision != 0 && given.watch {
        return Err(Failure::usage("an old revision never changes: --watch and --revision contradict each other"));
    }
    if subject == Subject::All && given.name.is_some() {
        return Err(Failure::usage("`all` takes no name"));
    }
    if subject == Subject::Endpoints && given.watch {
        return Err(Failure::usage("endpoints cannot be watched: nodes report them every few seconds"));
    }
    let mut client = Client::connect(global).await?;
    match subject {
        Subject::Endpoints => endpoint::get(given.name.as_deref(), &mut client, out).await,
        Subject::Nodes => nodes(given, &mut client, out).await,
        Subject::Revisions => revisions(given, &mut client, out).await,
        Subject::All => objects(given, None, &mut client, out).await,
        Subject::Objects(kind) => objects(given, Some(kind), &mut client, out).await,
    }
}

async fn objects(given: &Get, kind: Option<cp_model::Kind>, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    let mut watch = None;
    if given.watch {
        let stream = client.config.watch_revisions(pb::WatchRevisionsRequest { after: 0 }).await;
        watch = Some(stream.map_err(|s| client.failure(&s))?.into_inner());
    }
    let Some(stream) = &mut watch else {
        show(&fetch(given, kind, client).await?, kind, given.name.is_some(), out);
        return Ok(0);
    };
    let mut shown = None;
    // Without any revision the stream says nothing, and the empty configuration is what there is.
    let mut next = Some(());
    while next.is_some() {
        let objects = fetch(given, kind, client).await?;
        if shown.as_ref() != Some(&objects) {
            show(&objects, kind, given.name.is_some(), out);
            shown = Some(objects);
        }
        next = stream.message().await.map_err(|s| client.failure(&s))?.map(drop);
    }
    Err(crate::failure::unreachable_at(&client.server, "it ended the stream"))
}

/// All of them, page by page; or the one that is named.
pub(crate) async fn fetch(
    given: &Get,
    kind: Option<cp_model::Kind>,
    client: &mut Client,
) -> Result<Vec<pb::Object>, Failure> {
    let wire = kind.map_or(pb::Kind::Unspecified, kind::to_wire);
    if let Some(name) = &given.name {
        let request = pb::GetRequest { kind: wire.into(), name: name.clone(), revision: given.revision };
        let answer = client.config.get(client.request(request)).await.map_err(|s| client.failure(&s))?;
        return Ok(answer.into_inner().object.into_iter().collect());
    }
    list(wire, given.revision, client).await
}

pub(crate) async fn list(kind: pb::Kind, revision: u64, client: &mut Client) -> Result<Vec<pb::Object>, Failure> {
    let mut request = pb::ListRequest { kind: kind.into(), revision, page_size: 10_000, page_token: String::new() };
    let mut objects = Vec::new();
    loop {
        let answer = client.config.list(client.request(request.clone())).await;
        let answer = answer.map_err(|s| client.failure(&s))?.into_inner();
        objects.extend(answer.objects);
        if answer.next_page_token.is_empty() {
            return Ok(objects);
        }
        request.page_token = answer.next_page_token;
    }
}

fn show(objects: &[pb::Object], kind: Option<cp_model::Kind>, one: bool, out: &Out) {
    match out.output {
        Output::Json => match objects {
            [object] if one => out.json(&as_json(object)),
            _ => out.json(&objects.iter().map(as_json).collect()),
        },
        Output::Yaml => out.yaml(&as_document(objects)),
        Output::Name => objects.iter().for_each(|o| out.data(&kind::name(o.kind, &o.name))),
        _ if objects.is_empty() => {
            out.note(&format!("no {}", kind.map_or("objects", cp_model::Kind::section)));
        }
        wide => {
            let mut head = vec!["NAME", "VALUE"];
            if kind.is_none() {
                head[0] = "OBJECT";
            }
            if wide == Output::Wide {
                head.push("WRITTEN AT");
            }
            let row = |o: &pb::Object| {
                let name = if kind.is_none() { kind::name(o.kind, &o.name) } else { o.name.clone() };
                let width = if wide == Output::Wide { 200 } else { 80 };
                let mut row = vec![name, cut(&o.json, width)];
                if wide == Output::Wide {
                    row.push(format!("{}:{}:{}", o.file, o.line, o.column));
                }
                row
            };
            out.table(&head, objects.iter().map(row).collect());
        }
    }
}

fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

pub(crate) fn value(object: &pb::Object) -> Value {
    serde_json::from_str(&object.json).unwrap_or(Value::Null)
}

pub(crate) fn as_json(object: &pb::Object) -> Value {
    json!({
        "kind": kind::of_wire(object.kind).map_or("object", cp_model::Kind::word),
        "name": object.name,
        "value": value(object),
        "file": object.file,
        "line": object.line,
        "column": object.column,
    })
}

/// A document of the short language, which can be applied again.
fn as_document(objects: &[pb::Object]) -> Value {
    let mut document = Map::new();
    for kind in cp_model::Kind::ALL {
        let objects: Vec<&pb::Object> = objects.iter().filter(|o| kind::of_wire(o.kind) == Some(kind)).collect();
        if objects.is_empty() {
            continue;
        }
        let section = match kind {
            cp_model::Kind::Route | cp_model::Kind::Envoy => objects.iter().map(|o| value(o)).collect(),
            _ => Value::Object(objects.iter().map(|o| (o.name.clone(), value(o))).collect()),
        };
        document.insert(kind.section().to_owned(), section);
    }
    Value::Object(document)
}

async fn nodes(given: &Get, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    if given.watch {
        let stream = client.fleet.watch_nodes(pb::WatchNodesRequest::default()).await;
        let mut stream = stream.map_err(|s| client.failure(&s))?.into_inner();
        while let Some(change) = stream.message().await.map_err(|s| client.failure(&s))? {
            let wanted = change.node.filter(|n| given.name.as_ref().is_none_or(|name| *name == n.id));
            status::show(wanted.as_slice(), out)?;
        }
        return Err(crate::failure::unreachable_at(&client.server, "it ended the stream"));
    }
    let nodes = match &given.name {
        Some(id) => {
            let request = client.request(pb::GetNodeRequest { id: id.clone() });
            let answer = client.fleet.get_node(request).await.map_err(|s| client.failure(&s))?;
            answer.into_inner().node.into_iter().collect()
        }
        None => {
            let request = client.request(pb::ListNodesRequest::default());
            client.fleet.list_nodes(request).await.map_err(|s| client.failure(&s))?.into_inner().nodes
        }
    };
    status::show(&nodes, out)?;
    if nodes.is_empty() {
        out.note("no node has connected yet");
    }
    Ok(0)
}

async fn revisions(given: &Get, client: &mut Client, out: &Out) -> Result<u8, Failure> {
    if given.watch {
        let stream = client.config.watch_revisions(pb::WatchRevisionsRequest { after: 0 }).await;
        let mut stream = stream.map_err(|s| client.failure(&s))?.into_inner();
        while let Some(change) = stream.message().await.map_err(|s| client.failure(&s))? {
            history::show(change.revision.as_slice(), out)?;
        }
        return Err(crate::failure::unreachable_at(&client.server, "it ended the stream"));
    }
    let Some(name) = &given.name else { return history::history(50, client, out).await };
    let revision = revision_number(name)?;
    let answer = client.config.get_revision(client.request(pb::GetRevisionRequest { id: revision })).await;
    history::show(answer.map_err(|s| client.failure(&s))?.into_inner().revision.as_slice(), out)?;
    Ok(0)
}

pub(crate) fn revision_number(name: &str) -> Result<u64, Failure> {
    name.parse().map_err(|_| Failure::usage(format!("`{name}` is not the number of a revision")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_as_yaml_are_a_document_that_can_be_applied() {
        let object = |kind: pb::Kind, name: &str, json: &str| pb::Object {
            kind: kind.into(),
            name: name.into(),
            json: json.into(),
            ..Default::default()
        };
        let objects = [
            object(pb::Kind::Cluster, "app", "[\"127.0.0.1:1\"]"),
            object(pb::Kind::Route, "routes[0]", "{\"to\":\"app\"}"),
            object(pb::Kind::Listener, "web", "\":8080\""),
        ];
        let text = proto::json::value_to_yaml(&as_document(&objects));
        let source = cp_model::Source { file: "x".into(), text };
        let checked = cp_model::check_files(&[source], Default::default()).expect("it is a configuration");
        assert_eq!(checked.model.routes.len(), 1);
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(cut("äöü", 2), "äö...");
        assert_eq!(cut("äöü", 3), "äöü");
    }
}
