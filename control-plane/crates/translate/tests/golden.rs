//! Every `testdata/<case>/in.yaml` becomes its `out.yaml`. `UPDATE=1 cargo test -p cp-translate` rewrites them.

use std::path::Path;

use cp_model::{Attachments, Source, check_files};

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nnot a real one\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nnot a real one\n-----END PRIVATE KEY-----\n";

fn translated(case: &Path) -> String {
    let text = std::fs::read_to_string(case.join("in.yaml")).expect("in.yaml");
    let source = Source { file: "in.yaml".into(), text };
    let attachments: Attachments = cp_model::secret_references(std::slice::from_ref(&source))
        .into_iter()
        .map(|r| if r.contains("key") { (r, KEY.to_owned()) } else { (r, CERTIFICATE.to_owned()) })
        .collect();
    let checked = match check_files(&[source], attachments) {
        Ok(checked) => checked,
        Err(problems) => panic!("{}: {problems:#?}", case.display()),
    };
    let resources = cp_translate::translate(&checked.model).expect("encodes");
    let values: Vec<serde_json::Value> = resources
        .iter()
        .filter(|r| r.audience != cp_translate::Audience::Grpc)
        .map(|r| proto::json::to_value(&r.any, proto::json::Secrets::Shown).expect("a known message"))
        .collect();
    proto::json::value_to_yaml(&serde_json::json!({ "resources": values }))
}

#[test]
fn every_case_is_translated_as_its_file_says() {
    let update = std::env::var_os("UPDATE").is_some();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut cases: Vec<_> = std::fs::read_dir(folder).expect("testdata").flatten().map(|e| e.path()).collect();
    cases.sort();
    assert!(cases.len() >= 5, "the cases are gone");
    let mut wrong = Vec::new();
    for case in cases {
        let (found, out) = (translated(&case), case.join("out.yaml"));
        if update {
            std::fs::write(&out, &found).expect("out.yaml can be written");
        } else if std::fs::read_to_string(&out).unwrap_or_default() != found {
            wrong.push(case);
        }
    }
    assert!(wrong.is_empty(), "differ (UPDATE=1 rewrites): {wrong:?}");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gateway/in.yaml"))
        .expect("a case");
    let bytes = || {
        let source = Source { file: "in.yaml".into(), text: text.clone() };
        let checked = check_files(&[source], Attachments::new()).expect("right");
        cp_translate::translate(&checked.model).expect("encodes")
    };
    assert_eq!(bytes(), bytes());
}
