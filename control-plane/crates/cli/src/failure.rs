//! Why a command did not do what was asked, and the exit code that says so. The only place that knows exit codes.

use cp_model::Problem;
use tonic::{Code, Status};
use tonic_types::{ErrorDetail, StatusExt};

use crate::out::{Out, Paint};

#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused, wrong or not found: 1.
    Refused { message: String, hint: Option<String> },
    /// A configuration with problems: 1.
    Invalid { problems: Vec<Problem>, more: usize },
    /// The command was used wrongly: 2.
    Usage(String),
    /// Nobody answers: 3.
    Unreachable { message: String, hint: Option<String> },
    /// Someone else was faster: 4.
    Conflict(String),
    /// Applied, and not everywhere in time: 5.
    NotConverged(String),
    /// The comparison of `diff` could not be made: at least 2.
    NoDiff(Box<Failure>),
}

impl Failure {
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Failure::Refused { message: message.into(), hint: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(message.into())
    }

    pub(crate) fn invalid(problems: Vec<Problem>) -> Self {
        Failure::Invalid { problems, more: 0 }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Refused { .. } | Failure::Invalid { .. } => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable { .. } => 3,
            Failure::Conflict(_) => 4,
            Failure::NotConverged(_) => 5,
            // 1 means "differs" there.
            Failure::NoDiff(why) => why.code().max(2),
        }
    }

    /// Says it to people.
    pub(crate) fn tell(&self, out: &Out) {
        match self {
            Failure::Invalid { problems, more } => {
                problems.iter().for_each(|p| out.problem(p, Paint::Bad));
                if *more > 0 {
                    out.say(&format!("... and {more} more"));
                }
            }
            Failure::NoDiff(why) => why.tell(out),
            Failure::Refused { message, hint } | Failure::Unreachable { message, hint } => {
                out.error(message);
                if let Some(hint) = hint {
                    out.say(&format!("  hint: {hint}"));
                }
            }
            Failure::Usage(message) | Failure::Conflict(message) | Failure::NotConverged(message) => {
                out.error(message);
            }
        }
    }
}

/// What a refused call means. The details are those of `proto/weir/management/v1/config.proto`.
pub(crate) fn of_status(status: &Status, server: &str) -> Failure {
    let details = status.get_error_details_vec();
    match status.code() {
        Code::InvalidArgument => invalid(status, &details),
        Code::Unavailable | Code::DeadlineExceeded => unreachable_at(server, status.message()),
        Code::Aborted => {
            let newest = details.iter().find_map(|d| match d {
                ErrorDetail::ErrorInfo(info) => info.metadata.get("etag").cloned(),
                _ => None,
            });
            let newest = newest.map(|etag| format!(" (now {etag})")).unwrap_or_default();
            Failure::Conflict(format!("the configuration has changed in between{newest}: {}", status.message()))
        }
        Code::FailedPrecondition => {
            let by = details.iter().flat_map(|d| match d {
                ErrorDetail::PreconditionFailure(failure) => {
                    failure.violations.iter().map(|v| v.subject.clone()).collect()
                }
                _ => Vec::new(),
            });
            let by = by.collect::<Vec<String>>().join(", ");
            let hint = (!by.is_empty()).then(|| format!("change or delete {by} first"));
            Failure::Refused { message: status.message().to_owned(), hint }
        }
        Code::Unauthenticated => Failure::Refused {
            message: format!("not authenticated: {}", status.message()),
            hint: Some("give a token with --token-file or WEIR_TOKEN_FILE".to_owned()),
        },
        _ => Failure::refused(status.message()),
    }
}

/// Nobody answers at `server`.
pub(crate) fn unreachable_at(server: &str, why: &str) -> Failure {
    Failure::Unreachable {
        message: format!("the control plane at {server} does not answer: {why}"),
        hint: Some("is weir-control running there? say where with --server or WEIR_SERVER".to_owned()),
    }
}

fn invalid(status: &Status, details: &[ErrorDetail]) -> Failure {
    let mut problems = Vec::new();
    let mut more = 0;
    for detail in details {
        let ErrorDetail::ErrorInfo(info) = detail else { continue };
        let word = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
        if info.reason == "MORE_PROBLEMS" {
            more = word("count").parse().unwrap_or(0);
            continue;
        }
        let number = |key: &str| word(key).parse().unwrap_or(0);
        let code = cp_model::Code::ALL.into_iter().find(|c| c.number() == info.reason);
        problems.push(Problem {
            place: cp_model::Place { file: word("file"), line: number("line"), column: number("column") },
            field: word("field"),
            code: code.unwrap_or(cp_model::Code::Refused),
            message: word("message"),
            hint: info.metadata.get("hint").cloned(),
        });
    }
    match problems.is_empty() {
        true => Failure::refused(status.message()),
        false => Failure::Invalid { problems, more },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorInfo;

    use super::*;

    fn check(status: &Status, code: u8) -> Failure {
        let failure = of_status(status, "http://x");
        assert_eq!(failure.code(), code, "{failure:?}");
        failure
    }

    #[test]
    fn every_kind_of_refusal_has_its_exit_code() {
        check(&Status::not_found("no cluster `x`"), 1);
        check(&Status::invalid_argument("bad"), 1);
        check(&Status::failed_precondition("still referenced"), 1);
        check(&Status::permission_denied("viewer"), 1);
        check(&Status::unauthenticated("no token"), 1);
        check(&Status::unavailable("refused"), 3);
        check(&Status::deadline_exceeded("late"), 3);
        check(&Status::aborted("etag"), 4);
        assert_eq!(Failure::NotConverged(String::new()).code(), 5);
        assert_eq!(Failure::usage("x").code(), 2);
    }

    #[test]
    fn diff_never_answers_1_for_a_failure() {
        for (failure, code) in [
            (Failure::refused("x"), 2),
            (Failure::usage("x"), 2),
            (unreachable_at("http://x", "x"), 3),
            (Failure::Conflict("x".into()), 4),
        ] {
            assert_eq!(Failure::NoDiff(Box::new(failure)).code(), code);
        }
    }

    #[test]
    fn problems_of_the_server_come_back_with_place_and_hint() {
        let words = [("file", "a.yaml"), ("line", "3"), ("column", "7"), ("field", "routes[0].to")];
        let mut metadata: HashMap<String, String> = words.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        metadata.insert("message".into(), "cluster `ap` is not defined".into());
        metadata.insert("hint".into(), "did you mean `app`?".into());
        let details: Vec<ErrorDetail> = vec![ErrorInfo::new("W0101", "weir", metadata).into()];
        let status = Status::with_error_details_vec(Code::InvalidArgument, "m", details);
        let Failure::Invalid { problems, more: 0 } = check(&status, 1) else { panic!("problems expected") };
        assert_eq!(
            problems[0].to_string(),
            "a.yaml:3:7: routes[0].to: cluster `ap` is not defined [W0101]\n  hint: did you mean `app`?"
        );
    }
}
