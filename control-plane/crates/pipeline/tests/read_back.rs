//! What we write is what our proxy takes: every golden case of the translation through the proxy's own decoder.

use std::path::Path;

use cp_model::{Attachments, Source, check_files};

#[test]
fn every_golden_case_is_taken_by_the_proxys_decoder() {
    let identity = rcgen::generate_simple_self_signed(vec!["a.internal".into()]).expect("a certificate");
    let (certificate, key) = (identity.cert.pem(), identity.signing_key.serialize_pem());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../translate/testdata");
    let mut refused = Vec::new();
    for case in std::fs::read_dir(folder).expect("testdata").flatten() {
        let text = std::fs::read_to_string(case.path().join("in.yaml")).expect("in.yaml");
        let source = Source { file: case.file_name().to_string_lossy().into_owned(), text };
        let attachments: Attachments = cp_model::secret_references(std::slice::from_ref(&source))
            .into_iter()
            .map(|r| if r.contains("key") { (r, key.clone()) } else { (r, certificate.clone()) })
            .collect();
        let checked = check_files(&[source], attachments).expect("right");
        let resources = cp_translate::translate(&checked.model).expect("encodes");
        refused.extend(cp_pipeline::read_back::read_back(&resources));
    }
    assert!(refused.is_empty(), "{}", refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}
