//! Stub.
use crate::stream::{Reset, StreamError, WireSizes};
use crate::{Frame, Headers, RequestHead, ResponseHead};
use bytes::Bytes;
use std::task::{Context, Poll};
pub struct ClientStream(std::convert::Infallible);
impl ClientStream {
    pub fn poll_body(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match self.0 {}
    }
    pub fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self.0 {}
    }
    pub fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self.0 {}
    }
    pub fn send_data(&mut self, _: Bytes, _: bool) -> Result<(), StreamError> {
        match self.0 {}
    }
    pub fn send_trailers(&mut self, _: &Headers) -> Result<(), StreamError> {
        match self.0 {}
    }
    pub fn upgrade(&mut self) {
        match self.0 {}
    }
    pub fn reset(&mut self, _: Reset) {
        match self.0 {}
    }
    pub fn sizes(&self) -> WireSizes {
        match self.0 {}
    }
    pub fn is_response_complete(&self) -> bool {
        match self.0 {}
    }
    pub fn send_head(&mut self, _: &RequestHead, _: bool) -> Result<(), StreamError> {
        match self.0 {}
    }
    pub fn poll_head(&mut self, _: &mut Context<'_>) -> Poll<Result<ResponseHead, StreamError>> {
        match self.0 {}
    }
}
