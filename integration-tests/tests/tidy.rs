//! The rules of ARCHITECTURE.md as tests: who may depend on whom, how large a file may be, what every file says first.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

type Table = BTreeMap<String, Value>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("integration-tests lies in the workspace").to_owned()
}

/// The few lines of TOML that the rules need: `[section]`, `key = value` with strings, numbers and lists of strings.
fn rules() -> BTreeMap<String, Table> {
    let text = std::fs::read_to_string(root().join("integration-tests/architecture.toml")).unwrap();
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name.to_owned();
            tables.entry(section.clone()).or_default();
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("not a rule: {line}"));
            let value = serde_json::from_str(value.trim()).unwrap_or_else(|e| panic!("{line}: {e}"));
            tables.get_mut(&section).unwrap().insert(key.trim().trim_matches('"').to_owned(), value);
        }
    }
    tables
}

fn strings(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// (package, dependency) for every normal and build dependency.
fn arrows(metadata: &Value) -> Vec<(String, String)> {
    let mut arrows = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            if dependency["kind"].as_str() != Some("dev") {
                arrows.push((name.to_owned(), dependency["name"].as_str().unwrap().to_owned()));
            }
        }
    }
    arrows
}

#[test]
fn crates_depend_on_what_the_table_says_and_on_nothing_else() {
    let rules = rules();
    let (layers, only) = (&rules["layers"], &rules["only"]);
    let metadata = metadata();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !layers.contains_key(name) {
            wrong.push(format!("{name} is not in architecture.toml"));
        }
    }
    for (package, dependency) in arrows(&metadata) {
        if layers.contains_key(&dependency) {
            let allowed = layers.get(&package).map(strings).unwrap_or_default();
            if !allowed.contains("*") && !allowed.contains(&*dependency) {
                wrong.push(format!("{package} -> {dependency}"));
            }
        }
        if only.get(&dependency).is_some_and(|users| !strings(users).contains(&*package)) {
            wrong.push(format!("{package} -> {dependency} (see [only])"));
        }
    }
    let real: BTreeSet<(String, String)> = arrows(&metadata).into_iter().collect();
    for (package, allowed) in layers {
        for dependency in strings(allowed).into_iter().filter(|d| *d != "*") {
            if !real.contains(&(package.clone(), dependency.to_owned())) {
                wrong.push(format!("{package} -> {dependency} is allowed, and nobody uses it"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that differ from architecture.toml:\n{}", wrong.join("\n"));
}

fn sources() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for dir in ["proto", "shared", "data-plane", "control-plane", "integration-tests"] {
        walk(&root().join(dir), &mut found);
    }
    found.sort();
    found
}

fn is_test(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/")
        || text.ends_with("/tests.rs")
        || text.ends_with("_tests.rs")
        || text.ends_with("/testing.rs")
}

/// The lines before the inline tests.
fn code(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.windows(2).position(|w| w[0].trim() == "#[cfg(test)]" && w[1].starts_with("mod tests {"));
    lines[..end.unwrap_or(lines.len())].to_vec()
}

#[test]
fn every_file_says_what_it_holds_and_stays_small() {
    let rules = rules();
    let limit = rules["size"]["file"].as_u64().unwrap() as usize;
    let exceptions = &rules["size.exceptions"];
    let mut wrong = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let first = text.lines().find(|l| !l.starts_with("#!")).unwrap_or_default();
        if !first.starts_with("//!") {
            wrong.push(format!("{name}: does not open with `//!`"));
        }
        if text.contains(concat!("//! TO", "DO")) {
            wrong.push(format!("{name}: says only TODO"));
        }
        let lines = code(&text).len();
        if lines > limit && !is_test(&path) && !exceptions.contains_key(&name) {
            wrong.push(format!("{name}: {lines} lines of code, {limit} allowed"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_stay_readable() {
    let rules = rules();
    let limit = rules["size"]["function"].as_u64().unwrap() as usize;
    let exceptions = &rules["size.exceptions"];
    let mut wrong = Vec::new();
    for path in sources().into_iter().filter(|p| !is_test(p)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if exceptions.contains_key(&name) {
            continue;
        }
        let lines = code(&text);
        let mut open: Vec<(usize, usize, &str)> = Vec::new();
        for (number, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let trimmed = line.trim_start();
            let is_fn = trimmed.contains("fn ") && !trimmed.starts_with("//") && trimmed.contains('(');
            if is_fn && !trimmed.ends_with(';') && !trimmed.ends_with('}') {
                open.push((indent, number, trimmed));
            }
            if trimmed.starts_with('}') && open.last().is_some_and(|(i, ..)| *i == indent) {
                let (_, start, head) = open.pop().unwrap();
                if number - start > limit {
                    wrong.push(format!("{name}:{}: {} lines: {head}", start + 1, number - start));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "functions over {limit} lines:\n{}", wrong.join("\n"));
}

#[test]
fn no_path_of_a_machine_is_in_the_tree() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains(concat!("/wo", "rk/")) || text.contains(concat!("/ro", "ot/")) {
            wrong.push(path.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
