//! Questions about revisions. Nothing here writes.

use std::collections::BTreeMap;

use cp_model::{Draft, Kind, Problem};
use cp_store::Header;
use proto::json::Secrets;
use serde_json::Value;

use crate::apply::{Change, Compiled, Pipeline, Refused, compile, draft_of};
use crate::change::{Action, ObjectChange, changes};

/// One revision, readable.
#[derive(Debug, Clone)]
pub struct State {
    /// None: the empty configuration before the first revision.
    pub header: Option<Header>,
    pub draft: Draft,
}

impl Pipeline {
    /// A revision; 0 = the newest.
    pub async fn state(&self, id: u64) -> Result<State, Refused> {
        let revision = match id {
            0 => self.store.head().await?,
            id => Some(self.store.get(id).await?.ok_or(Refused::NoRevision(id))?),
        };
        let draft = draft_of(revision.as_deref())?;
        Ok(State { header: revision.map(|r| r.header.clone()), draft })
    }

    pub async fn revisions(&self, before: u64, limit: usize) -> Result<Vec<Header>, Refused> {
        Ok(self.store.list(before, limit).await?)
    }

    /// What a change would make different, and what is suspicious in it.
    pub async fn preview(
        &self,
        change: &Change,
        envoy: bool,
    ) -> Result<(State, Vec<ObjectChange>, Vec<Problem>), Refused> {
        let old = self.state(0).await?;
        let (new, _) = self.onto(&old.draft, change).await?;
        let compiled = compile(&new, &self.groups)?;
        let changes = if envoy { self.wire_changes(&old.draft, &new) } else { Ok(changes(&old.draft, &new)) }?;
        Ok((old, changes, compiled.checked.warnings))
    }

    pub async fn compare(&self, from: u64, to: u64, envoy: bool) -> Result<(State, Vec<ObjectChange>), Refused> {
        let (old, new) = (self.state(from).await?, self.state(to).await?);
        let changes = if envoy { self.wire_changes(&old.draft, &new.draft)? } else { changes(&old.draft, &new.draft) };
        Ok((old, changes))
    }

    /// The Envoy resources of a draft for proxies, as they are published.
    pub fn resources(&self, draft: &Draft) -> Result<Vec<proto::Any>, Refused> {
        let compiled: Compiled = compile(draft, &self.groups)?;
        let proxies = compiled.resources.into_iter().filter(|r| r.audience != cp_translate::Audience::Grpc);
        Ok(proxies.map(|r| r.any).collect())
    }

    /// The Envoy resources of a draft, as JSON.
    pub fn wire(&self, draft: &Draft, secrets: Secrets) -> Result<Vec<(String, Value)>, Refused> {
        let compiled: Compiled = compile(draft, &self.groups)?;
        let proxies = compiled.resources.into_iter().filter(|r| r.audience != cp_translate::Audience::Grpc);
        let named = |r: cp_translate::Resource| {
            let message = r.type_url().rsplit('.').next().unwrap_or_default().to_owned();
            let value = proto::json::to_value(&r.any, secrets).unwrap_or(Value::Null);
            (format!("{message}/{}", r.name), value)
        };
        Ok(proxies.map(named).collect())
    }

    /// With what is secret in it, so that a change of nothing else is one too.
    fn wire_changes(&self, old: &Draft, new: &Draft) -> Result<Vec<ObjectChange>, Refused> {
        // An old revision that is no longer accepted has no resources to compare with.
        let mut before: BTreeMap<String, Value> =
            self.wire(old, Secrets::Shown).unwrap_or_default().into_iter().collect();
        let mut out = Vec::new();
        for (name, value) in self.wire(new, Secrets::Shown)? {
            let was = before.remove(&name);
            let action = match &was {
                Some(was) if *was == value => continue,
                Some(_) => Action::Changed,
                None => Action::Added,
            };
            out.push(ObjectChange { action, kind: Kind::Envoy, name, before: was, after: Some(value) });
        }
        let removed = |(name, value)| ObjectChange {
            action: Action::Removed,
            kind: Kind::Envoy,
            name,
            before: Some(value),
            after: None,
        };
        out.extend(before.into_iter().map(removed));
        Ok(out)
    }
}
