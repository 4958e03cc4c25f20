//! Log lines as JSON objects: with our own fields, and with those of the Go program beside them, so
//! that whoever reads its logs reads these too.

use std::fmt;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::clock;

/// Writes an event as one JSON object: `timestamp`, `level`, `fields` and `target` as they always
/// were; `message`, `severity` and `component` by the Go program's names.
pub struct JsonLines {
    /// What the line is about, in brackets before it where lines are for people.
    pub label: Option<String>,
}

/// The fields of an event.
#[derive(Default)]
struct EventFields(Map<String, Value>);

impl Visit for EventFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

/// The Go program's name of a level.
fn severity(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let now = jiff::Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
        let mut line = json!({
            "timestamp": format!("{now:.3}"),
            "level": level.as_str(),
            "severity": severity(level),
            "message": fields.0.get("message").cloned().unwrap_or_else(|| "".into()),
            "fields": fields.0,
            "target": target,
        });
        if let Some(label) = &self.label {
            line["component"] = label.as_str().into();
        }
        writeln!(to, "{line}")
    }
}
