//! Reads requests with an opaque node and writes responses of bytes that were encoded before.

use bytes::Buf;
use prost::Message;
use shared_xds::Protocol;
use shared_xds::wire::{Request, Response};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// The codec of a discovery stream of either variant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XdsCodec(pub(crate) Protocol);

impl Codec for XdsCodec {
    type Encode = Response;
    type Decode = Request;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for XdsCodec {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(response.encoded_len());
        response.encode(out);
        Ok(())
    }
}

impl Decoder for XdsCodec {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        // One contiguous buffer, so that the node is a slice of it.
        let bytes = input.copy_to_bytes(input.remaining());
        let request = match self.0 {
            Protocol::Sotw => Message::decode(bytes).map(Request::Sotw),
            Protocol::Delta => Message::decode(bytes).map(Request::Delta),
        };
        request.map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
