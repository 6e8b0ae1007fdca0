//! Access logs: what a line says, whether there is one, and where it goes.
//!
//! Compiled once with a snapshot. Writing a line makes no system call and takes no lock.

use std::sync::Arc;

use dp_format::{DEFAULT_LINE, Format, FormatError, Inputs, JsonFormat, Missing};
use dp_http::{RequestHead, ResponseHead, StreamInfo};
use shared_config::access_log as config;
use shared_config::core::DataSource;
use shared_config::substitution::{SubstitutionFormat, Template};

mod filter;
pub mod writer;

pub use filter::{Filter, Subject};
use writer::{LogOutput, LogWriter, Place};

/// A compiled access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    filter: Option<Filter>,
    line: Arc<Line>,
    output: LogOutput,
}

#[derive(Debug)]
enum Line {
    Text { format: Format, missing: Missing },
    Json(JsonFormat),
}

#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    #[error("log_format: {0}")]
    Format(#[from] FormatError),
    #[error("log_format: cannot read {place}: {source}")]
    Source { place: String, source: std::io::Error },
    #[error("cannot open {path} for appending: {source}")]
    Open { path: String, source: std::io::Error },
}

// === impl AccessLog ===

impl AccessLog {
    /// Compiles a log and opens its file, so that one that cannot be written is refused with the configuration.
    pub fn compile(config: &config::AccessLog, writer: &LogWriter) -> Result<Self, AccessLogError> {
        let line = compile_line(config.format.as_ref())?;
        let place = match &config.sink {
            config::Sink::File(path) => Place::File(path.into()),
            config::Sink::Stdout => Place::Stdout,
            config::Sink::Stderr => Place::Stderr,
        };
        let output = writer.open(&place).map_err(|source| {
            let path = if let config::Sink::File(path) = &config.sink { path.clone() } else { String::new() };
            AccessLogError::Open { path, source }
        })?;
        let filter = config.filter.as_ref().map(Filter::compile);
        Ok(Self { filter, line: Arc::new(line), output })
    }

    /// Writes the line of a request that was answered, without what only a stream through the proxy has.
    pub fn log_exchange(&self, info: &StreamInfo, request: &RequestHead, response: &ResponseHead) {
        let inputs =
            Inputs { info, request: Some(request), response: Some(response), trailers: None, local_reply_body: "" };
        self.log(&inputs, 0);
    }

    /// Writes the line of a request or connection that ended, unless the filter says no. `random` is drawn once a
    /// request, for logs of a share of them.
    pub fn log(&self, inputs: &Inputs<'_>, random: u64) {
        let subject = Subject { info: inputs.info, request: inputs.request, random };
        if self.filter.as_ref().is_some_and(|filter| !filter.admits(subject)) {
            return;
        }
        self.output.line(|text| match &*self.line {
            Line::Text { format, missing } => format.write_with(inputs, *missing, text),
            Line::Json(format) => {
                format.write(inputs, text);
                text.push('\n');
            }
        });
    }
}

fn compile_line(config: Option<&SubstitutionFormat>) -> Result<Line, AccessLogError> {
    let Some(config) = config else {
        return Ok(Line::Text { format: Format::parse(DEFAULT_LINE)?, missing: Missing::Dash });
    };
    let missing = if config.omit_empty_values { Missing::Empty } else { Missing::Dash };
    let text = match &config.template {
        Template::Json(object) => return Ok(Line::Json(JsonFormat::parse(object, config.omit_empty_values)?)),
        Template::Text(text) => text.clone(),
        Template::Source(source) => read(source)?,
    };
    Ok(Line::Text { format: Format::parse(&text)?, missing })
}

/// A format from a file or an environment variable is read once, when the snapshot compiles.
fn read(source: &DataSource) -> Result<String, AccessLogError> {
    let invalid = |_| std::io::Error::from(std::io::ErrorKind::InvalidData);
    let (place, text) = match source {
        DataSource::Inline(bytes) => (
            "the inline text".to_owned(),
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|e| invalid(e.to_string())),
        ),
        DataSource::File { path, .. } => (path.display().to_string(), std::fs::read_to_string(path)),
        DataSource::Environment(name) => {
            (format!("the variable {name}"), std::env::var(name).map_err(|error| invalid(error.to_string())))
        }
    };
    text.map_err(|source| AccessLogError::Source { place, source })
}

#[cfg(test)]
mod tests;
