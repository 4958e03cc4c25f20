//! `eds doctor` on an installation that is well, and on broken ones: each is found, with its cause
//! and a way out, and nothing is left behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::services::eds::{Eds, binary, data_of, schema, upsert};
use crate::services::nats::Nats;
use crate::services::site::Site;
use crate::services::{free_port, postgres};

const COMPANY: &str = "c1";
const SERVER: &str = "doctor";
const CONSUMER: &str = "eds-doctor";

/// An installation that has streamed, and where a test breaks something.
struct Installation {
    nats: Nats,
    eds: Eds,
    database: String,
    servers: String,
    creds: PathBuf,
    url: String,
    data_dir: PathBuf,
    more: Vec<String>,
}

/// What the doctor said.
struct Diagnosis {
    code: Option<i32>,
    text: String,
}

impl Diagnosis {
    /// The lines of this result by this check.
    fn lines(&self, result: &str, check: &str) -> Vec<&str> {
        let begins = format!("{result:<12} {check:<12} ");
        self.text.lines().filter(|line| line.starts_with(&begins)).collect()
    }

    /// There is one problem, found by this check, with these words and a cure.
    fn is_only(&self, check: &str, words: &[&str]) {
        let problems = self.text.lines().filter(|line| line.starts_with("problem ")).count();
        assert_eq!((self.code, problems), (Some(1), 1), "{}", self.text);
        self.has(check, words);
    }

    /// A problem is found by this check, with these words and a cure.
    fn has(&self, check: &str, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.text);
        let found = self.lines("problem", check);
        let is_it = |line: &&str| words.iter().all(|word| line.contains(word));
        assert!(found.iter().any(is_it), "{check} {words:?}\n{}", self.text);
        let problem = self.text.lines().position(|line| line.starts_with("problem"));
        let cure = problem.and_then(|at| self.text.lines().nth(at + 1));
        assert!(cure.is_some_and(|line| line.trim().starts_with("cure: ")), "{}", self.text);
    }
}

fn schemas() -> Value {
    let name = json!({"name": {"type": "string"}});
    json!({"customer": schema("customer", "1", name.clone()), "order": schema("order", "1", name)})
}

impl Installation {
    /// It has streamed three changes and was stopped; its NATS answers about streams.
    async fn new() -> Installation {
        let nats = Nats::start().await;
        let subscribe = json!({
            "allow": [format!("dbchange.*.*.{COMPANY}.*.PUBLIC.>"), "_INBOX.>"],
        });
        let creds = nats.creds(SERVER, &json!({}), &subscribe, None);
        let (database, url) = postgres::shared().database().await;
        let eds = Eds::stream(&nats, &creds, &url, &schemas().to_string());
        eds.begin();
        let installed = Installation {
            servers: nats.url(),
            data_dir: eds.data_dir(),
            more: Vec::new(),
            nats,
            eds,
            database,
            creds,
            url,
        };
        installed.publish(3).await;
        installed.eds.catch_up();
        installed
    }

    async fn publish(&self, count: usize) {
        let event = |n: usize| {
            let event = upsert("customer", "1", json!({"id": n.to_string(), "name": "x"}));
            let subject = format!("dbchange.customer.UPDATE.{COMPANY}.l1.PUBLIC.1");
            (subject, event.to_string().into_bytes())
        };
        self.nats.publish((0..count).map(event)).await;
    }

    async fn run(&self, sql: &str) {
        let client = postgres::shared().connect(&self.database).await;
        client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e}"));
    }

    async fn asks(&self, args: &[&str]) -> Diagnosis {
        let mut command = Command::new(binary());
        let schema = self.eds.dir.path().join("schema.json");
        command.env("EDS_URL", &self.url).arg("doctor").args(["--server", &self.servers]);
        command.arg("--creds").arg(&self.creds).arg("--schema").arg(schema);
        command.arg("--data-dir").arg(&self.data_dir).args(&self.more).args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.unwrap_or_else(|e| panic!("{e}")).unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("s3cret"), "{text}");
        Diagnosis { code: output.status.code(), text }
    }

    async fn doctor(&self) -> Diagnosis {
        self.asks(&[]).await
    }
}

/// The names of everything in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What EDS has recorded in the database, and which tables there are.
async fn recorded(database: &str) -> Vec<String> {
    let client = postgres::shared().connect(database).await;
    let sql = "SELECT (SELECT string_agg(c::text, ',') FROM _eds_checkpoint c) || ' ' || \
               (SELECT string_agg(relname || ':' || relfilenode, ',' ORDER BY relname) FROM \
               pg_class WHERE relnamespace = 'public'::regnamespace)";
    let rows = client.query(sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_wrong_with_what_is_well_and_nothing_is_left_behind() {
    let place = Installation::new().await;
    let (files, before) = (names(&place.data_dir), recorded(&place.database).await);
    let consumer = place.nats.consumer(CONSUMER).await;
    let said = place.doctor().await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    for (check, words) in [
        ("config", "not enrolled"),
        ("data-dir", "can be written to; no EDS uses it now"),
        ("state", "of this version"),
        ("credentials", "server doctor, companies c1"),
        ("nats", "takes the login (NATS 2."),
        ("consumer", "eds-doctor has acknowledged through sequence 3; 0 messages wait"),
        ("clock", "goes with that of NATS"),
        ("schemas", "2 tables have schemas"),
        ("destination", "opens ("),
        ("tables", "tables that fit: 2; still to be made: 0; to be changed: 0"),
        ("retention", "everything after our position, sequence 3"),
        ("letters", "no dead letters wait"),
    ] {
        let found = said.lines("ok", check);
        assert!(found.iter().any(|line| line.contains(words)), "{check}\n{}", said.text);
    }
    assert_eq!(said.lines("not checked", "hq").len(), 1, "{}", said.text);
    assert_eq!((names(&place.data_dir), recorded(&place.database).await), (files, before));
    assert_eq!(place.nats.consumer(CONSUMER).await, consumer);

    // Beside a running one, which is not disturbed.
    let running = place.eds.start(&[]);
    running.until_streaming().await;
    let said = place.doctor().await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(said.lines("ok", "data-dir")[0].contains("used by a running EDS (process"));
    let ended = running.stop();
    assert!(ended.status.success(), "{}", ended.log);

    // Of several checks only those; and for programs.
    let said = place.asks(&["--json", "--check", "nats", "--check", "disk"]).await;
    let found = data_of(said.text.as_bytes());
    let checks: Vec<&str> = found.iter().filter_map(|one| one["check"].as_str()).collect();
    assert_eq!((said.code, &checks[..]), (Some(0), &["disk", "nats"][..]), "{}", said.text);
    assert!(found.iter().all(|one| one["result"] == "ok" || one["result"] == "warning"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_on_the_way_to_nats_is_found() {
    let mut place = Installation::new().await;
    let servers =
        std::mem::replace(&mut place.servers, format!("nats://127.0.0.1:{}", free_port()));
    let said = place.doctor().await;
    said.is_only("nats", &["cannot be reached", "is it running", "[EDS-601]"]);
    assert!(said.lines("not checked", "retention")[0].contains("see the check nats"));
    place.servers = servers;

    // Of another account.
    let other = eds::sandbox::account::Account::default();
    let text = other.session_creds(SERVER, "session", &[COMPANY.to_owned()], None);
    let right = place.creds.clone();
    place.creds = place.eds.dir.path().join("other.creds");
    std::fs::write(&place.creds, text.unwrap_or_else(|e| panic!("{e}")))
        .unwrap_or_else(|e| panic!("{e}"));
    place.doctor().await.is_only("nats", &["refuses the login", "[EDS-602]"]);

    // No credentials at all.
    std::fs::write(&place.creds, "nothing").unwrap_or_else(|e| panic!("{e}"));
    place.doctor().await.has("credentials", &["it has no NATS user JWT", "[EDS-602]"]);
    let expired = place.nats.server_creds("late", &[COMPANY], Some(1_000));
    place.creds = expired;
    place.doctor().await.has("credentials", &["it expired", "[EDS-602]"]);
    place.creds = right;

    // The stream's only place is taken by somebody else.
    place.nats.allow_consumers(1).await;
    place.more = vec!["--consumer-suffix".into(), "new".into()];
    let holder = Eds::stream(&place.nats, &place.creds, &place.url, &schemas().to_string());
    holder.begin();
    place.doctor().await.has("consumer", &["has all the consumers", "eds-doctor-new", "[EDS-603]"]);
    place.more.clear();

    let admin = place.nats.admin().await;
    admin.delete_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    place.doctor().await.is_only("consumer", &["no such stream", "[EDS-603]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_destination_is_found() {
    let mut place = Installation::new().await;
    let url = place.url.clone();
    place.url = url.replace("w%25rd", "wrong");
    let said = place.doctor().await;
    said.is_only("destination", &["[EDS-303]"]);
    assert!(said.lines("not checked", "tables")[0].contains("see the check destination"));
    place.url = url.replace(&place.database, "no_such_database");
    place.doctor().await.is_only("destination", &["no_such_database", "[EDS-305]"]);
    place.url = "oracle://somewhere".into();
    place.doctor().await.is_only("destination", &["is not known to this build", "[EDS-102]"]);
    place.url = url;

    // What is in the way of a table.
    place.run("DROP TABLE \"order\"").await;
    let said = place.doctor().await;
    assert!(said.lines("ok", "tables")[0].contains("to be made: 1;"), "{}", said.text);
    place.run("CREATE VIEW \"order\" AS SELECT 'x'::text AS id, 'y'::text AS name").await;
    place.doctor().await.is_only("tables", &["\"order\"", "it is a view", "[EDS-403]"]);
    place.run("DROP VIEW \"order\"; CREATE TABLE \"order\" (number int PRIMARY KEY)").await;
    place.doctor().await.is_only("tables", &["\"order\"", "EDS did not make", "[EDS-402]"]);
    place.more = vec!["--tables".into(), "customer".into()];
    assert_eq!(place.doctor().await.code, Some(0));
}

/// The catalog tells which rights are missing, and what stands between rows and their tables.
#[tokio::test(flavor = "multi_thread")]
async fn rights_policies_and_triggers_are_found() {
    let mut place = Installation::new().await;
    place
        .run(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER audit BEFORE INSERT ON customer FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        .await;
    let said = place.doctor().await;
    let warned = said.lines("warning", "tables").concat();
    assert!(
        said.code == Some(0) && warned.contains("triggers") && warned.contains("audit"),
        "{}",
        said.text
    );

    // Somebody who may only read, and sees only what a policy shows.
    let role = format!("reader_{}", place.database);
    place
        .run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 's3cretly'; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; \
             GRANT INSERT, UPDATE, DELETE ON \"order\" TO {role}; \
             ALTER TABLE \"order\" ENABLE ROW LEVEL SECURITY"
        ))
        .await;
    let (_, at) = place.url.split_once('@').unwrap_or_default();
    place.url = format!("postgres://{role}:s3cretly@{at}");
    let said = place.asks(&["--check", "tables"]).await;
    said.has("tables", &["\"customer\"", "INSERT, UPDATE, DELETE is missing", "[EDS-304]"]);
    said.has("tables", &["\"order\"", "row level security", "[EDS-304]"]);
    said.has("tables", &["\"_eds_checkpoint\"", "is missing"]);
    assert!(
        said.text.contains("GRANT INSERT, UPDATE, DELETE ON customer TO reader_"),
        "{}",
        said.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_on_this_machine_is_found() {
    let mut place = Installation::new().await;
    let data_dir = place.data_dir.clone();
    let file = place.eds.dir.path().join("file");
    std::fs::write(&file, "").unwrap_or_else(|e| panic!("{e}"));
    place.data_dir = file.clone();
    place.doctor().await.has("data-dir", &["is no directory", "[EDS-202]"]);
    place.data_dir = file.join("data");
    place.doctor().await.has("data-dir", &["cannot be made", "[EDS-202]"]);
    place.data_dir = place.eds.dir.path().join("new");
    let said = place.doctor().await;
    assert!(said.code == Some(0) && !place.data_dir.exists(), "{}", said.text);

    place.data_dir = data_dir;
    let config = place.data_dir.join("config.toml");
    std::fs::write(&config, "token = ").unwrap_or_else(|e| panic!("{e}"));
    place.doctor().await.is_only("config", &["is not TOML", "[EDS-105]"]);
    std::fs::remove_file(&config).unwrap_or_else(|e| panic!("{e}"));

    std::fs::write(place.eds.dir.path().join("schema.json"), "{").unwrap_or_else(|e| panic!("{e}"));
    place.doctor().await.is_only("schemas", &["schema.json", "[EDS-705]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_lost_what_comes_next_is_found() {
    let mut place = Installation::new().await;
    place.publish(6).await;
    place.nats.purge(8).await;
    let words = ["no longer has sequences 4 to 7", "[EDS-603]"];
    place.doctor().await.is_only("retention", &words);

    // With the rights that HQ gives nobody may ask, unless for a moment a consumer looks.
    place.creds = place.nats.server_creds(SERVER, &[COMPANY], None);
    let said = place.doctor().await;
    assert_eq!(said.code, Some(0), "{}", said.text);
    assert!(said.lines("not checked", "retention")[0].contains("--deep"), "{}", said.text);
    let admin = place.nats.admin().await;
    let stream = admin.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    stream.delete_consumer(CONSUMER).await.unwrap_or_else(|e| panic!("{e}"));
    let deep = place.asks(&["--deep", "--check", "retention"]).await;
    deep.is_only("retention", &words);
    let info = stream.get_info().await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(info.state.consumer_count, 0);
}

/// A server learns whether it could update itself; without that it streams all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_place_of_releases_is_asked() {
    let site = Site::new("doctor-releases", 89).await;
    let ask = async |url: &str| {
        let words = ["doctor", "--check", "releases", "--release-url", url];
        let output = site.run(&words).await;
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = ask("http://127.0.0.1:1/releases?token=s3cret").await;
    assert!(code == Some(0) && said.starts_with("not checked  releases"), "{said}");
    site.enroll().await;
    let (code, said) = ask("http://127.0.0.1:1/releases?token=s3cret").await;
    assert!(code == Some(0) && said.starts_with("warning      releases"), "{said}");
    assert!(said.contains("cannot be reached") && !said.contains("s3cret"), "{said}");
    let (code, said) = ask(site.hq.url()).await;
    assert!(code == Some(0) && said.starts_with("ok           releases"), "{said}");
}
