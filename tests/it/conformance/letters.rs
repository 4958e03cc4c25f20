//! Dead letters where the rows are.

use serde_json::json;

use super::{Database, WAYS, replayed};
use crate::services::eds::{dead_letters, dlq, schema, upsert};

/// What cannot be stored is kept once with its message; it is shown, tried again and dropped.
pub async fn dead_letters_are_kept_shown_and_dropped(database: &dyn Database) {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let data = dir.path().join("data");
    let schemas = json!({"t": schema("letters", "1", json!({"n": {"type": "integer"}}))});
    let row = |id: &str, n: serde_json::Value| upsert("letters", "1", json!({"id": id, "n": n}));
    let long = "ü".repeat(200_000);
    let unfit = row("a", json!(long)).to_string();
    let journal = [
        unfit.clone(),
        row("b", json!(2)).to_string(),
        "{\"broken ä\":".to_owned(),
        row("c", json!(3)).to_string(),
    ];
    for way in WAYS {
        replayed(dir.path(), database, &schemas, &(journal.join("\n") + "\n"), way);
    }
    let letters = dead_letters(&database.url(), &data);
    let shown: Vec<_> = letters
        .iter()
        .map(|l| {
            let text = |name: &str| l[name].as_str().unwrap_or_default();
            (text("kind"), l["sequence"].as_u64(), l["superseded_by"].as_u64())
        })
        .collect();
    assert_eq!(shown, [("refused", Some(1), None), ("malformed", Some(3), None)]);
    let payloads: Vec<_> = letters.iter().map(|l| l["payload"].as_str()).collect();
    assert_eq!(payloads, [0, 2].map(|i: usize| Some(&*journal[i])));
    let said = dlq(&database.url(), &data, &["list", "--superseded", "--reason", "integer"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.matches("is not an integer").count() == 1 && !said.contains("üü"), "{said}");

    assert!(dlq(&database.url(), &data, &["retry", "0", "1"]).status.success());
    let said = replayed(dir.path(), database, &schemas, &(journal.join("\n") + "\n"), &[]);
    assert!(said.contains("dead letter 0 was not applied"), "{said}");
    assert_eq!(dead_letters(&database.url(), &data).len(), 2);
    assert!(dlq(&database.url(), &data, &["drop", "--all"]).status.success());
    assert!(database.read("_eds_dead_letter", &["letter"]).await.is_empty());
    let rows = database.read("letters", &["id", "n"]).await;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(rows, [[text("b"), text("2")], [text("c"), text("3")]]);
}
