//! Configuration files and the secrets they refer to, read from disk. Never looks into the language itself.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use cp_model::{Attachments, Source};

use crate::failure::Failure;

/// More is no configuration.
const MAX_BYTES: u64 = 16 << 20;
/// A secret: a key, or a bundle of authorities.
const MAX_SECRET: u64 = 1 << 20;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) sources: Vec<Source>,
    pub(crate) attachments: Attachments,
}

/// The texts of files, of the `.yaml`, `.yml` and `.json` files of directories, and of stdin for `-`; and what their
/// secret-bearing fields refer to. A secret that cannot be read is left out: the check names the place that needs it.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Files, Failure> {
    let mut files = Files::default();
    for path in paths {
        for (name, text) in texts(path)? {
            let source = Source { file: name.clone(), text };
            let folder = Path::new(&name).parent().map(Path::to_owned).unwrap_or_default();
            for reference in cp_model::secret_references(std::slice::from_ref(&source)) {
                let Some(content) = secret(&folder, &reference)? else { continue };
                if let Some(other) = files.attachments.insert(reference.clone(), content.clone())
                    && other != content
                {
                    let why =
                        format!("`{reference}` means different files in different directories; write whole paths");
                    return Err(Failure::refused(why));
                }
            }
            files.sources.push(source);
        }
    }
    Ok(files)
}

/// The names and texts behind one argument.
pub(crate) fn texts(path: &Path) -> Result<Vec<(String, String)>, Failure> {
    if path == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().take(MAX_BYTES + 1).read_to_string(&mut text);
        read.map_err(|e| Failure::refused(format!("cannot read stdin: {e}")))?;
        return Ok(vec![("<stdin>".to_owned(), within(Path::new("<stdin>"), text)?)]);
    }
    if !path.is_dir() {
        return Ok(vec![(path.display().to_string(), text(path)?)]);
    }
    let unreadable = |e: std::io::Error| Failure::refused(format!("cannot read {}: {e}", path.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let known = file.extension().and_then(|e| e.to_str()).is_some_and(|e| ["yaml", "yml", "json"].contains(&e));
        if known && file.is_file() {
            found.push(file);
        }
    }
    if found.is_empty() {
        return Err(Failure::refused(format!("{} has no .yaml, .yml or .json file", path.display())));
    }
    found.sort();
    found.iter().map(|file| Ok((file.display().to_string(), text(file)?))).collect()
}

fn text(path: &Path) -> Result<String, Failure> {
    let wrong = |e: std::io::Error| Failure::refused(format!("cannot read {}: {e}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(wrong)?;
    within(path, text)
}

fn within(path: &Path, text: String) -> Result<String, Failure> {
    if text.len() as u64 > MAX_BYTES {
        return Err(Failure::refused(format!("{} is longer than {MAX_BYTES} bytes", path.display())));
    }
    Ok(text)
}

/// `${NAME}` is a variable of our environment; all else a file, from the directory of the one that names it.
fn secret(folder: &Path, reference: &str) -> Result<Option<String>, Failure> {
    if let Some(name) = reference.strip_prefix("${").and_then(|r| r.strip_suffix('}')) {
        return Ok(std::env::var(name).ok());
    }
    let path = folder.join(reference);
    let Ok(file) = std::fs::File::open(&path) else { return Ok(None) };
    let mut content = String::new();
    if file.take(MAX_SECRET + 1).read_to_string(&mut content).is_err() {
        return Ok(None);
    }
    if content.len() as u64 > MAX_SECRET {
        return Err(Failure::refused(format!("{} is longer than {MAX_SECRET} bytes: no secret", path.display())));
    }
    Ok(Some(content))
}

impl Files {
    /// As the management API takes them.
    pub(crate) fn change(&self, prune: bool, select_tag: &str) -> proto::weir::management::v1::ChangeSet {
        use proto::weir::management::v1 as pb;
        let sources = self.sources.iter().map(|s| pb::Source { file_name: s.file.clone(), text: s.text.clone() });
        let attachments: BTreeMap<String, _> =
            self.attachments.iter().map(|(k, v)| (k.clone(), v.clone().into_bytes().into())).collect();
        let select_tag = select_tag.to_owned();
        pb::ChangeSet { sources: sources.collect(), resources: Vec::new(), attachments, prune, select_tag }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_read_in_the_order_of_its_names_and_other_files_are_left() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "notes.txt", "c.json"] {
            std::fs::write(folder.path().join(name), "{}").unwrap();
        }
        let names: Vec<String> = texts(folder.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        let ends: Vec<&str> = names.iter().filter_map(|n| n.rsplit('/').next()).collect();
        assert_eq!(ends, ["a.yml", "b.yaml", "c.json"]);
    }

    #[test]
    fn a_secret_is_found_beside_the_file_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.pem"), "secret").unwrap();
        let text = "listeners: { web: { address: ':1', tls: { cert: none.pem, key: key.pem } } }";
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        let files = read(&[folder.path().join("a.yaml")]).unwrap();
        assert_eq!(files.attachments.into_iter().collect::<Vec<_>>(), [("key.pem".to_owned(), "secret".to_owned())]);
    }
}
