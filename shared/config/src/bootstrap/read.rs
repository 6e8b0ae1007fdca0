//! Reads a bootstrap from text, with line and column in every problem that has one.

use prost::{Message as _, Name as _};
use proto::envoy::config::bootstrap::v3 as pb;
use proto::json::{self, Mode, Path};

use super::{Bootstrap, decode};
use crate::invalid::{Invalid, Problem, Problems};
use crate::resource::{add_missing, pgv_problems};

/// So many problems are given with their place; of more nobody reads.
const MAX_PLACES: usize = 20;

/// Reads a bootstrap from `texts` in YAML or JSON; later ones are merged over earlier ones as protobuf merges messages.
///
/// # Errors
/// Every problem, with the line and column in its reason when there is only one text.
pub fn read(texts: &[&str]) -> Result<Bootstrap, Invalid> {
    let name = pb::Bootstrap::full_name();
    let mut merged = Vec::new();
    for text in texts {
        // Merging messages is appending their bytes.
        merged.extend(json::from_yaml_named(&name, text, Mode::Lenient).map_err(invalid)?);
    }
    let proto = pb::Bootstrap::decode(&merged[..]).map_err(|error| invalid_root(&error))?;
    let mut problems = Problems::default();
    let bootstrap = decode(&proto, &mut problems);
    let result = problems.finish(bootstrap);
    // Static resources were validated one by one.
    let shell = pb::Bootstrap { static_resources: None, ..proto };
    let more = pgv_problems(&name, &shell.encode_to_vec());
    let mut all = match (result, more.is_empty()) {
        (Ok(bootstrap), true) => return Ok(bootstrap),
        (Ok(_), false) => Vec::new(),
        (Err(Invalid(problems)), _) => problems,
    };
    add_missing(&mut all, more);
    if let [text] = texts {
        // Each place is looked for in the whole text.
        for problem in all.iter_mut().take(MAX_PLACES) {
            if let Some(position) = json::position_in_yaml(text, &Path::parse(&problem.path)) {
                problem.reason = format!("{} (line {}, column {})", problem.reason, position.line, position.column);
            }
        }
    }
    Err(Invalid(all))
}

fn invalid_root(error: &prost::DecodeError) -> Invalid {
    Invalid(vec![Problem { path: String::new(), reason: error.to_string() }])
}

fn invalid(error: json::JsonError) -> Invalid {
    let problems = error.problems().into_iter().map(|problem| {
        let place = match problem.position {
            // Errors of syntax say their place themselves.
            Some(position) if !problem.path.is_empty() => {
                format!(" (line {}, column {})", position.line, position.column)
            }
            _ => String::new(),
        };
        Problem { path: problem.path.to_string(), reason: format!("{}{place}", problem.reason) }
    });
    Invalid(problems.collect())
}
