//! Where words go: data to stdout, people's words to stderr. The only place that prints.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where the command line prints")]

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use cp_model::Problem;
use serde_json::Value;

use crate::failure::Failure;
use crate::flags::{Global, Output};

#[derive(Debug, Clone)]
pub(crate) struct Out {
    pub(crate) output: Output,
    quiet: bool,
    /// Colours on stdout, on stderr.
    colours: (bool, bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Good,
    Bad,
    Caution,
    Strong,
    Faint,
}

impl Paint {
    fn style(self) -> Style {
        match self {
            Paint::Good => AnsiColor::Green.on_default(),
            Paint::Bad => AnsiColor::Red.on_default().bold(),
            Paint::Caution => AnsiColor::Yellow.on_default(),
            Paint::Strong => Style::new().bold(),
            Paint::Faint => Style::new().dimmed(),
        }
    }
}

impl Out {
    pub(crate) fn new(global: &Global) -> Self {
        let wanted = !global.no_color && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let colours = (wanted && std::io::stdout().is_terminal(), wanted && std::io::stderr().is_terminal());
        Out { output: global.output, quiet: global.quiet, colours }
    }

    /// Data, as it is, with a line end.
    pub(crate) fn data(&self, text: &str) {
        // A reader that went away wants no more: that is its business, not a failure of ours.
        let _ = writeln!(std::io::stdout().lock(), "{}", text.strip_suffix('\n').unwrap_or(text));
    }

    pub(crate) fn json(&self, value: &Value) {
        self.data(&serde_json::to_string_pretty(value).expect("a JSON value has only texts as keys"));
    }

    pub(crate) fn yaml(&self, value: &Value) {
        self.data(&proto::json::value_to_yaml(value));
    }

    /// A value in the machine's format that was asked for; false if a person asks.
    pub(crate) fn machine(&self, value: &Value) -> bool {
        match self.output {
            Output::Json => self.json(value),
            Output::Yaml => self.yaml(value),
            _ => return false,
        }
        true
    }

    /// Columns without lines, as kubectl has them.
    pub(crate) fn table(&self, head: &[&str], rows: Vec<Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
        rows.into_iter().for_each(|row| {
            table.add_row(row);
        });
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        self.data(&table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n"));
    }

    /// For people; not with -q.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    /// For people, always.
    pub(crate) fn say(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    pub(crate) fn error(&self, text: &str) {
        self.say(&format!("{} {text}", self.paint_note("error:", Paint::Bad)));
    }

    pub(crate) fn problem(&self, problem: &Problem, paint: Paint) {
        let text = problem.to_string();
        let place = problem.place.to_string();
        let word = if paint == Paint::Caution { "warning: " } else { "" };
        match text.strip_prefix(&place) {
            Some(rest) => self.say(&format!("{word}{}{rest}", self.paint_note(&place, paint))),
            None => self.say(&format!("{word}{text}")),
        }
    }

    pub(crate) fn warnings(&self, warnings: &[Problem]) {
        if !self.quiet {
            warnings.iter().for_each(|w| self.problem(w, Paint::Caution));
        }
    }

    /// `text` in a colour, for stdout.
    pub(crate) fn paint(&self, text: &str, paint: Paint) -> String {
        painted(text, paint, self.colours.0)
    }

    /// `text` in a colour, for stderr.
    pub(crate) fn paint_note(&self, text: &str, paint: Paint) -> String {
        painted(text, paint, self.colours.1)
    }
}

fn painted(text: &str, paint: Paint, on: bool) -> String {
    let style = paint.style();
    if on { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// A message of ours as JSON: the same form as the REST API has.
pub(crate) fn message<M: prost::Name>(message: &M) -> Result<Value, Failure> {
    proto::json::message_to_value(message).map_err(|e| Failure::refused(e.to_string()))
}
