//! Every resource seen with the proxy's eyes before it is committed.

use cp_model::{Code, Kind, Problem};
use cp_translate::{Audience, Resource, TranslateError};

/// What the proxy's own decoder refuses, as problems of the operator's objects.
pub fn read_back(resources: &[Resource]) -> Vec<Problem> {
    let mut out = Vec::new();
    for resource in resources.iter().filter(|r| r.audience != Audience::Grpc) {
        let Err(invalid) = shared_config::resource::decode_resource(&resource.any) else { continue };
        let message = resource.any.type_name().rsplit('.').next().unwrap_or_default();
        for problem in invalid.0 {
            out.push(Problem {
                place: resource.place.clone(),
                field: field(resource.kind, &resource.object),
                code: Code::Refused,
                message: format!("{message} `{}`: {problem}", resource.name),
                hint: None,
            });
        }
    }
    out
}

/// A resource that could not even be encoded.
pub(crate) fn defect(error: &TranslateError) -> Problem {
    Problem {
        place: error.place.clone(),
        field: field(error.kind, &error.object),
        code: Code::Refused,
        message: error.to_string(),
        hint: None,
    }
}

fn field(kind: Kind, object: &str) -> String {
    format!("{}.{object}", kind.section())
}
