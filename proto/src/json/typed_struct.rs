//! `TypedStruct`: a configuration said as JSON inside a proto, for a type that the sender does not have compiled in.

use std::borrow::Cow;

use bytes::Bytes;
use prost::Message;

use super::write::struct_to_value;
use super::{JsonError, Mode, encode};
use crate::Any;

/// The message that `any` means: itself, or what the `TypedStruct` in it describes.
///
/// # Errors
/// The `TypedStruct` is broken, names an unknown type or does not describe such a message.
pub fn unwrap_typed_struct(any: &Any) -> Result<Cow<'_, Any>, JsonError> {
    let (type_url, value) = match any.type_name() {
        "xds.type.v3.TypedStruct" => {
            let typed: crate::xds::r#type::v3::TypedStruct = decode(any)?;
            (typed.type_url, typed.value)
        }
        "udpa.type.v1.TypedStruct" => {
            let typed: crate::udpa::r#type::v1::TypedStruct = decode(any)?;
            (typed.type_url, typed.value)
        }
        _ => return Ok(Cow::Borrowed(any)),
    };
    let type_name = type_url.rsplit('/').next().unwrap_or_default();
    let value = struct_to_value(value.unwrap_or_default());
    let value = Bytes::from(encode(type_name, &value, Mode::Lenient)?);
    Ok(Cow::Owned(Any { type_url, value }))
}

fn decode<M: Message + Default>(any: &Any) -> Result<M, JsonError> {
    M::decode(any.value.clone()).map_err(|source| JsonError::Broken { type_name: any.type_name().to_owned(), source })
}
