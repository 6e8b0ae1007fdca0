//! Why a call is refused, as a gRPC status with details and as an RFC 9457 problem. The only place that knows status codes.

use std::collections::HashMap;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cp_model::problem::did_you_mean;
use cp_model::{Kind, Problem};
use cp_pipeline::{Refused, StoreError};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{
    BadRequest, ErrorDetail, ErrorInfo, FieldViolation, PreconditionFailure, PreconditionViolation, StatusExt,
};

use crate::auth::Role;
use crate::calls::Call;
use crate::redact;

#[derive(Debug)]
pub(crate) enum Failure {
    Unauthenticated(&'static str),
    Denied {
        name: String,
        role: Role,
        call: Call,
    },
    /// A gRPC method that is none of ours.
    NoCall,
    /// The request itself is wrong: its field, and why.
    Request {
        field: String,
        reason: String,
    },
    /// Nothing of that name; `hint` ends the message and says what else may have been meant.
    Unknown {
        what: &'static str,
        name: String,
        hint: String,
    },
    Refused(Refused),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Failure::Refused(refused)
    }
}

/// More problems than anyone reads are not sent.
const MAX_PROBLEMS: usize = 100;
/// Status details travel in headers, which clients limit.
const MAX_DETAIL_BYTES: usize = 6 << 10;
/// And so does the message, in which names as long as the request may be quoted.
const MAX_TEXT: usize = 1 << 10;
/// Of those who refer to what is to be removed.
const MAX_REFERRING: usize = 20;
const DOMAIN: &str = "weir";

impl Failure {
    pub(crate) fn request(field: &str, reason: impl Into<String>) -> Self {
        Failure::Request { field: field.to_owned(), reason: reason.into() }
    }

    /// `name` is none of `known`.
    pub(crate) fn unknown<'k>(what: &'static str, name: &str, known: impl Iterator<Item = &'k str>) -> Self {
        Failure::Unknown { what, name: name.to_owned(), hint: did_you_mean(name, known) }
    }

    fn code(&self) -> Code {
        match self {
            Failure::Unauthenticated(_) => Code::Unauthenticated,
            Failure::Denied { .. } => Code::PermissionDenied,
            Failure::NoCall => Code::Unimplemented,
            Failure::Request { .. } => Code::InvalidArgument,
            Failure::Unknown { .. } => Code::NotFound,
            Failure::Refused(refused) => match refused {
                Refused::Invalid(_) => Code::InvalidArgument,
                Refused::Stale { .. } | Refused::Store(StoreError::Conflict { .. }) => Code::Aborted,
                Refused::NoObject(..)
                | Refused::NoRevision(_)
                | Refused::NoEndpoint { .. }
                | Refused::NotDrained { .. } => Code::NotFound,
                Refused::Referenced(_) | Refused::NoEndpoints(_) | Refused::TooManyDrained(_) => {
                    Code::FailedPrecondition
                }
                Refused::Unreadable { .. } => Code::DataLoss,
                Refused::Store(_) => Code::Internal,
            },
        }
    }

    fn http(&self) -> StatusCode {
        match self.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::InvalidArgument => StatusCode::BAD_REQUEST,
            Code::NotFound => StatusCode::NOT_FOUND,
            Code::Aborted => StatusCode::PRECONDITION_FAILED,
            Code::FailedPrecondition => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(&self) -> String {
        let text = match self {
            Failure::Unauthenticated(why) => (*why).to_owned(),
            Failure::Denied { name, role, call } => {
                format!("`{name}` has the role {role}; {} needs {}", call.rpc, call.role)
            }
            Failure::NoCall => "there is no such method".to_owned(),
            Failure::Request { field, reason } => format!("{field}: {reason}"),
            Failure::Unknown { what, name, hint } => format!("{what} `{name}` is not known{hint}"),
            Failure::Refused(Refused::Invalid(problems)) => {
                let first = problems.first().map(|p| format!("{}: {}", p.place, p.message)).unwrap_or_default();
                match problems.len() {
                    0 | 1 => first,
                    n => format!("{first} (and {} more problems)", n - 1),
                }
            }
            Failure::Refused(other) => other.to_string(),
        };
        short(&text)
    }

    fn problems(&self) -> &[Problem] {
        match self {
            Failure::Refused(Refused::Invalid(problems)) => &problems[..problems.len().min(MAX_PROBLEMS)],
            _ => &[],
        }
    }

    fn details(&self) -> Vec<ErrorDetail> {
        match self {
            Failure::Request { field, reason } => vec![BadRequest::with_violation(short(field), short(reason)).into()],
            Failure::Refused(Refused::Stale { etag }) => {
                let metadata = HashMap::from([("etag".to_owned(), etag.clone())]);
                vec![ErrorInfo::new("ETAG_MISMATCH", DOMAIN, metadata).into()]
            }
            Failure::Refused(Refused::Referenced(by)) => {
                let violation = |(kind, name): &(Kind, String)| {
                    PreconditionViolation::new(
                        "REFERENCED",
                        short(&format!("{kind}/{name}")),
                        "it refers to what is to be removed",
                    )
                };
                vec![PreconditionFailure::new(by.iter().take(MAX_REFERRING).map(violation).collect::<Vec<_>>()).into()]
            }
            _ => self.problem_details(),
        }
    }

    fn problem_details(&self) -> Vec<ErrorDetail> {
        let mut room = MAX_DETAIL_BYTES;
        let mut shown: Vec<&Problem> = Vec::new();
        for problem in self.problems() {
            let length = |text: &str| text.len().min(MAX_TEXT + 3);
            let size = 2 * (length(&problem.message) + length(&problem.field))
                + problem.hint.as_deref().map_or(0, length)
                + length(&problem.place.file)
                + 120;
            if size > room && !shown.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            shown.push(problem);
        }
        if shown.is_empty() {
            return Vec::new();
        }
        let violations: Vec<_> =
            shown.iter().map(|p| FieldViolation::new(short(&p.field), short(&p.message))).collect();
        let mut details: Vec<ErrorDetail> = vec![BadRequest::new(violations).into()];
        let left_out = self.problems().len() - shown.len();
        for problem in shown {
            let mut metadata = HashMap::new();
            let mut put = |key: &str, value: String| {
                if !value.is_empty() && value != "0" {
                    metadata.insert(key.to_owned(), value);
                }
            };
            put("file", short(&problem.place.file));
            put("line", problem.place.line.to_string());
            put("column", problem.place.column.to_string());
            put("field", short(&problem.field));
            put("message", short(&problem.message));
            put("hint", short(problem.hint.as_deref().unwrap_or_default()));
            details.push(ErrorInfo::new(problem.code.number(), DOMAIN, metadata).into());
        }
        if left_out > 0 {
            let metadata = HashMap::from([("count".to_owned(), left_out.to_string())]);
            details.push(ErrorInfo::new("MORE_PROBLEMS", DOMAIN, metadata).into());
        }
        details
    }

    pub(crate) fn status(&self) -> Status {
        match self.details() {
            details if details.is_empty() => Status::new(self.code(), self.message()),
            details => Status::with_error_details_vec(self.code(), self.message(), details),
        }
    }

    fn problem_json(&self) -> Value {
        let problem = |p: &Problem| {
            json!({
                "file": short(&p.place.file), "line": p.place.line, "column": p.place.column, "field": short(&p.field),
                "code": p.code.number(), "message": short(&p.message), "hint": p.hint.as_deref().map(short),
            })
        };
        let status = self.http();
        let mut body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.message(),
            "code": format!("{:?}", self.code()),
        });
        if !self.problems().is_empty() {
            body["problems"] = self.problems().iter().map(problem).collect();
        }
        body
    }
}

/// The beginning of a text that is too long to be read, and never a private key.
pub(crate) fn short(text: &str) -> String {
    let text = &*redact::text(text);
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(MAX_TEXT)])
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.http(), self.problem_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert("content-type", axum::http::HeaderValue::from_static("application/problem+json"));
        if matches!(self, Failure::Unauthenticated(_)) {
            headers.insert("www-authenticate", axum::http::HeaderValue::from_static("Bearer"));
        }
        response
    }
}
