//! ConfigService, whatever the wire: requests in, answers or failures out.

use std::sync::Arc;

use cp_model::{Attachments, Kind, Source};
use cp_pipeline::{Applied, Author, Change, Options, Pipeline, Refused};
use proto::json::Secrets;
use proto::weir::management::v1 as pb;

use crate::auth::Caller;
use crate::convert::{change, kind, objects, revision, revision_or_none, warning};
use crate::failure::{Failure, short};
use crate::redact;

const MAX_MESSAGE: usize = 1024;
const MAX_FILE_NAME: usize = 1024;
const MAX_TAG: usize = 100;
const MAX_TEXT: usize = 16 << 20;
const MAX_ATTACHMENT: usize = 1 << 20;

#[derive(Clone)]
pub struct ConfigCore {
    pub(crate) pipeline: Arc<Pipeline>,
}

impl ConfigCore {
    pub fn new(pipeline: Arc<Pipeline>) -> Self {
        ConfigCore { pipeline }
    }

    pub(crate) async fn apply(self, caller: Caller, r: pb::ApplyRequest) -> Result<pb::ApplyResponse, Failure> {
        let change = from_set(r.change.unwrap_or_default())?;
        let applied = self.write(&caller, "apply", change, options(r.validate_only, r.etag, r.message)?).await?;
        Ok(pb::ApplyResponse {
            revision: revision_or_none(applied.revision.as_ref()),
            changes: applied.changes.iter().map(|c| self::change(c, false)).collect(),
            warnings: applied.warnings.iter().map(warning).collect(),
        })
    }

    pub(crate) async fn delete(self, caller: Caller, r: pb::DeleteRequest) -> Result<pb::DeleteResponse, Failure> {
        let mut objects = Vec::new();
        for object in r.objects {
            let kind = kind(object.kind)?.ok_or_else(|| Failure::request("objects.kind", "is missing"))?;
            objects.push((kind, object.name));
        }
        if objects.is_empty() {
            return Err(Failure::request("objects", "is empty"));
        }
        let change = Change::Delete { objects, allow_missing: r.allow_missing };
        let applied = self.write(&caller, "delete", change, options(r.validate_only, r.etag, r.message)?).await?;
        Ok(pb::DeleteResponse {
            revision: revision_or_none(applied.revision.as_ref()),
            changes: applied.changes.iter().map(|c| self::change(c, false)).collect(),
        })
    }

    pub(crate) async fn rollback(
        self,
        caller: Caller,
        r: pb::RollbackRequest,
    ) -> Result<pb::RollbackResponse, Failure> {
        if r.id == 0 {
            return Err(Failure::request("id", "is missing"));
        }
        let change = Change::Rollback { id: r.id };
        let applied = self.write(&caller, "rollback", change, options(r.validate_only, r.etag, r.message)?).await?;
        Ok(pb::RollbackResponse {
            revision: revision_or_none(applied.revision.as_ref()),
            changes: applied.changes.iter().map(|c| self::change(c, false)).collect(),
        })
    }

    /// Every write goes through here, and leaves a line in the audit log whatever came of it.
    async fn write(&self, caller: &Caller, what: &str, change: Change, options: Options) -> Result<Applied, Failure> {
        let dry = options.validate_only;
        let outcome = self.pipeline.apply(&Author(caller.name.clone()), change, options).await;
        match &outcome {
            Ok(applied) => tracing::info!(
                target: "audit", caller = caller.name, role = %caller.role, what, dry,
                revision = applied.revision.as_ref().map_or(0, |r| r.id), changes = applied.changes.len(), "accepted"
            ),
            Err(refused) => {
                let refused = short(&refused.to_string());
                tracing::warn!(target: "audit", caller = caller.name, role = %caller.role, what, dry, refused, "refused");
            }
        }
        Ok(outcome?)
    }

    pub(crate) async fn get(self, caller: Caller, r: pb::GetRequest) -> Result<pb::GetResponse, Failure> {
        let kind = kind(r.kind)?.ok_or_else(|| Failure::request("kind", "is missing"))?;
        let state = self.pipeline.state(r.revision).await?;
        let draft = redact::shown(&caller, state.draft);
        let wanted = crate::convert::kind_to_pb(kind) as i32;
        let object = objects(&draft).into_iter().find(|o| o.kind == wanted && o.name == r.name);
        let object = object.ok_or_else(|| Refused::no_object(&draft, kind, &r.name))?;
        Ok(pb::GetResponse { object: Some(object), revision: revision_or_none(state.header.as_ref()) })
    }

    pub(crate) async fn list(self, caller: Caller, r: pb::ListRequest) -> Result<pb::ListResponse, Failure> {
        let wanted = kind(r.kind)?.map(|k: Kind| crate::convert::kind_to_pb(k) as i32);
        let state = self.pipeline.state(r.revision).await?;
        let skip: usize = token(&r.page_token)?;
        let size = page(r.page_size, 1000, 10_000);
        let all = objects(&redact::shown(&caller, state.draft));
        let fitting: Vec<_> = all.into_iter().filter(|o| wanted.is_none_or(|k| k == o.kind)).collect();
        let next = if fitting.len() > skip.saturating_add(size) { (skip + size).to_string() } else { String::new() };
        let objects = fitting.into_iter().skip(skip).take(size).collect();
        Ok(pb::ListResponse { objects, revision: revision_or_none(state.header.as_ref()), next_page_token: next })
    }

    pub(crate) async fn diff(self, r: pb::DiffRequest) -> Result<pb::DiffResponse, Failure> {
        let (from, changes, warnings) = match r.change {
            Some(set) => self.pipeline.preview(&from_set(set)?, r.envoy).await?,
            None => {
                if r.from_revision == 0 {
                    return Err(Failure::request("from_revision", "is missing, and so is `change`"));
                }
                let (from, changes) = self.pipeline.compare(r.from_revision, r.to_revision, r.envoy).await?;
                (from, changes, Vec::new())
            }
        };
        Ok(pb::DiffResponse {
            changes: changes.iter().map(|c| change(c, true)).collect(),
            from: revision_or_none(from.header.as_ref()),
            warnings: warnings.iter().map(warning).collect(),
        })
    }

    pub(crate) async fn list_revisions(
        &self,
        r: pb::ListRevisionsRequest,
    ) -> Result<pb::ListRevisionsResponse, Failure> {
        let size = page(r.page_size, 50, 1000);
        let headers = self.pipeline.revisions(token(&r.page_token)?, size).await?;
        let next = match headers.last() {
            Some(last) if headers.len() == size && last.id > 1 => last.id.to_string(),
            _ => String::new(),
        };
        Ok(pb::ListRevisionsResponse { revisions: headers.iter().map(revision).collect(), next_page_token: next })
    }

    pub(crate) async fn get_revision(
        self,
        caller: Caller,
        r: pb::GetRevisionRequest,
    ) -> Result<pb::GetRevisionResponse, Failure> {
        let state = self.pipeline.state(r.id).await?;
        Ok(pb::GetRevisionResponse {
            revision: revision_or_none(state.header.as_ref()),
            objects: objects(&redact::shown(&caller, state.draft)),
        })
    }

    pub(crate) async fn export(self, caller: Caller, r: pb::ExportRequest) -> Result<pb::ExportResponse, Failure> {
        use pb::export_request::Format;
        let state = self.pipeline.state(r.revision).await?;
        let format = Format::try_from(r.format).map_err(|_| Failure::request("format", "is not a format"))?;
        let text = match format {
            Format::Unspecified => cp_model::node::Node::yaml(&redact::shown(&caller, state.draft).to_json()),
            Format::EnvoyYaml | Format::EnvoyJson => {
                // Attachments are inside these resources, so keys are left out for everybody.
                let wire = self.pipeline.wire(&state.draft, Secrets::Redacted)?;
                let resources: Vec<_> = wire.into_iter().map(|(_, value)| value).collect();
                let document = serde_json::json!({ "resources": resources });
                if format == Format::EnvoyYaml { proto::json::value_to_yaml(&document) } else { document.to_string() }
            }
        };
        Ok(pb::ExportResponse { text, revision: revision_or_none(state.header.as_ref()) })
    }
}

fn options(validate_only: bool, etag: String, message: String) -> Result<Options, Failure> {
    if message.len() > MAX_MESSAGE {
        return Err(Failure::request("message", format!("is longer than {MAX_MESSAGE} bytes")));
    }
    Ok(Options { validate_only, etag: (!etag.is_empty()).then_some(etag), message })
}

fn from_set(set: pb::ChangeSet) -> Result<Change, Failure> {
    let total: usize = set.sources.iter().map(|s| s.text.len()).sum();
    if total > MAX_TEXT {
        return Err(Failure::request("change.sources", format!("are longer than {MAX_TEXT} bytes together")));
    }
    if set.sources.iter().any(|s| s.file_name.len() > MAX_FILE_NAME) {
        return Err(Failure::request("change.sources.file_name", format!("is longer than {MAX_FILE_NAME} bytes")));
    }
    if set.select_tag.len() > MAX_TAG || set.select_tag.chars().any(char::is_control) {
        let reason = format!("is longer than {MAX_TAG} bytes, or has control characters");
        return Err(Failure::request("change.select_tag", reason));
    }
    let mut attachments = Attachments::new();
    for (reference, content) in set.attachments {
        let field = format!("change.attachments[{reference}]");
        if content.len() > MAX_ATTACHMENT {
            return Err(Failure::request(&field, format!("is longer than {MAX_ATTACHMENT} bytes")));
        }
        let text = String::from_utf8(content.to_vec()).map_err(|_| Failure::request(&field, "is not text (PEM)"))?;
        attachments.insert(reference, text);
    }
    let sources = set.sources.into_iter().map(|s| Source { file: s.file_name, text: s.text }).collect();
    Ok(Change::Apply { sources, resources: set.resources, attachments, prune: set.prune, tag: set.select_tag })
}

fn page(asked: u32, default: usize, most: usize) -> usize {
    if asked == 0 { default } else { (asked as usize).min(most) }
}

fn token<T: std::str::FromStr + Default>(text: &str) -> Result<T, Failure> {
    if text.is_empty() {
        return Ok(T::default());
    }
    text.parse().map_err(|_| Failure::request("page_token", "is none of ours"))
}
