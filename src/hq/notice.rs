//! HQ's notifications to a server: `{action, data?}` in JSON, gzipped JSON or MessagePack.

use std::collections::BTreeMap;
use std::io::Read;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;

/// The most bytes of a notification after decompression.
const BYTES_MAX: u64 = 1 << 20;

/// What HQ asks of a server.
#[derive(Debug)]
pub enum Notice {
    /// Publish `pong`.
    Ping {
        /// A NATS subject without wildcards, on which the answer is published.
        subject: String,
    },
    /// End the worker gracefully and start another.
    Restart,
    /// Stop fetching changes.
    Pause,
    /// Fetch changes again.
    Unpause,
    /// End the session and the program.
    Shutdown {
        /// The reason, for people; may be empty.
        message: String,
        /// HQ has deleted the server: its identity is void.
        deleted: bool,
    },
    /// Upload the log so far.
    SendLogs,
    /// Test a destination and, if it works, use it from now on.
    Configure {
        /// The destination's URL.
        url: SecretString,
        /// Whether HQ will ask for an import of the rows; EDS only repeats it in its answer.
        backfill: bool,
        /// `standard` or `after`, for destinations that know it; empty where HQ says nothing.
        update_strategy: String,
    },
    /// Import all tables.
    Import {
        /// Rows too, not only the tables' definitions.
        backfill: bool,
    },
    /// Answer with the forms of all destinations.
    DriverConfig,
    /// Check a filled form; answer with the destination's URL or with the errors by field.
    Validate {
        /// The destination's scheme.
        driver: String,
        /// The form's fields by name.
        config: BTreeMap<String, Value>,
    },
    /// Replace the program by another release.
    Upgrade {
        /// With or without a leading `v`.
        version: String,
    },
}

/// Why a notification is not followed. Never shows its contents, which may hold secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNotice {
    /// It is in none of the encodings, or has no action.
    #[error("a notification of HQ cannot be read: {0}")]
    Unreadable(String),
    /// Its action is not known; HQ may be newer.
    #[error("HQ asks for {0:?}, which this version of EDS does not know")]
    Unknown(String),
    /// Of an action, the field that is missing or has another type.
    #[error("HQ's notification {0:?} lacks {1}, or has it in another form")]
    Lacks(&'static str, &'static str),
}

#[derive(Deserialize)]
struct NoticeEnvelope {
    action: String,
    #[serde(default)]
    data: Value,
}

/// The document in `payload`, in the encoding that the header `content-encoding` names.
fn unpack(payload: &[u8], encoding: Option<&str>) -> Result<Value, String> {
    match encoding.unwrap_or("json") {
        "msgpack" => rmp_serde::from_slice(payload).map_err(|e| format!("not msgpack: {e}")),
        "gzip/json" => {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(payload)
                .take(BYTES_MAX + 1)
                .read_to_end(&mut text)
                .map_err(|e| format!("not gzip: {e}"))?;
            if text.len() as u64 > BYTES_MAX {
                return Err(format!("more than {BYTES_MAX} bytes"));
            }
            json(&text)
        }
        "json" | "" => json(payload),
        other => Err(format!("the encoding {other:?} is not known")),
    }
}

// The parser's own message could show a secret.
fn json(text: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(text)
        .map_err(|e| format!("not JSON at line {}, column {}", e.line(), e.column()))
}

/// A boolean, which HQ may also write as a text.
fn flag(data: &Value, key: &str) -> bool {
    match &data[key] {
        Value::Bool(flag) => *flag,
        Value::String(text) => text == "true",
        _ => false,
    }
}

/// A text that is not empty.
fn word(data: &Value, key: &str) -> Option<String> {
    data[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Reads a notification. `encoding` is the value of its header `content-encoding`, if there is one:
/// `json`, `gzip/json` or `msgpack`.
pub fn read(payload: &[u8], encoding: Option<&str>) -> Result<Notice, BadNotice> {
    let document = unpack(payload, encoding).map_err(BadNotice::Unreadable)?;
    // Serde would take a list for the fields in their order.
    let envelope =
        document.is_object().then(|| NoticeEnvelope::deserialize(document).ok()).flatten();
    let Some(NoticeEnvelope { action, data }) = envelope else {
        return Err(BadNotice::Unreadable("it has no action".into()));
    };
    notice_of(action, &data)
}

fn notice_of(action: String, data: &Value) -> Result<Notice, BadNotice> {
    Ok(match action.as_str() {
        "ping" => Notice::Ping {
            subject: word(data, "subject")
                .filter(|s| publishable(s))
                .ok_or(BadNotice::Lacks("ping", "subject"))?,
        },
        "restart" => Notice::Restart,
        "pause" => Notice::Pause,
        "unpause" => Notice::Unpause,
        "shutdown" => Notice::Shutdown {
            message: word(data, "message").unwrap_or_default(),
            deleted: flag(data, "deleted"),
        },
        "sendlogs" => Notice::SendLogs,
        "configure" => Notice::Configure {
            url: word(data, "url").ok_or(BadNotice::Lacks("configure", "url"))?.into(),
            backfill: flag(data, "backfill"),
            update_strategy: word(data, "updateStrategy").unwrap_or_default(),
        },
        "import" => Notice::Import { backfill: flag(data, "backfill") },
        "driverconfig" => Notice::DriverConfig,
        "validate" => Notice::Validate {
            driver: word(data, "driver").ok_or(BadNotice::Lacks("validate", "driver"))?,
            config: data["config"]
                .as_object()
                .ok_or(BadNotice::Lacks("validate", "config"))?
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        },
        "upgrade" => Notice::Upgrade {
            version: word(data, "version").ok_or(BadNotice::Lacks("upgrade", "version"))?,
        },
        _ => return Err(BadNotice::Unknown(action)),
    })
}

/// Whether a NATS subject can be published to: no wildcards, no spaces, no empty tokens.
fn publishable(subject: &str) -> bool {
    subject.split('.').all(|token| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && b != b'*' && b != b'>')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::json;
    use std::io::Write;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text).and_then(|()| out.finish()).unwrap_or_default()
    }

    #[test]
    fn the_same_in_every_encoding_and_with_booleans_as_text() {
        let data = json!({
            "url": "sqlite://x.db", "backfill": "true", "updateStrategy": "after", "more": 1
        });
        let document = json!({"action": "configure", "data": data});
        let text = document.to_string();
        let packed = rmp_serde::to_vec_named(&document).unwrap_or_default();
        for (payload, encoding) in [
            (text.clone().into_bytes(), None),
            (text.clone().into_bytes(), Some("json")),
            (gzip(text.as_bytes()), Some("gzip/json")),
            (packed, Some("msgpack")),
        ] {
            let notice = read(&payload, encoding);
            let Ok(Notice::Configure { url, backfill: true, update_strategy }) = notice else {
                panic!("{notice:?}")
            };
            assert_eq!((url.expose_secret(), update_strategy.as_str()), ("sqlite://x.db", "after"));
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_what_it_holds() {
        let said = |text: &str| {
            read(text.as_bytes(), None).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(said(r#"{"action":"explode"}"#).contains("\"explode\""));
        assert!(
            said(r#"{"action":"configure","data":{"url":{"password":"s3cret"}}}"#)
                .contains("lacks url")
        );
        for text in [
            r#"{"url":"s3cret"}"#,
            r#"{"action":"configure","data":"s3cret"#,
            r#"["s3cret"]"#,
            r#"{"action":["s3cret"]}"#,
        ] {
            let said = said(text);
            assert!(!said.is_empty() && !said.contains("s3cret"), "{said}");
        }
        assert!(said(r#"{"action":"ping","data":{"subject":"a.*.c"}}"#).contains("lacks subject"));
        assert!(matches!(read(br#"{"action":"restart"}"#, None), Ok(Notice::Restart)));
    }

    proptest! {
        /// Any bytes are read or refused, without a panic.
        #[test]
        fn nothing_breaks_it(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            packed in 0..3_usize
        ) {
            let encoding = [None, Some("msgpack"), Some("gzip/json")][packed];
            let _ = read(&bytes, encoding);
            let _ = read(&gzip(&bytes), Some("gzip/json"));
        }
    }
}
