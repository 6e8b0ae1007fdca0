//! `weir fmt`: configuration laid out evenly, with its comments.
//!
//! Works on lines: two blanks a level, no blanks at line ends, at most one empty line in a row. Never changes what the text
//! says: the result is parsed and compared, and a text that would change is refused.

use std::path::Path;

use cp_model::node::Node;
use similar::TextDiff;

use crate::failure::Failure;
use crate::files;
use crate::flags::Fmt;
use crate::out::Out;

pub(crate) fn run(given: &Fmt, out: &Out) -> Result<u8, Failure> {
    let mut code = 0;
    for path in &given.files {
        for (name, text) in files::texts(path)? {
            let formatted = format(&name, &text)?;
            if given.check {
                if formatted != text {
                    code = 1;
                    let diff = TextDiff::from_lines(text.as_str(), formatted.as_str());
                    out.data(&diff.unified_diff().header(&name, &name).to_string());
                }
            } else if given.write && name != "<stdin>" {
                if formatted != text {
                    replace(Path::new(&name), &formatted)?;
                    out.note(&format!("{name}: laid out"));
                }
            } else {
                out.data(&formatted);
            }
        }
    }
    Ok(code)
}

/// The whole new text or the whole old one, whatever happens; the permissions stay.
fn replace(path: &Path, text: &str) -> Result<(), Failure> {
    let write = || -> std::io::Result<()> {
        // A link stays a link: what it points to is replaced.
        let path = std::fs::canonicalize(path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::NamedTempFile::new_in(folder)?;
        std::fs::write(file.path(), text)?;
        std::fs::set_permissions(file.path(), std::fs::metadata(&path)?.permissions())?;
        file.persist(&path).map_err(|e| e.error)?;
        Ok(())
    };
    write().map_err(|e| Failure::refused(format!("cannot write {}: {e}", path.display())))
}

/// The text, laid out.
fn format(name: &str, text: &str) -> Result<String, Failure> {
    let before = meaning(name, text)?;
    let same = |candidate: &String| meaning(name, candidate).is_ok_and(|after| after == before);
    if text.trim_start().starts_with('{') {
        return json(text, name);
    }
    // Where moving a line would change the meaning, only blanks are tidied.
    let candidates = [lay_out(text, true), lay_out(text, false)];
    candidates
        .into_iter()
        .find(same)
        .ok_or_else(|| Failure::refused(format!("{name}: cannot be laid out without changing what it says")))
}

fn json(text: &str, name: &str) -> Result<String, Failure> {
    // A JSON text has no comments; a YAML text in braces may, and is left alone.
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(value) => Ok(format!("{value:#}\n")),
        Err(_) => {
            meaning(name, text)?;
            Ok(lay_out(text, false))
        }
    }
}

fn meaning(name: &str, text: &str) -> Result<Vec<serde_json::Value>, Failure> {
    let nodes = Node::parse(name, text).map_err(|problem| Failure::invalid(vec![problem]))?;
    Ok(nodes.iter().map(Node::to_json).collect())
}

/// What an open block scalar or bracket does to the lines after it.
#[derive(Clone, Copy)]
struct Open {
    /// Lines deeper than this belong to a block scalar.
    scalar: Option<usize>,
    /// Brackets that are not closed.
    brackets: usize,
    /// How far the line that opened it was moved.
    shift: isize,
}

fn lay_out(text: &str, indent: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut levels: Vec<(usize, usize)> = Vec::new();
    let mut open = Open { scalar: None, brackets: 0, shift: 0 };
    let mut empty = 0;
    for line in text.lines() {
        let content = line.trim_end().trim_start_matches(' ');
        let depth = line.trim_end().len() - content.len();
        if content.is_empty() {
            empty += 1;
            continue;
        }
        let in_scalar = open.scalar.is_some_and(|of| depth > of);
        if !out.is_empty() {
            // Empty lines of a block scalar are content.
            let lines = if in_scalar { empty } else { empty.min(1) };
            out.extend(std::iter::repeat_n('\n', lines));
        }
        empty = 0;
        let continued = in_scalar || open.brackets > 0;
        if !in_scalar {
            open.scalar = None;
        }
        let moved = match (indent, continued) {
            (false, _) => depth,
            (true, true) => depth.saturating_add_signed(open.shift),
            (true, false) => level(&mut levels, depth, content),
        };
        out.extend(std::iter::repeat_n(' ', moved));
        out.push_str(content);
        out.push('\n');
        if in_scalar {
            continue;
        }
        if !continued {
            open.shift = moved as isize - depth as isize;
        }
        let (brackets, bare) = scan(content, open.brackets);
        open.brackets = brackets;
        if brackets == 0 && opens_scalar(bare) {
            open.scalar = Some(depth);
        }
    }
    out
}

/// The new depth of a line, by the depths of the lines above that it stands under.
fn level(levels: &mut Vec<(usize, usize)>, depth: usize, content: &str) -> usize {
    if content.starts_with('#') {
        // A comment goes with the line it stands beside, and opens no level.
        return levels
            .iter()
            .rev()
            .find(|(old, _)| *old <= depth)
            .map_or(0, |(old, new)| if *old == depth { *new } else { new + 2 });
    }
    while levels.last().is_some_and(|(old, _)| *old > depth) {
        levels.pop();
    }
    let new = match levels.last() {
        Some((old, new)) if *old == depth => *new,
        Some((_, new)) => new + 2,
        None => 0,
    };
    if levels.last().is_none_or(|(old, _)| *old < depth) {
        levels.push((depth, new));
    }
    // `- a: 1`: what follows the dash is a level of its own.
    let after = content.strip_prefix("- ").map(|rest| rest.len() - rest.trim_start().len() + 2);
    if let Some(dash) = after {
        levels.push((depth + dash, new + dash));
    }
    new
}

/// Brackets still open after this line, and the line without its comment.
fn scan(content: &str, mut brackets: usize) -> (usize, &str) {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in content.char_indices() {
        match (quote, c) {
            (Some('"'), '"') if before != '\\' => quote = None,
            (Some('\''), '\'') => quote = None,
            (Some(_), _) => (),
            (None, '#') if before == ' ' => return (brackets, content[..at].trim_end()),
            (None, '"' | '\'') if " [{,:".contains(before) => quote = Some(c),
            (None, '[' | '{') if brackets > 0 || " [{-".contains(before) => brackets += 1,
            (None, ']' | '}') => brackets = brackets.saturating_sub(1),
            _ => (),
        }
        before = c;
    }
    (brackets, content)
}

fn opens_scalar(bare: &str) -> bool {
    let last = bare.rsplit(' ').next().unwrap_or_default();
    let marks = last.strip_prefix(['|', '>']);
    bare.contains(['|', '>']) && marks.is_some_and(|m| m.chars().all(|c| matches!(c, '+' | '-' | '0'..='9')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let formatted = format("x.yaml", text).unwrap();
        assert_eq!(formatted, expected);
        assert_eq!(format("x.yaml", &formatted).unwrap(), expected, "a second time changes nothing");
    }

    #[test]
    fn levels_become_two_blanks_and_comments_stay() {
        check(
            "# top\nlisteners:\n    web: \":8080\"   \n\n\n\nroutes:\n   # why\n   -  to: app\n      match: /a\n",
            "# top\nlisteners:\n  web: \":8080\"\n\nroutes:\n  # why\n  -  to: app\n     match: /a\n",
        );
    }

    #[test]
    fn a_list_at_the_level_of_its_key_stays_there() {
        check("routes:\n- to: app\n- to: b\n", "routes:\n- to: app\n- to: b\n");
    }

    #[test]
    fn block_scalars_keep_their_content() {
        let text =
            "routes:\n    - respond:\n          body: |\n            a\n\n\n              b\n          status: 200\n";
        let expected = "routes:\n  - respond:\n      body: |\n        a\n\n\n          b\n      status: 200\n";
        check(text, expected);
    }

    #[test]
    fn a_bracket_over_several_lines_moves_as_a_whole() {
        check(
            "clusters:\n    app: [\n      \"a:1\",\n      \"b:1\",\n    ]\n",
            "clusters:\n  app: [\n    \"a:1\",\n    \"b:1\",\n  ]\n",
        );
    }

    #[test]
    fn a_text_that_is_no_yaml_is_refused() {
        assert_eq!(format("x.yaml", "a: [").unwrap_err().code(), 1);
    }
}
