//! `google.protobuf.Any` with shared bytes, so that a resource is never copied on its way through.

use bytes::Bytes;
use prost::Name;

/// A message of any type, still encoded (google/protobuf/any.proto).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Any {
    /// `type.googleapis.com/` and the full name of the message; only the part after the last `/` counts.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl Name for Any {
    const NAME: &'static str = "Any";
    const PACKAGE: &'static str = "google.protobuf";
}

impl Any {
    /// Encodes `message` under its own type URL.
    pub fn pack<M: Name>(message: &M) -> Self {
        Self { type_url: M::type_url(), value: message.encode_to_vec().into() }
    }

    /// The full message name: what follows the last `/` of the type URL.
    pub fn type_name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }

    /// Whether this holds an `M`.
    pub fn is<M: Name>(&self) -> bool {
        self.type_name() == M::full_name()
    }

    /// Decodes an `M`; `None` when this holds another type.
    ///
    /// # Errors
    /// The bytes are not an encoded `M`.
    pub fn unpack<M: Name + Default>(&self) -> Option<Result<M, prost::DecodeError>> {
        self.is::<M>().then(|| M::decode(self.value.clone()))
    }
}
