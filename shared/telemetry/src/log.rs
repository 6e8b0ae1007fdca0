//! Log set-up: level, text or JSON, and a handle that changes levels while the process runs (Envoy's `/logging`).
//!
//! Logs go to standard error. Never an access log: that is not a log of the program.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// What is logged: a level, and levels for parts of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    pub default: Level,
    /// By the start of a module path, such as `dp_upstream`.
    pub targets: BTreeMap<String, Level>,
}

/// A level by Envoy's names; `critical` logs what `error` logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(LevelFilter);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LogError {
    #[error("unknown log level {0:?}: use trace, debug, info, warning, error, critical or off")]
    Level(String),
    #[error("{0:?} is not NAME:LEVEL")]
    Target(String),
    #[error("logging is set up already")]
    Twice,
    #[error("logging has ended")]
    Gone,
}

/// Changes the levels of a running process. Clones share one state.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    levels: Arc<Mutex<Levels>>,
}

/// Sets logging up for the process. The dependencies' own chatter below `warn` is left out unless asked for by name.
pub fn init(format: Format, levels: Levels) -> Result<LogHandle, LogError> {
    let (filter, handle) = reload::Layer::new(levels.to_targets());
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let layer = match format {
        Format::Text => layer.boxed(),
        Format::Json => layer.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(LogHandle { filter: handle, levels: Arc::new(Mutex::new(levels)) })
}

// === impl LogHandle ===

impl LogHandle {
    pub fn levels(&self) -> Levels {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the levels as a whole.
    pub fn set(&self, change: impl FnOnce(&mut Levels)) -> Result<Levels, LogError> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut levels);
        self.filter.reload(levels.to_targets()).map_err(|_| LogError::Gone)?;
        Ok(levels.clone())
    }
}

// === impl Levels ===

impl Levels {
    pub fn new(default: Level) -> Self {
        Self { default, targets: BTreeMap::new() }
    }

    /// Adds `NAME:LEVEL,NAME:LEVEL`, the form of Envoy's `--component-log-level` and `/logging?paths=`.
    pub fn add_targets(&mut self, text: &str) -> Result<(), LogError> {
        let parse = |item: &str| {
            let (name, level) = item.rsplit_once(':').ok_or_else(|| LogError::Target(item.to_owned()))?;
            Ok((name.trim().to_owned(), level.parse()?))
        };
        let parsed: Vec<(String, Level)> =
            text.split(',').filter(|i| !i.trim().is_empty()).map(parse).collect::<Result<_, _>>()?;
        self.targets.extend(parsed);
        Ok(())
    }

    fn to_targets(&self) -> Targets {
        // What libraries say about every frame and packet would drown our own words.
        let quiet = [
            "h2",
            "hyper",
            "hyper_util",
            "rustls",
            "tonic",
            "tower",
            "hickory_proto",
            "hickory_resolver",
            "tokio",
            "mio",
        ];
        let quiet = quiet.map(|name| (name, self.default.0.min(LevelFilter::WARN)));
        let asked = self.targets.iter().map(|(name, level)| (name.clone(), level.0));
        Targets::new().with_default(self.default.0).with_targets(quiet).with_targets(asked)
    }
}

impl std::fmt::Display for Levels {
    /// The body of Envoy's `/logging`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "active loggers:\n  default: {}", self.default)?;
        self.targets.iter().try_for_each(|(name, level)| writeln!(f, "  {name}: {level}"))
    }
}

// === impl Level ===

impl Level {
    pub const INFO: Level = Level(LevelFilter::INFO);
    pub const WARN: Level = Level(LevelFilter::WARN);
    pub const DEBUG: Level = Level(LevelFilter::DEBUG);
}

impl FromStr for Level {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        Ok(Self(match text.trim() {
            "trace" => LevelFilter::TRACE,
            "debug" => LevelFilter::DEBUG,
            "info" => LevelFilter::INFO,
            "warning" | "warn" => LevelFilter::WARN,
            "error" | "critical" => LevelFilter::ERROR,
            "off" => LevelFilter::OFF,
            _ => return Err(LogError::Level(text.to_owned())),
        }))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            LevelFilter::TRACE => "trace",
            LevelFilter::DEBUG => "debug",
            LevelFilter::INFO => "info",
            LevelFilter::WARN => "warning",
            LevelFilter::ERROR => "error",
            LevelFilter::OFF => "off",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_envoys_names() {
        for name in ["trace", "debug", "info", "warning", "error", "off"] {
            assert_eq!(name.parse::<Level>().unwrap().to_string(), name);
        }
        assert_eq!("loud".parse::<Level>(), Err(LogError::Level("loud".into())));
    }

    #[test]
    fn a_wrong_list_of_targets_changes_nothing() {
        let mut levels = Levels::new(Level::INFO);
        assert_eq!(levels.add_targets("dp_upstream:debug,dp_http"), Err(LogError::Target("dp_http".into())));
        assert!(levels.targets.is_empty());
        levels.add_targets("dp_upstream:debug, dp_http:off").unwrap();
        assert_eq!(levels.to_string(), "active loggers:\n  default: info\n  dp_http: off\n  dp_upstream: debug\n");
        assert!(levels.to_targets().would_enable("dp_upstream::pool", &tracing::Level::DEBUG));
        assert!(!levels.to_targets().would_enable("h2::codec", &tracing::Level::INFO));
    }
}
