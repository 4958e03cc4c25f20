//! What the program prints and how it ends, word for word.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::services::at_once;
use crate::services::eds::binary;

/// Exit code, standard output, standard error.
fn eds(args: &[&str]) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let output = Command::new(binary())
        .args(args)
        .current_dir(dir.path())
        .env_remove("EDS_URL")
        .env_remove("PORT")
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Compares with a file in tests/golden; `EDS_GOLDEN=write` rewrites it.
pub fn golden(name: &str, found: &str) {
    golden_at(&format!("tests/golden/{name}"), found);
}

/// Compares with a file of the project; `EDS_GOLDEN=write` rewrites it.
pub fn golden_at(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var("EDS_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(&path, found).unwrap_or_else(|e| panic!("{e}"));
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name} differs; EDS_GOLDEN=write before this test rewrites it");
}

#[test]
fn drivers_are_as_written_down() {
    for (name, args) in [
        ("drivers.txt", &["server", "help"][..]),
        ("drivers-s3.txt", &["server", "help", "AWS S3"]),
        ("drivers-s3.txt", &["server", "help", "s3"]),
        ("drivers-postgres.txt", &["server", "help", "postgres"]),
        ("drivers.txt", &["drivers"]),
        ("drivers-postgres.txt", &["drivers", "postgres"]),
        ("drivers-mysql.txt", &["drivers", "mysql"]),
        ("drivers-snowflake-keypair.txt", &["drivers", "snowflake-keypair"]),
        ("drivers-s3.txt", &["drivers", "s3"]),
        ("drivers-kafka.txt", &["drivers", "kafka"]),
        ("drivers-eventhub.txt", &["drivers", "eventhub"]),
        ("drivers-file.txt", &["drivers", "file"]),
    ] {
        let (code, out, _) = eds(args);
        assert_eq!(code, 0, "{args:?}");
        golden(name, &out);
    }
}

/// Help can be asked for in several ways.
#[test]
fn help_is_one_whatever_way_it_is_asked_for() {
    assert_eq!(eds(&[]), eds(&["--help"]));
    assert_eq!(eds(&["help", "stream"]), eds(&["stream", "--help"]));
}

/// An error's line ends with a code, and the code has a page.
#[test]
fn an_error_ends_with_a_code_that_is_explained() {
    let (code, _, err) = eds(&["drivers", "oracle"]);
    assert_eq!(code, 3);
    let named = err.trim_end().rsplit_once(" [").map(|(_, code)| code.trim_end_matches(']'));
    let named = named.unwrap_or_else(|| panic!("{err}"));
    let (code, page, _) = eds(&["explain", named]);
    assert_eq!(code, 0);
    assert!(page.starts_with(&format!("# {named}: ")) && page.contains("## Cure"), "{page}");
    let (_, all, _) = eds(&["explain"]);
    assert_eq!(all.lines().count(), eds::help::HelpCode::ALL.len());
    assert!(all.contains(named), "{all}");
    let (code, _, err) = eds(&["explain", "EDS-999"]);
    assert_eq!((code, err.contains("EDS-999")), (3, true), "{err}");
}

#[test]
fn version_is_one_line() {
    assert_eq!(eds(&["version"]), (0, format!("{}\n", env!("CARGO_PKG_VERSION")), String::new()));
}

/// Words, an exit code, and what is said on standard error.
type WrongWords = (&'static [&'static str], i32, &'static str);

/// What bash offers behind the words of `line`.
fn completed(script: &Path, line: &str) -> String {
    let ask = "source \"$0\"; COMP_WORDS=($1 \"\"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _eds; \
               echo \"${COMPREPLY[@]}\"";
    let output = Command::new("bash").args(["-c", ask]).arg(script).arg(line).output();
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The shell knows every command and flag, and nothing that is hidden.
#[test]
fn the_shell_completes_commands_and_flags() {
    let (code, script, _) = eds(&["completion", "bash"]);
    assert_eq!(code, 0);
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("eds.bash");
    std::fs::write(&path, script).unwrap_or_else(|e| panic!("{e}"));
    for (line, offered, not) in [
        ("eds", &["server", "enroll", "--data-dir"][..], &["fork", "--url"][..]),
        ("eds server", &["help", "--url", "--stop-timeout"], &["--no-restart", "enroll"]),
        ("eds -v consumer show", &["--creds"], &["hand-back"]),
    ] {
        let words = completed(&path, line);
        let words: Vec<&str> = words.split(' ').collect();
        assert!(offered.iter().all(|word| words.contains(word)), "{line}: {words:?}");
        assert!(!not.iter().any(|word| words.contains(word)), "{line}: {words:?}");
    }
    let (code, fish, _) = eds(&["completion", "fish"]);
    assert!(code == 0 && fish.contains("-n '__fish_seen_subcommand_from enroll'"), "{fish}");
    let (code, zsh, _) = eds(&["completion", "zsh"]);
    assert!(code == 0 && zsh.starts_with("#compdef eds\n"), "{zsh}");
}

/// Lines in the form and of the modules that were asked for, with the time where nothing else adds
/// it.
#[test]
fn log_lines_are_as_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let journal = dir.path().join("journal.jsonl");
    std::fs::write(&journal, "").unwrap_or_else(|e| panic!("{e}"));
    let (journal, url) =
        (journal.display().to_string(), format!("file://{}/out", dir.path().display()));
    let replay = |more: &[&str]| {
        let (code, _, err) = eds(&[&["replay", &journal, "--url", &url], more].concat());
        assert_eq!(code, 0, "{err}");
        err
    };
    let lines = replay(&[]);
    let time =
        |line: &str| line.split(' ').next().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok());
    assert!(!lines.is_empty() && lines.lines().all(time), "{lines}");
    let lines = replay(&["--timestamp=false"]);
    assert!(!lines.is_empty() && !lines.lines().any(time), "{lines}");
    let lines = replay(&["--log-format", "json", "--log-label", "import"]);
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["timestamp"].as_str().is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok()));
        assert_eq!((&line["severity"], &line["component"]), (&line["level"], &"import".into()));
        assert_eq!(line["message"], line["fields"]["message"]);
    }
    assert_eq!(replay(&["--log-level", "error"]), "");
    assert!(replay(&["--log-level=eds=error,eds::worker=info"]).contains("done: 0 events"));
    let (code, _, err) = eds(&["replay", &journal, "--url", &url, "--log-level", "loud"]);
    assert!(code == 3 && err.contains("a level is error, warn"), "{err}");
}

/// What was given wrong is named, with a way out, and the exit code says whose fault it is.
fn are_named(cases: &[WrongWords]) {
    at_once(cases, |(args, code, expected)| {
        let (found, _, err) = eds(args);
        assert!(
            found == *code && err.contains(expected),
            "{args:?} ended with {found} and said:\n{err}"
        );
    });
}

#[test]
fn wrong_words_for_a_stream_are_named() {
    are_named(&[
        (&["stream", "--frobnicate"], 1, "unexpected argument '--frobnicate'"),
        (
            &["stream", "--min-pending-latency", "1 day"],
            1,
            "is not a duration; write 100ms, 2s or 1h30m",
        ),
        (&["stream"], 3, "no destination: name it with --url, --url-file or EDS_URL"),
        (
            &["stream", "--url", "oracle://x"],
            3,
            "the destination \"oracle\" is not known to this build; it knows: postgres, mysql, \
             sqlserver, snowflake, snowflake-keypair, s3, kafka, eventhub, sqlite, file",
        ),
        (&["stream", "--url", "sqlite://x.db"], 3, "needs credentials: name the file with --creds"),
        (
            &["stream", "--url", "sqlite://x.db", "--creds", "nowhere.creds"],
            1,
            "the credentials file nowhere.creds cannot be used",
        ),
        (
            &["stream", "--url", "sqlite://x.db", "--server", "nats://127.0.0.1:1", "--port", "0"],
            5,
            "NATS at nats://127.0.0.1:1 cannot be reached",
        ),
    ]);
}

#[test]
fn wrong_words_for_an_import_are_named() {
    are_named(&[
        (&["import"], 3, "no destination: name it with --url, --url-file or EDS_URL"),
        (
            &["import", "--url", "sqlite://:memory:"],
            3,
            "the tables' schemas are needed: name them with --schema FILE or URL, or give the key \
             to HQ by SM_APIKEY",
        ),
        (
            &["import", "--url", "sqlite://:memory:", "--schema", "nowhere.json"],
            1,
            "the table schemas cannot be fetched from nowhere.json",
        ),
        (
            &["import", "--url", "postgres://nobody@127.0.0.1:1/x", "--validate-only"],
            3,
            "PostgreSQL at 127.0.0.1:1 cannot be reached",
        ),
    ]);
}

#[test]
fn wrong_words_for_a_replay_are_named() {
    are_named(&[
        (
            &["replay", "nowhere.jsonl", "--url", "sqlite://x.db"],
            1,
            "the journal nowhere.jsonl cannot be read",
        ),
        (
            &["replay", "/dev/null", "--url", "sqlite://x.db"],
            3,
            "needs the tables' schemas: name them with --schema",
        ),
        (
            &["replay", "/dev/null", "--url", "sqlite://no/such/dir/x.db", "--schema", "/dev/null"],
            1,
            "not a JSON object of schemas",
        ),
        (
            &["replay", "/dev/null", "--url", "sqlite://x.db", "--schema", "nowhere.json"],
            1,
            "the table schemas cannot be fetched from nowhere.json",
        ),
        (&["replay", "/dev/null", "--url", "file:///"], 3, "must not be /"),
        (
            &["replay", "/dev/null", "--url-file", "nowhere"],
            3,
            "the URL file nowhere cannot be read",
        ),
    ]);
}

#[test]
fn wrong_words_for_a_server_are_named() {
    are_named(&[
        (
            &["server"],
            3,
            "this server is not enrolled: ./data/config.toml has no token and server_id",
        ),
        (&["enroll"], 3, "there is no code"),
        (&["enroll", "Q1"], 3, "a code begins with P, S, E or L"),
        (&["fork", "--supervised"], 3, "a supervised worker expects the command to begin"),
        (&["server", "help", "oracle"], 3, "there is no destination \"oracle\" in this build"),
        (&["drivers", "oracle"], 3, "there is no destination \"oracle\" in this build"),
    ]);
}

#[test]
fn wrong_words_for_a_download_are_named() {
    are_named(&[
        (
            &["download", "1.0.0", "x"],
            3,
            "this build names no place for releases: give it with --release-url",
        ),
        (
            &[
                "download",
                "1.0.0",
                "x",
                "--release-url",
                "http://127.0.0.1:1",
                "--release-key",
                "nowhere",
            ],
            3,
            "the key nowhere cannot be read",
        ),
    ]);
}

#[test]
fn wrong_words_for_the_consumer_and_the_state_are_named() {
    are_named(&[
        (&["consumer", "show"], 3, "needs credentials: name the file with --creds"),
        (
            &["consumer", "show", "--server", "nats://127.0.0.1:1"],
            5,
            "NATS at nats://127.0.0.1:1 cannot be reached",
        ),
        (&["state", "list"], 1, "holds no state yet"),
    ]);
}

/// `eds enroll` asks HQ again for half a minute before it gives up.
#[test]
fn a_place_that_is_not_of_hq_is_named() {
    are_named(&[(&["enroll", "L1", "--api-url", "not a url"], 1, "HQ at not a url")]);
}

/// A journal through the command line into SQLite, twice: the second time nothing is left to do.
#[test]
fn a_journal_is_replayed_once() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &[u8]| {
        std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("schema.json", br#"{"t":{"table":"t","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"},"n":{"type":"integer"}}}}"#);
    let journal: String = (0..100)
        .map(|n| format!("{{\"operation\":\"INSERT\",\"table\":\"t\",\"modelVersion\":\"1\",\"key\":[\"{0}\"],\"after\":{{\"id\":\"{0}\",\"n\":{n}}}}}\n", n % 40))
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, journal.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    std::fs::create_dir(dir.path().join("journal")).unwrap_or_else(|e| panic!("{e}"));
    write("journal/1.jsonl", journal.as_bytes());
    write("journal/2.jsonl.gz", &gzip.finish().unwrap_or_else(|e| panic!("{e}")));
    let replay = || {
        let output = Command::new(binary())
            .current_dir(dir.path())
            .args(["replay", "journal", "--url", "sqlite://out.db", "--schema", "schema.json"])
            .output()
            .unwrap_or_else(|e| panic!("{e}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let said = replay();
    assert!(said.contains("done: 200 events") && said.contains("stream sequence 200"), "{said}");
    let said = replay();
    assert!(
        said.contains("already applied up to line 200")
            && said.contains("done: 0 events in 0 batches"),
        "{said}"
    );
    let db =
        rusqlite::Connection::open(dir.path().join("out.db")).unwrap_or_else(|e| panic!("{e}"));
    let (rows, sum): (i64, i64) = db
        .query_row("SELECT count(*), sum(n) FROM t", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((rows, sum), (40, (60..100).sum()));
    let output = Command::new(binary())
        .current_dir(dir.path())
        .args(["state", "list"])
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(listed.contains("schema/t/1"), "{listed}");
}

/// `eds demo` at its shortest: it ends and finds every table equal.
#[test]
fn the_demo_finds_every_table_equal() {
    for url in [&[][..], &["--url", "file://files"]] {
        let (code, out, err) =
            eds(&[&["demo", "--for", "2s", "--rate", "500", "--no-nats"], url].concat());
        assert!(code == 0 && out.contains("Every table is equal"), "{out}\n{err}");
        assert!(out.contains("Without NATS: the shop feeds the pipeline directly."), "{out}");
        assert_eq!(out.contains("The first rows of \"payment\" there:"), url.is_empty(), "{out}");
    }
}

/// The demo begins nothing that it could not compare in the end.
#[test]
fn a_demo_whose_rows_cannot_be_read_back_is_refused() {
    are_named(&[(
        &["demo", "--url", "kafka://127.0.0.1:1/changes"],
        3,
        "rows in kafka cannot be read back: use sqlite, file, postgres or mysql",
    )]);
}

/// Rules of the user's choose events and say where they go; data cannot leave the folder by that.
#[test]
fn rules_choose_events_and_their_places() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    std::fs::create_dir(dir.path().join("rules")).unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write(
        "rules/config.json",
        r#"{"t": {"schema": "t.json", "path": "{{.table}}/received/{{.after.name}}/{{.table}}_{{.id}}.json"}}"#,
    );
    write(
        "rules/t.json",
        r#"{"properties": {"after": {"properties": {"n": {"type": "integer"}}}}}"#,
    );
    let event = |id: &str, table: &str, name: &str, n: &str| {
        format!(
            "{{\"operation\":\"INSERT\",\"id\":\"{id}\",\"table\":\"{table}\",\"key\":[\"{id}\"],\"after\":{{\"id\":\"{id}\",\"name\":\"{name}\",\"n\":{n}}}}}\n"
        )
    };
    write(
        "journal.jsonl",
        &[
            event("1", "t", "a", "1"),
            event("2", "t", "../../up", "2"),
            event("3", "t", "a", "true"),
            event("4", "other", "a", "1"),
        ]
        .concat(),
    );
    let run = |rules: &str| {
        let output = Command::new(binary())
            .current_dir(dir.path())
            .args(["replay", "journal.jsonl", "--url", "file://out", "--schema-validator", rules])
            .output();
        let output = output.unwrap_or_else(|e| panic!("{e}"));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run("rules");
    assert_eq!(code, Some(0), "{said}");
    let there = |path: &str| dir.path().join("out").join(path).is_file();
    assert!(
        there("t/received/a/t_1.json") && there("t/received/%2E.%2F..%2Fup/t_2.json"),
        "{said}"
    );
    assert!(!there("t/received/a/t_3.json") && !dir.path().join("out/other").exists());
    let (code, said) = run("nowhere");
    assert!(
        code == Some(3)
            && said.contains("the rules of --schema-validator cannot be used: nowhere/config.json"),
        "{said}"
    );
}
