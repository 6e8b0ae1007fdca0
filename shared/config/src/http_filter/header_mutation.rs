//! `envoy.extensions.filters.http.header_mutation.v3`: header, trailer and query parameter changes at a place in the
//! chain.

use proto::envoy::config::core::v3 as core;
use proto::envoy::extensions::filters::http::header_mutation::v3 as pb;

use super::Decode;
use crate::header::HeaderMutation;
use crate::invalid::Problems;

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    pub mutations: Mutations,
    /// Apply the least specific level first, so that the most specific one has the last word.
    pub most_specific_wins: bool,
}

/// The mutations of a route, in addition to those of the chain.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Override(pub Mutations);

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mutations {
    pub request: Vec<HeaderMutation>,
    pub request_trailers: Vec<HeaderMutation>,
    pub response: Vec<HeaderMutation>,
    pub response_trailers: Vec<HeaderMutation>,
    pub query: Vec<QueryMutation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryMutation {
    Remove(String),
    Append { key: String, value: String, action: QueryAction },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryAction {
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

// === decode ===

impl Decode for Config {
    type Proto = pb::HeaderMutation;

    fn decode(proto: &pb::HeaderMutation, p: &mut Problems) -> Option<Self> {
        let mutations = decode_mutations(proto.mutations.as_ref(), p)?;
        Some(Self { mutations, most_specific_wins: proto.most_specific_header_mutations_wins })
    }
}

impl Decode for Override {
    type Proto = pb::HeaderMutationPerRoute;

    fn decode(proto: &pb::HeaderMutationPerRoute, p: &mut Problems) -> Option<Self> {
        decode_mutations(proto.mutations.as_ref(), p).map(Self)
    }
}

fn decode_mutations(proto: Option<&pb::Mutations>, p: &mut Problems) -> Option<Mutations> {
    let Some(proto) = proto else { return Some(Mutations::default()) };
    let before = p.count();
    let mutations = p.at("mutations", |p| {
        let mut list = |name: &str, protos: &[_]| p.each(name, protos, |p, proto| HeaderMutation::decode(proto, p));
        Mutations {
            request: list("request_mutations", &proto.request_mutations),
            request_trailers: list("request_trailers_mutations", &proto.request_trailers_mutations),
            response: list("response_mutations", &proto.response_mutations),
            response_trailers: list("response_trailers_mutations", &proto.response_trailers_mutations),
            query: p.each("query_parameter_mutations", &proto.query_parameter_mutations, |p, m| decode_query(m, p)),
        }
    });
    (p.count() == before).then_some(mutations)
}

fn decode_query(proto: &core::KeyValueMutation, p: &mut Problems) -> Option<QueryMutation> {
    use core::key_value_append::KeyValueAppendAction as Action;
    match (&proto.append, proto.remove.as_str()) {
        (None, "") => {
            p.refuse("append or remove is required");
            None
        }
        (Some(_), remove) if !remove.is_empty() => p.refuse_at("remove", "may not be set beside append"),
        (None, remove) => Some(QueryMutation::Remove(remove.to_owned())),
        (Some(append), _) => p.at("append", |p| {
            let pair = match (&append.record, &append.entry) {
                (Some(_), Some(_)) => return p.refuse_at("entry", "may not be set beside record"),
                (Some(record), None) => {
                    let text = record.value.as_ref().and_then(|value| match &value.kind {
                        Some(prost_types::value::Kind::StringValue(text)) => Some(text.clone()),
                        _ => None,
                    });
                    match text {
                        Some(text) => (record.key.clone(), text),
                        None => return p.refuse_at("record.value", "must be a string"),
                    }
                }
                (None, Some(entry)) => match String::from_utf8(entry.value.to_vec()) {
                    Ok(text) => (entry.key.clone(), text),
                    Err(_) => return p.refuse_at("entry.value", "must be UTF-8"),
                },
                (None, None) => return p.refuse_at("record", "required"),
            };
            let action = match Action::try_from(append.action) {
                Ok(Action::AppendIfExistsOrAdd) => QueryAction::AppendIfExistsOrAdd,
                Ok(Action::AddIfAbsent) => QueryAction::AddIfAbsent,
                Ok(Action::OverwriteIfExistsOrAdd) => QueryAction::OverwriteIfExistsOrAdd,
                Ok(Action::OverwriteIfExists) => QueryAction::OverwriteIfExists,
                Err(_) => return p.refuse_at("action", format!("unknown value {}", append.action)),
            };
            if pair.0.is_empty() {
                return p.refuse_at("record.key", "empty");
            }
            Some(QueryMutation::Append { key: pair.0, value: pair.1, action })
        }),
    }
}
