//! Compiles how replies of the proxy's own look.

use bytes::Bytes;
use dp_format::{Format, JsonFormat, Missing};
use dp_observe::access_log::Filter;
use dp_routing::{HeaderLevels, HeaderPlan};
use shared_config::hcm::LocalReply as Config;
use shared_config::header::HeaderChanges;
use shared_config::substitution::{SubstitutionFormat, Template};

use super::{Environment, Refusal};
use crate::files::Files;
use crate::local_reply::{BodyFormat, BodyKind, LocalReplies, Mapper};

pub(super) fn compile(config: &Config, environment: &mut Environment) -> Result<LocalReplies, Refusal> {
    let files = &mut environment.files;
    let mut mappers = Vec::new();
    for (index, mapper) in config.mappers.iter().enumerate() {
        let at = |refusal: Refusal| refusal.at(format!("local_reply_config.mappers[{index}]"));
        let none = HeaderChanges::default();
        let headers = HeaderChanges { remove: Vec::new(), add: mapper.headers_to_add.clone() };
        let levels = HeaderLevels {
            weighted_cluster: None,
            route: &headers,
            virtual_host: &none,
            configuration: &none,
            most_specific_wins: false,
        };
        mappers.push(Mapper {
            filter: Filter::compile(&mapper.filter),
            status: mapper.status,
            body: mapper.body.as_ref().map(|source| files.load(source)).transpose().map_err(|e| at(e.into()))?,
            format: mapper.body_format.as_ref().map(|f| format(f, files)).transpose().map_err(at)?,
            headers: HeaderPlan::compile(levels).map_err(|error| at(error.into()))?,
        });
    }
    let format = config.body_format.as_ref().map(|f| format(f, files)).transpose();
    Ok(LocalReplies { mappers, format: format.map_err(|r| r.at("local_reply_config.body_format"))? })
}

/// Parses the format of a body.
pub(super) fn format(config: &SubstitutionFormat, files: &mut Files) -> Result<BodyFormat, Refusal> {
    let missing = if config.omit_empty_values { Missing::Empty } else { Missing::Dash };
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).map_err(|_| Refusal("the format is not UTF-8".into()));
    let kind = match &config.template {
        Template::Json(object) => BodyKind::Json(JsonFormat::parse(object, config.omit_empty_values)?),
        Template::Text(text) => BodyKind::Text(Format::parse(text)?, missing),
        Template::Source(source) => BodyKind::Text(Format::parse(&text(files.load(source)?)?)?, missing),
    };
    Ok(BodyFormat { kind, content_type: config.content_type.clone() })
}
