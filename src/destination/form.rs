//! The form by which HQ asks for a destination: its fields, and how the answers become a URL. Each
//! driver has its own fields and builds its own URL; this is what they share.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Driver, SchemaMode, Settings};

/// What stays as it is in a part of a URL: RFC 3986's unreserved characters.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a field takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// Any text without control characters.
    Text,
    /// The same, which HQ does not show.
    Password,
    /// A port: a number from 1 to 65535.
    Port,
}

/// One entry of the form.
#[derive(Clone, Copy, Debug)]
pub struct FormField {
    /// Its name, by which HQ shows it and sends the answer.
    pub name: &'static str,
    /// What it takes.
    pub kind: FieldKind,
    /// What counts where nothing is filled in.
    pub default: Option<&'static str>,
    /// One line for the person who fills it in.
    pub description: &'static str,
    /// Whether something has to be filled in.
    pub required: bool,
}

impl FormField {
    /// A text that may be left out.
    pub const fn text(name: &'static str, description: &'static str) -> FormField {
        FormField { name, kind: FieldKind::Text, default: None, description, required: false }
    }

    /// A secret that may be left out.
    pub const fn password(name: &'static str, description: &'static str) -> FormField {
        FormField { kind: FieldKind::Password, ..FormField::text(name, description) }
    }

    /// A port, with the one that is usual.
    pub const fn port(default: &'static str, description: &'static str) -> FormField {
        let field = FormField::text("Port", description);
        FormField { kind: FieldKind::Port, default: Some(default), ..field }
    }

    /// The same field, which has to be filled in.
    pub const fn required(self) -> FormField {
        FormField { required: true, ..self }
    }
}

/// What HQ sends: the answers by the field's name, as JSON values.
pub type Filled = BTreeMap<String, Value>;

/// What is wrong with one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// What is wrong, for the person who filled it in.
    pub error: String,
}

impl FieldError {
    /// An error about the field `field`.
    pub fn new(field: &str, error: impl Into<String>) -> FieldError {
        FieldError { field: field.to_owned(), error: error.into() }
    }
}

/// The answers as text, checked against their fields: of the required fields each has one.
pub struct Answers(BTreeMap<&'static str, String>);

impl Answers {
    /// Checks what was filled in for `fields`; the errors are in the order of the fields.
    fn read(fields: &[FormField], filled: &Filled) -> Result<Answers, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut answers = BTreeMap::new();
        for field in fields {
            let mut wrong = |error: &str| errors.push(FieldError::new(field.name, error));
            let is_port = |text: &str| text.parse::<u16>().is_ok_and(|number| number > 0);
            match answer(filled, field) {
                None if field.required => wrong("it is required"),
                Some(text) if field.kind == FieldKind::Port && !is_port(&text) => {
                    wrong("it is a number from 1 to 65535");
                }
                Some(text) if text.contains(char::is_control) => wrong("it has control characters"),
                Some(text) => drop(answers.insert(field.name, text)),
                None => {}
            }
        }
        if errors.is_empty() { Ok(Answers(answers)) } else { Err(errors) }
    }

    /// The answer, trimmed; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The answer as a part of a URL.
    pub fn encoded(&self, name: &str) -> String {
        encoded(self.get(name))
    }
}

fn answer(filled: &Filled, field: &FormField) -> Option<String> {
    let given = match filled.get(field.name) {
        Some(Value::String(text)) => Some(text.trim().to_owned()),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(Value::Bool(flag)) => Some(flag.to_string()),
        _ => None,
    };
    given.filter(|text| !text.is_empty()).or_else(|| field.default.map(str::to_owned))
}

/// The URL of the destination that `filled` describes, or what is wrong with which field.
pub fn url_of(driver: &Driver, filled: &Filled) -> Result<String, Vec<FieldError>> {
    let answers = Answers::read(driver.fields, filled)?;
    (driver.url_of_form)(driver.scheme, &answers).map_err(|error| vec![error])
}

/// `text` as one part of a URL: everything but RFC 3986's unreserved characters is
/// percent-encoded.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// A path whose parts are each encoded by themselves.
pub fn encoded_path(text: &str) -> String {
    text.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

/// A host as it stands in a URL: an IPv6 address in brackets.
pub fn encoded_host(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { encoded(host) }
}

/// `{metadata, fields}` of a driver, as HQ shows it.
pub fn shown(driver: &Driver) -> Value {
    let fields: Vec<Value> = driver.fields.iter().map(field).collect();
    // A form is shown before there is a URL, so what the driver can do without options counts.
    let abilities = (driver.abilities)(&Settings::without_options(driver));
    json!({
        "metadata": {
            "scheme": driver.scheme,
            "name": driver.title,
            "description": driver.description,
            "exampleURL": driver.example,
            "help": driver.help,
            "supportsImport": true,
            "supportsMigration": abilities.schema_mode == SchemaMode::Managed,
        },
        "fields": fields,
    })
}

fn field(field: &FormField) -> Value {
    let mut shown = json!({
        "name": field.name,
        "type": if field.kind == FieldKind::Port { "number" } else { "string" },
        "description": field.description,
        "required": field.required,
    });
    if field.kind == FieldKind::Password {
        shown["format"] = "password".into();
    }
    if let Some(default) = field.default {
        shown["default"] = default.into();
    }
    shown
}
