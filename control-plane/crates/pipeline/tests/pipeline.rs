//! Changes through the whole spine, on a real store and a real publisher.

use std::sync::Arc;
use std::time::Duration;

use cp_model::{Attachments, Kind, Source};
use cp_pipeline::apply::etag;
use cp_pipeline::{Action, Author, Change, Groups, Options, Pipeline, Refused, Selector};
use cp_store::Embedded;
use cp_xds::{Class, Publisher};
use shared_xds::ResourceKind;

const BASE: &str = "listeners:\n  web: \":8080\"\nroutes:\n  - to: app\nclusters:\n  app: [\"127.0.0.1:9000\"]\n";

struct Bench {
    pipeline: Arc<Pipeline>,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Embedded::open(&folder.path().join("weir.redb")).expect("opens");
    let edge = Selector { cluster: Some("edge".into()), ..Selector::default() };
    let pipeline = Arc::new(Pipeline::new(Arc::new(store), Groups(vec![("edge".into(), edge)])));
    Bench { pipeline, _folder: folder }
}

fn set(text: &str) -> Change {
    apply("f.yaml", text, false)
}

fn apply(file: &str, text: &str, prune: bool) -> Change {
    let sources = vec![Source { file: file.into(), text: text.into() }];
    Change::Apply { sources, resources: vec![], attachments: Attachments::new(), prune, tag: String::new() }
}

impl Bench {
    async fn try_do(&self, change: Change, options: Options) -> Result<cp_pipeline::Applied, Refused> {
        self.pipeline.apply(&Author("ann".into()), change, options).await
    }
    async fn ok(&self, change: Change) -> cp_pipeline::Applied {
        self.try_do(change, Options::default()).await.expect("is accepted")
    }
    async fn refused(&self, change: Change) -> Refused {
        self.try_do(change, Options::default()).await.expect_err("is refused")
    }
}

fn shown(applied: &cp_pipeline::Applied) -> Vec<String> {
    applied.changes.iter().map(|c| format!("{:?} {}/{}", c.action, c.kind, c.name)).collect()
}

#[tokio::test]
async fn a_change_becomes_a_revision_with_what_it_changed() {
    let bench = bench();
    let first = bench.ok(set(BASE)).await;
    assert_eq!(first.revision.as_ref().map(|r| r.id), Some(1));
    assert_eq!(shown(&first), ["Added listener/web", "Added cluster/app", "Added route/routes[0]"]);
    let second = bench.ok(apply("g.yaml", "clusters: { app: ['127.0.0.1:9001'] }", false)).await;
    assert_eq!(shown(&second), ["Changed cluster/app"]);
    assert!(second.changes[0].diff().contains("+- '127.0.0.1:9001'") || second.changes[0].diff().contains("9001"));
    let again = bench.ok(apply("g.yaml", "clusters: { app: ['127.0.0.1:9001'] }", false)).await;
    assert_eq!((again.revision.map(|r| r.id), again.changes.len()), (Some(2), 0), "the same again is no revision");
}

#[tokio::test]
async fn what_is_wrong_changes_nothing() {
    let bench = bench();
    bench.ok(set(BASE)).await;
    match bench.refused(apply("g.yaml", "routes: [{ to: nope }]\nx: 1", false)).await {
        Refused::Invalid(problems) => assert_eq!(problems.len(), 2, "{problems:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.pipeline.state(0).await.expect("reads").header.map(|h| h.id), Some(1));
}

#[tokio::test]
async fn what_the_proxys_decoder_refuses_is_refused_here_at_the_operators_line() {
    let bench = bench();
    let text = format!(
        "{BASE}envoy:\n  - '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n    name: raw\n    type: STATIC\n"
    );
    match bench.refused(set(&text)).await {
        Refused::Invalid(problems) => {
            assert_eq!(problems[0].code.number(), "W0201", "{problems:?}");
            assert_eq!(problems[0].place.line, 8);
            assert!(problems[0].message.contains("load_assignment"), "{problems:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_etag_guards_against_a_lost_update() {
    let bench = bench();
    let header = bench.ok(set(BASE)).await.revision.expect("written");
    let with = |etag: &str| Options { etag: Some(etag.into()), ..Options::default() };
    bench.try_do(apply("g", "clusters: { b: ['127.0.0.1:1'] }", false), with(&etag(&header))).await.expect("in time");
    match bench.try_do(apply("g", "clusters: { c: ['127.0.0.1:1'] }", false), with(&etag(&header))).await {
        Err(Refused::Stale { etag }) => assert!(etag.starts_with("2-"), "{etag}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn changes_without_etag_at_the_same_time_all_arrive() {
    let bench = Arc::new(bench());
    bench.ok(set(BASE)).await;
    let tasks: Vec<_> = (0..6)
        .map(|i| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                bench.ok(apply(&format!("{i}"), &format!("clusters: {{ c{i}: ['127.0.0.1:1'] }}"), false)).await
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("ran");
    }
    let state = bench.pipeline.state(0).await.expect("reads");
    assert_eq!((state.header.map(|h| h.id), state.draft.objects.len()), (Some(7), 9));
}

#[tokio::test]
async fn validate_only_writes_nothing() {
    let bench = bench();
    let options = Options { validate_only: true, ..Options::default() };
    let applied = bench.try_do(set(BASE), options).await.expect("is right");
    assert_eq!((applied.revision, applied.changes.len()), (None, 3));
}

#[tokio::test]
async fn a_referenced_object_is_not_deleted() {
    let bench = bench();
    bench.ok(set(BASE)).await;
    let gone = |names: &[(Kind, &str)]| Change::Delete {
        objects: names.iter().map(|(k, n)| (*k, (*n).to_owned())).collect(),
        allow_missing: false,
    };
    match bench.refused(gone(&[(Kind::Cluster, "app")])).await {
        Refused::Referenced(by) => assert_eq!(by, [(Kind::Route, "routes[0]".to_owned())]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(bench.refused(gone(&[(Kind::Cluster, "x")])).await, Refused::NoObject(Kind::Cluster, ..)));
    let done = bench.ok(gone(&[(Kind::Cluster, "app"), (Kind::Route, "routes[0]")])).await;
    assert!(done.changes.iter().all(|c| c.action == Action::Removed));
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_the_old_content() {
    let bench = bench();
    let first = bench.ok(set(BASE)).await.revision.expect("written");
    bench.ok(apply("g", "clusters: { app: ['127.0.0.1:9001'] }", false)).await;
    let back = bench.ok(Change::Rollback { id: 1 }).await.revision.expect("written");
    assert_eq!((back.id, back.rollback_of), (3, 1));
    assert_eq!(back.content_hash, first.content_hash);
    assert!(matches!(bench.refused(Change::Rollback { id: 9 }).await, Refused::NoRevision(9)));
}

#[tokio::test]
async fn what_is_committed_is_published_to_every_group_and_class() {
    let bench = bench();
    let more =
        "listeners: { inner: { address: ':8081', groups: edge } }\nclusters: { found: { srv: _http._tcp.a.test } }\n";
    let text = format!("{BASE}---\n{more}");
    bench.ok(set(&text)).await;
    let publisher = Publisher::default();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let following = tokio::spawn(cp_pipeline::follow(Arc::clone(&bench.pipeline), publisher.clone(), async move {
        let _ = stopped.await;
    }));
    let count =
        |group: &str, class: Class, kind: ResourceKind| publisher.latest(group, class).map(|s| s.sets[kind].len());
    tokio::time::timeout(Duration::from_secs(10), async {
        while count("default", Class::Grpc, ResourceKind::Cluster).is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("published");
    assert_eq!(count("default", Class::Weir, ResourceKind::Listener), Some(1));
    assert_eq!(count("default", Class::Weir, ResourceKind::Route), Some(1));
    assert_eq!(count("edge", Class::Envoy, ResourceKind::Listener), Some(2));
    assert_eq!(count("edge", Class::Grpc, ResourceKind::Endpoints), Some(1));
    let clusters = [Class::Weir, Class::Envoy, Class::Grpc].map(|c| count("default", c, ResourceKind::Cluster));
    assert_eq!(clusters, [Some(2), Some(1), Some(1)], "others do not know what `srv` becomes");
    stop.send(()).expect("it listens");
    following.await.expect("it ends");
}

#[tokio::test]
async fn a_group_nobody_defines_is_a_problem() {
    let bench = bench();
    match bench.refused(set("listeners: { a: { address: ':1', groups: edg } }")).await {
        Refused::Invalid(problems) => assert_eq!(problems[0].hint.as_deref(), Some("did you mean `edge`?")),
        other => panic!("{other:?}"),
    }
}
