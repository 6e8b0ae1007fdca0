//! Every filter has its page, and the page is named after its file.

use std::path::Path;

#[test]
fn every_filter_has_a_page_for_operators() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = here.join("../../../docs/reference/filters");
    let files = std::fs::read_dir(here.join("src/http")).unwrap();
    let names: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        assert!(pages.join(format!("{name}.md")).exists(), "docs/reference/filters/{name}.md is missing");
    }
}
