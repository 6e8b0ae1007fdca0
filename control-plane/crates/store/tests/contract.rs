//! What every store must do; each implementation runs all of it.

use std::future::Future;
use std::path::Path;

use cp_store::{Embedded, NewRevision, Store, StoreError};

fn new(content: &str) -> NewRevision {
    NewRevision {
        author: "ann".into(),
        message: format!("set {content}"),
        time: 1_700_000_000_000,
        content: content.into(),
        ..NewRevision::default()
    }
}

/// Opens the store in a folder; called again, it must find what was there.
async fn contract<S: Store + 'static, F: Future<Output = S>>(open: impl Fn() -> F) {
    let store = open().await;
    let mut watch = store.watch();
    assert_eq!(*watch.borrow_and_update(), 0);
    assert_eq!(store.head().await.expect("reads"), None);
    assert_eq!(store.list(0, 10).await.expect("reads"), vec![]);

    let first = store.commit(0, new("a")).await.expect("commits");
    assert_eq!((first.header.id, first.content.as_slice()), (1, &b"a"[..]));
    assert!(watch.has_changed().expect("open"));
    assert_eq!(*watch.borrow_and_update(), 1);

    for base in [0, 2, u64::MAX] {
        match store.commit(base, new("x")).await {
            Err(StoreError::Conflict { base: b, head: 1 }) => assert_eq!(b, base),
            other => panic!("{other:?}"),
        }
    }
    assert!(!watch.has_changed().expect("open"), "a refused commit is not seen");

    let mut second = new("b");
    second.rollback_of = 1;
    second.changes = vec!["cluster/app".into()];
    store.commit(1, second).await.expect("commits");
    let head = store.head().await.expect("reads").expect("is there");
    assert_eq!((head.header.id, head.header.rollback_of, head.header.changes.len()), (2, 1, 1));
    assert_eq!(store.get(1).await.expect("reads").expect("kept").content, b"a");
    assert_eq!(store.get(3).await.expect("reads"), None);

    let ids = |headers: Vec<cp_store::Header>| headers.iter().map(|h| h.id).collect::<Vec<_>>();
    store.commit(2, new("c")).await.expect("commits");
    assert_eq!(ids(store.list(0, 10).await.expect("reads")), [3, 2, 1]);
    assert_eq!(ids(store.list(0, 2).await.expect("reads")), [3, 2]);
    assert_eq!(ids(store.list(2, 10).await.expect("reads")), [1]);

    // Of many at once on the same base, exactly one wins.
    let store = std::sync::Arc::new(store);
    let tries = (0..8).map(|i| {
        let store = std::sync::Arc::clone(&store);
        tokio::spawn(async move { store.commit(3, new(&i.to_string())).await.is_ok() })
    });
    let mut won = 0;
    for attempt in tries.collect::<Vec<_>>() {
        won += usize::from(attempt.await.expect("ran"));
    }
    assert_eq!(won, 1);

    beside(&*store).await;
    drop(store);
    let again = open().await;
    let kept = again.beside().await.expect("reads");
    assert_eq!((kept.version, kept.content.as_slice(), *again.watch_beside().borrow()), (2, &b"y"[..], 2));
    assert_eq!(*again.watch().borrow(), 4);
    assert_eq!(again.get(2).await.expect("reads").expect("kept").content, b"b");
}

/// The document beside the revisions: compare and set, and no revision touches it.
async fn beside<S: Store>(store: &S) {
    let mut watch = store.watch_beside();
    assert_eq!(*watch.borrow_and_update(), 0);
    assert_eq!(store.beside().await.expect("reads"), cp_store::Beside::default());
    assert_eq!(store.put_beside(0, b"x".to_vec()).await.expect("puts"), 1);
    assert_eq!(*watch.borrow_and_update(), 1);
    assert!(matches!(store.put_beside(0, b"z".to_vec()).await, Err(StoreError::Conflict { base: 0, head: 1 })));
    assert!(!watch.has_changed().expect("open"), "a refused one is not seen");
    let head = store.head().await.expect("reads").expect("is there").header.id;
    store.put_beside(1, b"y".to_vec()).await.expect("puts");
    assert_eq!(store.head().await.expect("reads").expect("is there").header.id, head, "no revision is made");
}

fn embedded(folder: &Path) -> Embedded {
    Embedded::open(&folder.join("weir.redb")).expect("opens")
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    contract(|| async { embedded(folder.path()) }).await;
}

#[tokio::test]
async fn a_store_in_use_is_refused_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let _first = embedded(folder.path());
    let error = Embedded::open(&folder.path().join("weir.redb")).err().expect("refused").to_string();
    assert!(error.contains("weir.redb is in use by another process"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x");
    std::fs::write(&path, "hello, this is not a database").expect("writes");
    assert!(matches!(Embedded::open(&path), Err(StoreError::Open { .. })));
    assert!(matches!(Embedded::open(&folder.path().join("no/such/x")), Err(StoreError::Open { .. })));
}
