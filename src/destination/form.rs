//! The form by which HQ asks for a destination: its fields, and the URL that they come to.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Driver, SchemaMode};

/// What stays as it is in a part of a URL.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    Text,
    Password,
    Number,
}

/// One entry of the form.
#[derive(Clone, Copy, Debug)]
pub struct FormField {
    pub name: &'static str,
    pub kind: FieldKind,
    pub default: Option<&'static str>,
    pub description: &'static str,
    pub required: bool,
}

/// What a person filled in, by field.
pub type Filled = BTreeMap<String, Value>;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldError {
    pub field: String,
    pub error: String,
}

const fn text(name: &'static str, description: &'static str, required: bool) -> FormField {
    FormField { name, kind: FieldKind::Text, default: None, description, required }
}

/// A database on a server, at its usual port.
pub const fn database(port: &'static str) -> [FormField; 5] {
    [
        text("Database", "The name of the database", true),
        text("Username", "The user to log in as", false),
        FormField {
            name: "Password",
            kind: FieldKind::Password,
            default: None,
            description: "That user's password",
            required: false,
        },
        text("Hostname", "The host of the database server, by name or address", true),
        FormField {
            name: "Port",
            kind: FieldKind::Number,
            default: Some(port),
            description: "The port of the database server",
            required: false,
        },
    ]
}

/// A database of Snowflake, by user and password.
pub const WAREHOUSE: [FormField; 4] = [
    text("Database", "The name of the database", true),
    text("Username", "The user to log in as", false),
    FormField {
        name: "Password",
        kind: FieldKind::Password,
        default: None,
        description: "That user's password",
        required: false,
    },
    text("Hostname", "The account, or the host that it is reached at", true),
];

/// A database of Snowflake, by key pair.
pub const WAREHOUSE_BY_KEY: [FormField; 4] = [
    text("Database", "Database and schema: DATABASE/SCHEMA", true),
    text("Username", "The user to log in as", true),
    text("Account", "The account: organisation-account", true),
    FormField {
        name: "Secret",
        kind: FieldKind::Text,
        default: Some("SNOWFLAKE_SECRET_ACCESS_KEY"),
        description: "The environment variable of the server that holds the user's private key \
                      (PKCS#8, PEM)",
        required: false,
    },
];

/// A bucket of S3, or of what speaks its protocol.
pub const BUCKET: [FormField; 6] = [
    text("Bucket", "The name of the bucket", true),
    text("Prefix", "The folder in the bucket", false),
    text("Region", "The region of the bucket", false),
    text(
        "Access Key ID",
        "The name of the access key; without it the machine's own role is used",
        false,
    ),
    FormField {
        name: "Secret Access Key",
        kind: FieldKind::Password,
        default: None,
        description: "The access key",
        required: false,
    },
    text("Endpoint", "The host of the service, if it is not Amazon's", false),
];

/// A topic of a cluster.
pub const TOPIC: [FormField; 3] = [
    text("Hostname", "The host of a broker; of several, with ports, separated by commas", true),
    FormField {
        name: "Port",
        kind: FieldKind::Number,
        default: Some("9092"),
        description: "The port of the broker",
        required: false,
    },
    text("Topic", "The topic to write to", true),
];

/// What a cloud's console shows to be copied.
pub const CONNECTION: [FormField; 1] = [FormField {
    name: "Connection String",
    kind: FieldKind::Password,
    default: None,
    description: "The hub's connection string: Endpoint=sb://…;EntityPath=…",
    required: true,
}];

/// A directory on this machine.
pub const DIRECTORY: [FormField; 1] =
    [text("Directory", "The directory to write to; its parent has to be writable", true)];

/// A file on this machine.
pub const FILE: [FormField; 1] =
    [text("File", "The file of the database; its directory has to exist", true)];

fn word(filled: &Filled, field: &FormField) -> Option<String> {
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
    let mut errors = Vec::new();
    let mut words: BTreeMap<&str, String> = BTreeMap::new();
    for field in driver.fields {
        let mut wrong =
            |error: &str| errors.push(FieldError { field: field.name.into(), error: error.into() });
        match word(filled, field) {
            None if field.required => wrong("it is required"),
            Some(text)
                if field.kind == FieldKind::Number && !text.parse::<u16>().is_ok_and(|n| n > 0) =>
            {
                wrong("it is a number from 1 to 65535");
            }
            Some(text) if text.contains(char::is_control) => wrong("it has control characters"),
            Some(text) => drop(words.insert(field.name, text)),
            None => {}
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let is = |name: &str| driver.fields.iter().any(|field| field.name == name);
    match (is("Hostname"), is("Directory")) {
        _ if is("Connection String") => {
            let wrong = |error| vec![FieldError { field: "Connection String".into(), error }];
            connection_url(driver.scheme, words.get("Connection String").map_or("", String::as_str))
                .map_err(wrong)
        }
        _ if is("Topic") => Ok(topic_url(driver.scheme, &words)),
        _ if is("Bucket") => Ok(bucket_url(driver.scheme, &words)),
        _ if is("Account") => Ok(key_pair_url(driver.scheme, &words)),
        (true, _) => Ok(server_url(driver.scheme, &words)),
        (false, true) => directory_url(words.get("Directory").map_or("", String::as_str))
            .map_err(|error| vec![FieldError { field: "Directory".into(), error }]),
        _ => Ok(format!(
            "{}://{}",
            driver.scheme,
            path(words.get("File").map_or("", String::as_str))
        )),
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Each part of a path encoded by itself.
fn path(text: &str) -> String {
    text.split('/').map(encoded).collect::<Vec<_>>().join("/")
}

fn server_url(scheme: &str, words: &BTreeMap<&str, String>) -> String {
    let part = |name: &str| words.get(name).map(|text| encoded(text)).unwrap_or_default();
    let host = words.get("Hostname").cloned().unwrap_or_default();
    // An IPv6 address stands in brackets.
    let host = if host.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("[{host}]")
    } else {
        encoded(&host)
    };
    let login = if words.contains_key("Username") {
        format!("{}:{}@", part("Username"), part("Password"))
    } else {
        String::new()
    };
    let port =
        if words.contains_key("Port") { format!(":{}", part("Port")) } else { String::new() };
    format!("{scheme}://{login}{host}{port}/{}", part("Database"))
}

/// The endpoint's host is the URL's, what follows stays as it is.
fn connection_url(scheme: &str, text: &str) -> Result<String, String> {
    let mut parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    let endpoint = parts
        .next()
        .and_then(|first| first.strip_prefix("Endpoint=sb://"))
        .map(|host| host.trim_end_matches('/'));
    let host =
        endpoint.filter(|host| !host.is_empty()).ok_or("it does not begin with Endpoint=sb://")?;
    let rest: Vec<String> =
        parts.map(|part| part.split('=').map(encoded).collect::<Vec<_>>().join("=")).collect();
    if !rest.iter().any(|part| part.starts_with("EntityPath=")) {
        return Err("it has no EntityPath: copy the connection string of the hub, not that of \
                    the namespace"
            .into());
    }
    Ok(format!("{scheme}://{host}/;{}", rest.join(";")))
}

/// Hosts that come with a port of their own keep it.
fn topic_url(scheme: &str, words: &BTreeMap<&str, String>) -> String {
    let word = |name: &str| words.get(name).map(String::as_str).unwrap_or_default();
    let port = word("Port");
    let host = |host: &str| match host.rsplit_once(':') {
        Some((name, own)) if own.parse::<u16>().is_ok() && !name.contains(':') => {
            format!("{}:{own}", encoded(name))
        }
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
        _ => format!("{}:{port}", encoded(host)),
    };
    let hosts: Vec<String> = word("Hostname")
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(host)
        .collect();
    format!("{scheme}://{}/{}", hosts.join(","), encoded(word("Topic").trim_matches('/')))
}

fn key_pair_url(scheme: &str, words: &BTreeMap<&str, String>) -> String {
    let part = |name: &str| words.get(name).map(|text| encoded(text)).unwrap_or_default();
    let database =
        words.get("Database").map(|text| path(text.trim_matches('/'))).unwrap_or_default();
    format!(
        "{scheme}://{}@{}/{database}?secret-key={}",
        part("Username"),
        part("Account"),
        part("Secret")
    )
}

/// Hosts of Google and this machine stand in front, as they do with the predecessor; others are an
/// option.
fn bucket_url(scheme: &str, words: &BTreeMap<&str, String>) -> String {
    let word = |name: &str| words.get(name).map(|text| text.trim_matches('/')).unwrap_or_default();
    let (bucket, prefix, endpoint) = (word("Bucket"), word("Prefix"), word("Endpoint"));
    let plain = endpoint.trim_start_matches("https://").trim_start_matches("http://");
    let is_in_front = plain.ends_with("googleapis.com")
        || ["localhost", "127.0.0.1"].contains(&plain.split(':').next().unwrap_or_default());
    let mut place =
        if is_in_front { format!("{plain}/{}", encoded(bucket)) } else { encoded(bucket) };
    if !prefix.is_empty() {
        place += &format!("/{}", path(prefix));
    }
    let options = [
        ("access-key-id", word("Access Key ID")),
        ("endpoint", if is_in_front { "" } else { endpoint }),
        ("region", word("Region")),
        ("secret-access-key", words.get("Secret Access Key").map_or("", String::as_str)),
    ];
    let options: Vec<String> = options
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", encoded(value)))
        .collect();
    format!("{scheme}://{place}{}{}", if options.is_empty() { "" } else { "?" }, options.join("&"))
}

fn directory_url(directory: &str) -> Result<String, String> {
    let place = std::path::Path::new(directory);
    if !place.is_absolute() {
        return Err("it is not an absolute path".into());
    }
    if place.components().any(|part| part == std::path::Component::ParentDir) {
        return Err("it must not go up (..)".into());
    }
    let Some(parent) = place.parent() else { return Err("it must not be /".into()) };
    let writable = place.is_dir() || is_writable(parent);
    if writable {
        Ok(format!("file://{}", path(directory)))
    } else {
        Err(format!("{} cannot be written to", parent.display()))
    }
}

/// Whether something can be made in `dir`.
fn is_writable(dir: &std::path::Path) -> bool {
    let probe = dir.join(format!(".eds-probe-{}", std::process::id()));
    let made = std::fs::File::create(&probe).is_ok();
    let _ = std::fs::remove_file(probe);
    made
}

/// `{metadata, fields}` of a driver, as HQ shows it.
pub fn shown(driver: &Driver) -> Value {
    let fields: Vec<Value> = driver.fields.iter().map(field).collect();
    json!({
        "metadata": {
            "scheme": driver.scheme,
            "name": driver.title,
            "description": driver.description,
            "exampleURL": driver.example,
            "help": driver.help,
            "supportsImport": true,
            "supportsMigration": driver.abilities.schema_mode == SchemaMode::Managed,
        },
        "fields": fields,
    })
}

fn field(field: &FormField) -> Value {
    let mut shown = json!({
        "name": field.name,
        "type": if field.kind == FieldKind::Number { "number" } else { "string" },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Settings;
    use crate::destination::catalog::DRIVERS;
    use secrecy::ExposeSecret;

    fn driver(scheme: &str) -> Option<&'static Driver> {
        DRIVERS.iter().find(|d| d.scheme == scheme)
    }

    fn filled(value: Value) -> Filled {
        value
            .as_object()
            .map(|map| map.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
            .unwrap_or_default()
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn a_form_comes_to_the_url_that_the_contract_shows() -> Result<(), String> {
        let postgres = driver("postgres").ok_or("postgres")?;
        let url = |value: Value| url_of(postgres, &filled(value));
        assert_eq!(
            url(json!({"Database": "db", "Hostname": "h"})),
            Ok("postgres://h:5432/db".into())
        );
        assert_eq!(
            url(json!({"Database": "db", "Hostname": "h", "Username": "user"})),
            Ok("postgres://user:@h:5432/db".into())
        );
        assert_eq!(
            url(json!({"Database": "db", "Hostname": "::1", "Port": 6543})),
            Ok("postgres://[::1]:6543/db".into())
        );
        let errors = url(json!({"Username": "user", "Port": "many"})).err().unwrap_or_default();
        let of: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(of, ["Database", "Hostname", "Port"]);
        Ok(())
    }

    #[cfg(feature = "s3")]
    #[test]
    fn a_bucket_is_named_as_the_contract_shows() -> Result<(), String> {
        let s3 = driver("s3").ok_or("s3")?;
        let url = |value: Value| url_of(s3, &filled(value)).map_err(|e| format!("{e:?}"));
        assert_eq!(
            url(json!({"Bucket": "b", "Prefix": "/p", "Endpoint": "storage.googleapis.com"}))?,
            "s3://storage.googleapis.com/b/p"
        );
        assert_eq!(
            url(json!({"Bucket": "b", "Endpoint": "http://localhost:4566"}))?,
            "s3://localhost:4566/b"
        );
        let whole = json!({"Bucket": "b", "Prefix": "a b/c", "Region": "eu-west-1", "Access Key ID": "K", "Secret Access Key": "s/+=", "Endpoint": "https://minio.example:9000"});
        assert_eq!(
            url(whole)?,
            "s3://b/a%20b/c?access-key-id=K&endpoint=https%3A%2F%2Fminio.example%3A9000&region=eu-west-1&secret-access-key=s%2F%2B%3D"
        );
        assert!(url(json!({"Prefix": "p"})).is_err());
        Ok(())
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn brokers_keep_the_ports_that_they_come_with() -> Result<(), String> {
        let kafka = driver("kafka").ok_or("kafka")?;
        let url = |value: Value| url_of(kafka, &filled(value)).map_err(|e| format!("{e:?}"));
        assert_eq!(
            url(json!({"Hostname": "kafka", "Topic": "topic"}))?,
            "kafka://kafka:9092/topic"
        );
        assert_eq!(
            url(json!({"Hostname": "a:1, b", "Port": 9093, "Topic": "t"}))?,
            "kafka://a:1,b:9093/t"
        );
        assert!(url(json!({"Hostname": "a"})).is_err());
        Ok(())
    }

    #[cfg(feature = "eventhubs")]
    #[test]
    fn a_connection_string_becomes_a_url() -> Result<(), String> {
        let hub = driver("eventhub").ok_or("eventhub")?;
        let url = |text: &str| {
            url_of(hub, &filled(json!({ "Connection String": text }))).map_err(|e| format!("{e:?}"))
        };
        let whole = url(
            "Endpoint=sb://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=a/b+c==;EntityPath=hub",
        )?;
        assert_eq!(
            whole,
            "eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=a%2Fb%2Bc==;EntityPath=hub"
        );
        assert!(url("Endpoint=sb://ns/;SharedAccessKeyName=Root;SharedAccessKey=k").is_err());
        assert!(url("https://ns").is_err());
        Ok(())
    }

    #[cfg(feature = "snowflake")]
    #[test]
    fn snowflake_is_named_by_account_and_key_variable() -> Result<(), String> {
        let password = driver("snowflake").ok_or("snowflake")?;
        let url = url_of(
            password,
            &filled(
                json!({"Database": "DB", "Hostname": "org-account", "Username": "me", "Password": "p@ss"}),
            ),
        );
        assert_eq!(url, Ok("snowflake://me:p%40ss@org-account/DB".into()));
        let key = driver("snowflake-keypair").ok_or("snowflake-keypair")?;
        let url = |value: Value| url_of(key, &filled(value));
        let named = url(
            json!({"Database": "DB/SCHEMA", "Username": "me", "Account": "org-my_account", "Secret": "MY_KEY"}),
        );
        assert_eq!(
            named,
            Ok("snowflake-keypair://me@org-my_account/DB/SCHEMA?secret-key=MY_KEY".into())
        );
        assert_eq!(
            url(json!({"Database": "DB", "Username": "me", "Account": "a"})),
            Ok("snowflake-keypair://me@a/DB?secret-key=SNOWFLAKE_SECRET_ACCESS_KEY".into())
        );
        let errors = url(json!({})).err().unwrap_or_default();
        assert_eq!(
            errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
            ["Database", "Username", "Account"]
        );
        Ok(())
    }

    /// What a form says, the settings read from its URL say.
    #[cfg(feature = "postgres")]
    #[test]
    fn odd_passwords_arrive() -> Result<(), String> {
        let postgres = driver("postgres").ok_or("postgres")?;
        for password in ["p@ss/w:rd%", "100%", "a b+c", "ünïcode?#&", "%40"] {
            let url = url_of(postgres, &filled(json!({"Database": "d/b", "Hostname": "h", "Username": "me@x", "Password": password}))).map_err(|e| format!("{e:?}"))?;
            let (settings, _) = Settings::parse(&url, DRIVERS).map_err(|e| e.to_string())?;
            let found = (
                settings.user.as_str(),
                settings.password.as_ref().map(|p| p.expose_secret().to_owned()),
                settings.path.as_str(),
            );
            assert_eq!(found, ("me@x", Some(password.to_owned()), "/d/b"), "{url}");
        }
        Ok(())
    }

    #[cfg(feature = "file")]
    #[test]
    fn a_directory_is_one_that_can_be_written_to() -> Result<(), Box<dyn std::error::Error>> {
        let file = driver("file").ok_or("file")?;
        let dir = tempfile::tempdir()?;
        let url = |place: &str| url_of(file, &filled(json!({ "Directory": place })));
        let good = dir.path().join("a b");
        assert_eq!(
            url(&good.to_string_lossy()),
            Ok(format!("file://{}/a%20b", dir.path().display()))
        );
        for wrong in ["/", "relative", "/no/such/parent", "/tmp/../etc"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
