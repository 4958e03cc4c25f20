//! The user's rules: a JSON Schema per table that says which events are stored, and where their
//! files go.

mod template;

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use jsonschema::{Retrieve, Uri};
use serde::Deserialize;
use serde_json::Value;

pub use template::Template;

/// The file that names the rules.
const CONFIG: &str = "config.json";

/// What `config.json` says of a table.
#[derive(Deserialize)]
struct RuleEntry {
    schema: PathBuf,
    #[serde(default)]
    path: Option<String>,
}

struct Rule {
    schema: jsonschema::Validator,
    path: Option<Template>,
}

/// Rules by table. An event of a table without a rule, or that its rule refuses, is not wanted.
pub struct Validator {
    rules: HashMap<String, Rule>,
}

/// Finds what a schema refers to: `file:///<path>` is a file below the directory of the rules.
struct Directory(PathBuf);

impl Retrieve for Directory {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        if uri.scheme().as_str() != "file" {
            return Err(format!(
                "{uri} is not below the directory of the rules: a reference there \
                                looks like file:///name.json"
            )
            .into());
        }
        let name =
            percent_encoding::percent_decode_str(uri.path().as_str()).decode_utf8()?.into_owned();
        let text =
            std::fs::read_to_string(inside(&self.0, Path::new(name.trim_start_matches('/')))?)?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// The file `name` below `dir`; nothing outside of it.
fn inside(dir: &Path, name: &Path) -> Result<PathBuf, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", dir.join(name).display());
    let (root, path) =
        (dir.canonicalize().map_err(failed)?, dir.join(name).canonicalize().map_err(failed)?);
    if path.starts_with(&root) {
        Ok(path)
    } else {
        Err(format!("{} is not below {}", path.display(), root.display()))
    }
}

impl Validator {
    /// Reads the rules in `dir`. An error names the file that is wrong.
    pub fn load(dir: &Path) -> Result<Validator, String> {
        let config = dir.join(CONFIG);
        let text =
            std::fs::read_to_string(&config).map_err(|e| format!("{}: {e}", config.display()))?;
        let entries: HashMap<String, RuleEntry> = serde_json::from_str(&text).map_err(|e| {
            format!(
                "{}: {e}; it maps each table to {{\"schema\": \"file.json\"}}",
                config.display()
            )
        })?;
        let mut rules = HashMap::new();
        for (table, entry) in entries {
            let file = inside(dir, &entry.schema)?;
            let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
            let schema: Value =
                serde_json::from_str(&std::fs::read_to_string(&file).map_err(|e| failed(&e))?)
                    .map_err(|e| failed(&e))?;
            let options = jsonschema::options()
                .should_validate_formats(true)
                .with_retriever(Directory(dir.to_owned()));
            let schema = options.build(&schema).map_err(|e| failed(&e))?;
            let path =
                entry.path.as_deref().map(Template::parse).transpose().map_err(|e| {
                    format!("{}: the path of table {table:?}: {e}", config.display())
                })?;
            rules.insert(table, Rule { schema, path });
        }
        Ok(Validator { rules })
    }

    /// Whether `event`, a JSON document, is wanted.
    pub fn wants(&self, table: &str, event: &str) -> bool {
        let Some(rule) = self.rules.get(table) else { return false };
        serde_json::from_str(event).is_ok_and(|event: Value| rule.schema.is_valid(&event))
    }

    /// The path under which the rule stores `event`, with `/` between its parts; `None` where the
    /// rule has none. `encode` makes a value one part of a path, whatever it holds.
    pub fn path(
        &self,
        table: &str,
        event: &str,
        encode: impl Fn(&str) -> String,
    ) -> Option<String> {
        let template = self.rules.get(table)?.path.as_ref()?;
        let event: Value = serde_json::from_str(event).ok()?;
        Some(template.render(&event, encode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"id":"e1","table":"order","operation":"INSERT","mvccTimestamp":"17.2","timestamp":1720732611708,"after":{"id":"o/1","createdDate":"2024-07-11T20:36:51Z","n":3}}"#;

    fn rules(files: &[(&str, &str)]) -> Result<Validator, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).map_err(|e| e.to_string())?;
        }
        Validator::load(dir.path())
    }

    #[test]
    fn an_event_is_wanted_by_the_rule_of_its_table() -> Result<(), String> {
        let rules = rules(&[
            (
                "config.json",
                r#"{"order":{"schema":"order.json","path":"{{.table}}/received/{{.table}}_{{.mvccTimestamp}}_{{.id}}.json"}}"#,
            ),
            (
                "order.json",
                r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","required":["after"],"properties":{"after":{"$ref":"file:///row.json"}}}"#,
            ),
            (
                "row.json",
                r#"{"type":"object","properties":{"createdDate":{"type":"string","format":"date-time"},"n":{"type":"integer"}},"required":["createdDate"]}"#,
            ),
        ])?;
        assert!(rules.wants("order", EVENT));
        assert!(!rules.wants("customer", EVENT));
        assert!(
            !rules.wants("order", &EVENT.replace("2024-07-11T20:36:51Z", "yesterday")),
            "formats are asserted"
        );
        assert!(!rules.wants("order", &EVENT.replace("\"n\":3", "\"n\":\"3\"")));
        assert!(!rules.wants("order", "{"));
        assert_eq!(
            rules.path("order", EVENT, str::to_owned).as_deref(),
            Some("order/received/order_17.2_e1.json")
        );
        assert_eq!(rules.path("customer", EVENT, str::to_owned), None);
        Ok(())
    }

    #[test]
    fn rules_that_cannot_be_used_are_named() {
        let error = |files: &[(&str, &str)]| rules(files).err().unwrap_or_default();
        assert!(error(&[]).contains("config.json"));
        assert!(error(&[("config.json", "[]")]).contains("it maps each table to"));
        assert!(error(&[("config.json", r#"{"t":{"schema":"none.json"}}"#)]).contains("none.json"));
        assert!(
            error(&[("config.json", r#"{"t":{"schema":"../../../../etc/hostname"}}"#)])
                .contains("is not below")
        );
        assert!(
            error(&[("config.json", r#"{"t":{"schema":"s.json"}}"#), ("s.json", r#"{"type":7}"#)])
                .contains("s.json")
        );
        assert!(
            error(&[
                ("config.json", r#"{"t":{"schema":"s.json"}}"#),
                ("s.json", r#"{"$ref":"file:///../../etc/passwd"}"#)
            ])
            .contains("s.json")
        );
        assert!(
            error(&[
                ("config.json", r#"{"t":{"schema":"s.json"}}"#),
                ("s.json", r#"{"$ref":"http://127.0.0.1:1/x.json"}"#)
            ])
            .contains("s.json")
        );
        assert!(
            error(&[
                ("config.json", r#"{"t":{"schema":"s.json","path":"{{len .x}}"}}"#),
                ("s.json", "{}")
            ])
            .contains("the path of table \"t\"")
        );
    }
}
