//! Columns that are left out or hashed, where changes are kept and not rows; what is refused; and
//! where the rules come from.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

use crate::conformance::columns::{KEY, SECRET, hash, people, person, rules};
use crate::import::columns::ExportDir;
use crate::services::eds::{binary, replay_in};
use crate::services::hq::said;

fn text_of(path: &Path) -> String {
    let entries = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{e}"));
    let text = |path: std::path::PathBuf| match path.is_dir() {
        true => text_of(&path),
        false => String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned(),
    };
    entries.flatten().map(|entry| text(entry.path())).collect()
}

fn refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn replayed(dir: &TempDir, url: &str, args: &[&str]) -> Output {
    let journal = format!("{}\n", person("b", "1", 1));
    replay_in(dir.path(), url, &json!({"people": people("1", &[])}), &journal, args)
}

fn fresh() -> TempDir {
    TempDir::new().unwrap_or_else(|e| panic!("{e}"))
}

/// Files of changes, from a stream and from an import.
#[tokio::test(flavor = "multi_thread")]
async fn stored_changes_lack_what_is_left_out() {
    let dir = fresh();
    let stored = dir.path().join("changes");
    let url = format!("file://{}", stored.display());
    let output = replayed(&dir, &url, &refs(&rules(dir.path())));
    assert!(output.status.success(), "{}", said(&output));
    let text = text_of(&stored);
    assert!(!text.contains(SECRET) && text.contains(hash("SECRET-b@x")), "{text}");

    let export = ExportDir::new();
    export.rows(1, "people", &[person("c", "1", 1)["after"].clone()]);
    let schemas = json!({"people": people("1", &[])});
    export.import(&url, &schemas, &refs(&rules(export.path())));
    let text = text_of(&stored);
    assert!(!text.contains(SECRET) && text.contains(hash("SECRET-c@x")), "{text}");
}

/// An export is loaded, and compared, by the same rules.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_equal_to_what_the_rules_leave_of_its_export() {
    let export = ExportDir::new();
    let rows = ["b", "c", "d"].map(|id| person(id, "1", 1)["after"].clone());
    export.rows(1, "people", &rows);
    let file = export.path().join("people.db");
    let url = format!("sqlite://{}", file.display());
    let rules = rules(export.path());
    let told = export.import(&url, &json!({"people": people("1", &[])}), &refs(&rules));
    let stored = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
    assert!(!told.contains(SECRET) && !stored.contains(SECRET), "{told}");
    let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
    let mail: String = db
        .query_row("SELECT mail FROM people WHERE id = 'c'", [], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(mail, hash("SECRET-c@x"));
    let verify = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.current_dir(export.path()).env("EDS_URL", &url).args(["verify", "--wait", "1s"]);
        command.args(["--dir", "export", "--schema", "schema.json", "--data-dir", "data"]);
        command.args(args).output().unwrap_or_else(|e| panic!("{e}"))
    };
    let equal = verify(&refs(&rules));
    assert!(equal.status.success(), "{}", said(&equal));
    assert!(!verify(&[]).status.success(), "without the rules the hashes are other values");
}

/// A row that is marked as deleted is not there for a comparison, and is no row too many.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_marked_as_deleted_are_not_compared() {
    let export = ExportDir::new();
    let url = format!("sqlite://{}", export.path().join("people.db").display());
    let schemas = json!({"people": people("1", &[])});
    let rows = |ids: &[&str]| -> Vec<serde_json::Value> {
        ids.iter().map(|id| person(id, "1", 1)["after"].clone()).collect()
    };
    export.rows(1, "people", &rows(&["b", "c"]));
    let soft = ["--deletes", "soft", "--add-columns", "applied-at"];
    export.import(&url, &schemas, &soft);
    let delete = json!({"operation": "DELETE", "table": "people", "modelVersion": "1", "key": ["c"],
        "mvccTimestamp": "1750000000000000000.0000000000"});
    let journal = format!("{delete}\n");
    let output = replay_in(export.path(), &url, &schemas, &journal, &soft);
    assert!(output.status.success(), "{}", said(&output));
    let verify = |rows: &[serde_json::Value], args: &[&str]| {
        export.rows(1, "people", rows);
        let mut command = Command::new(binary());
        command.current_dir(export.path()).env("EDS_URL", &url).args(["verify", "--wait", "1s"]);
        command.args(["--dir", "export", "--schema", "schema.json", "--data-dir", "data"]);
        command.args(args).output().unwrap_or_else(|e| panic!("{e}"))
    };
    for args in [&soft[..], &[]] {
        let equal = verify(&rows(&["b"]), args);
        assert!(equal.status.success(), "{}", said(&equal));
        // It was there when that export was made.
        let newer = verify(&rows(&["b", "c"]), args);
        assert!(newer.status.success() && said(&newer).contains("1 changed since"), "{newer:?}");
    }
}

/// An import without the option brings rows back that were marked, whether it replaces the table or
/// adds to it.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_an_import_brings_are_not_marked() {
    let schemas = json!({"people": people("1", &[])});
    for args in [&[][..], &["--no-delete"]] {
        let export = ExportDir::new();
        let file = export.path().join("people.db");
        let url = format!("sqlite://{}", file.display());
        let deleted = json!({"operation": "DELETE", "table": "people", "modelVersion": "1",
            "key": ["b"], "mvccTimestamp": "1720732611000000000.0000000000"});
        let journal = format!("{}\n{deleted}\n", person("b", "1", 1));
        let soft = ["--deletes", "soft"];
        let output = replay_in(export.path(), &url, &schemas, &journal, &soft);
        assert!(output.status.success(), "{}", said(&output));
        let db = rusqlite::Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
        let is_marked = || -> bool {
            let sql = "SELECT _eds_deleted_at IS NOT NULL FROM people WHERE id = 'b'";
            db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{e}"))
        };
        assert!(is_marked());
        export.rows(1, "people", &[person("b", "1", 2)["after"].clone()]);
        export.import(&url, &schemas, args);
        assert!(!is_marked(), "{args:?}");
    }
}

/// Rows of one table are by one set of rules: an import that was cut off does not go on by others.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_by_the_rules_that_it_began_with() {
    let export = ExportDir::new();
    let url = format!("sqlite://{}", export.path().join("people.db").display());
    let schemas = json!({"people": people("1", &[])});
    let row = |id: &str| person(id, "1", 1)["after"].to_string();
    export.file(1, "people", &[row("b")]);
    export.file(2, "people", &["no row".into(), row("c")]);
    let rules = rules(export.path());
    let cut_off = export.run(&url, &schemas, &refs(&rules));
    assert!(!cut_off.status.success(), "{}", said(&cut_off));
    let key = export.path().join("key");
    let write_key = |text: &str| std::fs::write(&key, text).unwrap_or_else(|e| panic!("{e}"));
    let others: [(&str, &[&str]); 3] = [
        ("another key of enough bytes", &[]),
        (KEY, &["--types", "people.n=text"]),
        (KEY, &["--add-columns", "version"]),
    ];
    for (key, more) in others {
        write_key(key);
        let refused =
            export.run(&url, &schemas, &[&refs(&rules), more, &["--skip-bad-rows", "1"]].concat());
        assert!(said(&refused).contains("other rules about columns"), "{}", said(&refused));
    }
    write_key(KEY);
    let told =
        export.import(&url, &schemas, &[&refs(&rules)[..], &["--skip-bad-rows", "1"]].concat());
    assert!(told.contains("resuming"), "{told}");
}

/// The configuration file is enough; what is wrong in it is said.
#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_names_columns_for_every_command() {
    let dir = fresh();
    let url = format!("sqlite://{}", dir.path().join("x.db").display());
    rules(dir.path());
    std::fs::create_dir(dir.path().join("data")).unwrap_or_else(|e| panic!("{e}"));
    let configured = |text: &str| {
        std::fs::write(dir.path().join("data/config.toml"), text).unwrap_or_else(|e| panic!("{e}"));
        replayed(&dir, &url, &[])
    };
    let wrong = configured("exclude = \"people.ssn\"\n");
    assert!(!wrong.status.success() && said(&wrong).contains("has to be a list"), "{wrong:?}");
    let list = "exclude = [\"people.ssn\"]\nhash = [\"people.mail\"]\nhash_key_file = \"key\"\n";
    let output = configured(list);
    assert!(output.status.success(), "{}", said(&output));
    let db = rusqlite::Connection::open(dir.path().join("x.db")).unwrap_or_else(|e| panic!("{e}"));
    let mail: String = db
        .query_row("SELECT mail FROM people", [], |row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(mail, hash("SECRET-b@x"));
}

/// Nothing is written where a rule cannot be kept.
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_cannot_be_kept_are_refused_at_the_start() {
    let dir = fresh();
    let (file, changes) = (dir.path().join("x.db"), dir.path().join("changes"));
    let sqlite = format!("sqlite://{}", file.display());
    let files = format!("file://{}", changes.display());
    let key = dir.path().join("key").display().to_string();
    std::fs::write(&key, KEY).unwrap_or_else(|e| panic!("{e}"));
    let cases: [(&[&str], &str); 6] = [
        (&["--exclude", "people.id"], "people.id is part of the primary key"),
        (&["--hash", "people.id", "--hash-key-file", &key], "people.id is part of the primary key"),
        (&["--exclude", "people.snn"], "no known schema has the column people.snn"),
        (&["--exclude", "ssn"], "--exclude wants TABLE.COLUMN"),
        (&["--hash", "people.mail"], "--hash needs a key"),
        (&["--hash", "people.mail", "--hash-key-file", "nowhere"], "nowhere, cannot be read"),
    ];
    for (args, why) in cases {
        for url in [&sqlite, &files] {
            let output = replayed(&dir, url, args);
            assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
        }
    }
    let mut command = Command::new(binary());
    command.current_dir(dir.path()).env("EDS_URL", &files).env("EDS_EXCLUDE", "people.ssn");
    let output = command.args(["replay", "journal.jsonl"]).output();
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    assert!(said(&output).contains("needs the tables' schemas"), "{}", said(&output));
    assert!(!text_of(dir.path()).replace(&journal_of(&dir), "").contains(SECRET));
}

fn journal_of(dir: &TempDir) -> String {
    std::fs::read_to_string(dir.path().join("journal.jsonl")).unwrap_or_default()
}
