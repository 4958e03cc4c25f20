//! Paths by template: the part of Go's text/template that names fields,
//! `{{.table}}/{{.after.id}}.json`.

use serde_json::Value;

/// What Go writes where there is nothing.
const NO_VALUE: &str = "<no value>";

#[derive(Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    /// Names of fields, from the outside in.
    Field(Vec<String>),
}

/// A template that was understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Template(Vec<TemplatePart>);

impl Template {
    /// Reads a template; anything but fields, blanks to trim (`{{-`, `-}}`) and comments is
    /// refused.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut trim = false;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) =
                after.split_once("}}").ok_or("an action is not closed: }} is missing")?;
            let before = if trim { before.trim_start() } else { before };
            let (before, action) = match action.strip_prefix("- ") {
                Some(action) => (before.trim_end(), action),
                None => (before, action),
            };
            let (action, trims) = match action.strip_suffix(" -") {
                Some(action) => (action, true),
                None => (action, false),
            };
            pieces.push(TemplatePart::Text(before.to_owned()));
            let comment =
                action.trim_start().starts_with("/*") && action.trim_end().ends_with("*/");
            if !comment {
                pieces.push(field(action.trim())?);
            }
            (rest, trim) = (after, trims);
        }
        pieces.push(TemplatePart::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
        pieces.retain(|piece| !matches!(piece, TemplatePart::Text(text) if text.is_empty()));
        Ok(Template(pieces))
    }

    /// The text for `document`; each value goes through `encode`.
    pub fn render(&self, document: &Value, encode: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                TemplatePart::Text(text) => out += text,
                TemplatePart::Field(names) => {
                    out += &encode(&written(
                        names.iter().fold(document, |value, name| &value[name.as_str()]),
                    ));
                }
            }
        }
        out
    }
}

fn field(action: &str) -> Result<TemplatePart, String> {
    let wrong = || {
        format!(
            "{{{{{action}}}}} is not understood: only fields such as {{{{.table}}}} or \
             {{{{.after.id}}}} are"
        )
    };
    let names: Vec<String> =
        action.strip_prefix('.').ok_or_else(wrong)?.split('.').map(str::to_owned).collect();
    let plain = |name: &String| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    if names.iter().all(plain) { Ok(TemplatePart::Field(names)) } else { Err(wrong()) }
}

/// A value as a part of a text. Numbers stay as they are written.
fn written(value: &Value) -> String {
    match value {
        Value::Null => NO_VALUE.into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_are_filled_in() {
        let document = json!({"table": "order", "timestamp": 1_720_732_611_708_i64, "after": {"id": "o1", "paid": true, "note": null}});
        for (template, expected) in [
            ("{{.table}}/received/{{ .after.id }}.json", "order/received/o1.json"),
            ("plain", "plain"),
            ("", ""),
            ("{{.timestamp}}-{{.after.paid}}", "1720732611708-true"),
            ("a  {{- .table -}}  b", "aorderb"),
            ("a{{/* a comment */}}b", "ab"),
            ("{{.missing}}|{{.after.note}}|{{.table.deeper}}", "<no value>|<no value>|<no value>"),
        ] {
            let rendered = Template::parse(template).map(|t| t.render(&document, str::to_owned));
            assert_eq!(rendered.as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for template in [
            "{{.table",
            "{{table}}",
            "{{if .x}}y{{end}}",
            "{{.a | upper}}",
            "{{index .key 0}}",
            "{{.}}",
            "{{.a..b}}",
            "{{.1a}}",
            "{{}}",
        ] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Ok(template) = Template::parse(&text) {
                template.render(&json!({"a": 1}), str::to_owned);
            }
        }
    }
}
