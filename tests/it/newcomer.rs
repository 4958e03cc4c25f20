//! What a person meets who follows README for the first time and makes a mistake: each is made with
//! the program and real servers, and what it prints is kept word for word.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cli::golden;
use crate::services::disks::Disks;
use crate::services::eds::{binary, schema, upsert};
use crate::services::nats::Nats;
use crate::services::{free_port, postgres};

const COMPANY: &str = "c1";

/// A place with everything that README asks for.
struct FirstSteps {
    nats: Nats,
    /// Credentials of NATS.
    creds: String,
    database: String,
    url: String,
    dir: tempfile::TempDir,
    /// What was printed so far.
    told: String,
    /// Texts that are another one in each run, and what stands for them.
    names: Vec<(String, &'static str)>,
}

impl FirstSteps {
    async fn new() -> FirstSteps {
        let nats = Nats::start().await;
        let creds = nats.server_creds("first", &[COMPANY], None).display().to_string();
        let (database, url) = postgres::shared().database().await;
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let name = json!({"name": {"type": "string"}});
        let schemas = json!({"customer": schema("customer", "1", name)}).to_string();
        let event = upsert("customer", "1", json!({"id": "1", "name": "Ada"})).to_string();
        nats.publish(
            [(format!("dbchange.customer.UPDATE.{COMPANY}.l1.PUBLIC.1"), event.clone().into())]
                .into_iter(),
        )
        .await;
        let mut place =
            FirstSteps { nats, creds, database, url, dir, told: String::new(), names: vec![] };
        place.write("schema.json", &schemas);
        place.write("events.jsonl", &format!("{event}\n"));
        place.stands_for(&place.dir.path().display().to_string(), "DIR");
        place.stands_for(&place.nats.url(), "nats://NATS");
        place.stands_for(
            &postgres::shared().url("x").split('@').nth(1).unwrap_or_default().replace("/x", ""),
            "DATABASE",
        );
        place.stands_for(&place.database.clone(), "shop");
        place.stands_for(&place.creds.clone(), "server.creds");
        place
    }

    fn stands_for(&mut self, text: &str, name: &'static str) {
        self.names.push((text.to_owned(), name));
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    }

    fn plain(&self, text: &str) -> String {
        let replaced = |text: String, (from, to): &(String, &str)| text.replace(from.as_str(), to);
        self.names.iter().fold(text.to_owned(), replaced)
    }

    /// Makes a mistake, by arguments or by variables: how the program ends, and all that it prints.
    fn makes(&mut self, mistake: &str, url: &str, args: &[&str]) {
        self.makes_within(mistake, Command::new(binary()), url, args);
    }

    fn makes_within(&mut self, mistake: &str, mut command: Command, url: &str, args: &[&str]) {
        command.args(args).arg("--timestamp=false").current_dir(self.dir.path());
        command.env_remove("EDS_URL").env_remove("PORT");
        if !url.is_empty() {
            command.env("EDS_URL", url);
        }
        let output = command.output().unwrap_or_else(|e| panic!("{e}"));
        let out = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&out).into_owned();
        assert!(!said.contains("s3cret"), "{said}");
        let url = if url.is_empty() { String::new() } else { format!("EDS_URL='{}' ", shown(url)) };
        let line = self.plain(&format!("{url}eds {}", args.join(" ")));
        let said = self.plain(&said);
        self.told += &format!(
            "## {mistake}\n$ {line}\n{}\nexit code {}\n\n",
            said.trim_end(),
            output.status.code().unwrap_or(-1)
        );
    }

    /// The arguments of a stream that ends by itself.
    fn stream(&self, more: &[&str]) -> Vec<String> {
        let server = self.nats.url();
        let all =
            ["stream", "--server", &server, "--creds", &self.creds, "--schema", "schema.json"];
        let words =
            all.iter().chain(&["--until-caught-up", "--restart", "--port", "0"]).chain(more);
        words.map(|word| (*word).to_owned()).collect()
    }

    fn streams(&mut self, mistake: &str, url: &str, more: &[&str]) {
        let args = self.stream(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.makes(mistake, url, &args);
    }
}

/// A URL as a person writes it down, without the test's password.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.split_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://eds:secret@{place}"),
        _ => url.to_owned(),
    }
}

/// README's first stream, as it stands there but for addresses: the rows are there.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_stream_leaves_rows() {
    let mut place = FirstSteps::new().await;
    let url = place.url.clone();
    place.streams("no mistake", &url, &[]);
    let client = postgres::shared().connect(&place.database).await;
    let row = client.query_one("SELECT name FROM customer WHERE id = '1'", &[]).await;
    let name: String = row.map(|row| row.get(0)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(name, "Ada");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_with_the_destination_are_explained() {
    let mut place = FirstSteps::new().await;
    let url = place.url.clone();
    let server = postgres::shared();
    let nobody = free_port().to_string();
    place.stands_for(&format!("127.0.0.1:{nobody}"), "NOBODY");
    place.streams("no destination", "", &[]);
    place.streams("no such kind of destination", "postgre://eds@localhost/shop", &[]);
    place.streams("a URL that is none", "localhost:5432/shop", &[]);
    place.streams("the wrong port", &format!("postgres://eds@127.0.0.1:{nobody}/shop"), &[]);
    place.streams("the wrong password", &url.replace("w%25rd", "wrong"), &[]);
    place.streams(
        "a password that is not percent-encoded",
        &url.replace("%2Fp%40ss", "/p@ss"),
        &[],
    );
    place.streams("the wrong database", &server.url("no_such_database"), &[]);
    let client = server.connect(&place.database).await;
    let role = format!("r{}", place.database);
    let made = format!("CREATE ROLE {role} LOGIN PASSWORD 's3cretly'");
    client.batch_execute(&made).await.unwrap_or_else(|e| panic!("{e}"));
    place.names.insert(0, (role.clone(), "eds"));
    let (_, at) = url.split_once('@').unwrap_or_default();
    place.streams("no rights", &format!("postgres://{role}:s3cretly@{at}"), &[]);
    place.streams("no host of that name", "postgres://eds@no-such-host.invalid/shop", &[]);
    golden("mistakes-destination.txt", &place.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_with_nats_are_explained() {
    let mut place = FirstSteps::new().await;
    let (url, creds) = (place.url.clone(), place.creds.clone());
    let nobody = free_port().to_string();
    place.stands_for(&format!("127.0.0.1:{nobody}"), "NOBODY");
    let away = format!("nats://127.0.0.1:{nobody}");
    let base = ["stream", "--schema", "schema.json", "--until-caught-up", "--port", "0"];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    place.makes(
        "no NATS there",
        &url,
        &[&base[..], &["--server", &away, "--creds", &creds]].concat(),
    );
    place.makes("no credentials", &url, &with(&["--server", "nats://nats.example.com"]));
    place.makes("no such credentials file", &url, &with(&["--creds", "nowhere.creds"]));
    place.makes("another file as credentials", &url, &with(&["--creds", "schema.json"]));
    let expired = place.nats.server_creds("late", &[COMPANY], Some(1_000)).display().to_string();
    place.stands_for(&expired, "expired.creds");
    let server = place.nats.url();
    place.makes(
        "an expired credential",
        &url,
        &[&base[..], &["--server", &server, "--creds", &expired]].concat(),
    );
    let other = eds::sandbox::account::Account::default();
    let text = other.session_creds("first", "session", &[COMPANY.to_owned()], None);
    place.write("other.creds", &text.unwrap_or_else(|e| panic!("{e}")));
    place.makes(
        "a credential of another account",
        &url,
        &[&base[..], &["--server", &server, "--creds", "other.creds"]].concat(),
    );
    let admin = place.nats.admin().await;
    admin.delete_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    place.streams("no stream", &url, &[]);
    golden("mistakes-nats.txt", &place.told);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_with_files_and_ports_are_explained() {
    let mut place = FirstSteps::new().await;
    let url = place.url.clone();
    place.write("list.json", "[]");
    place.write("broken.json", "{\"customer\":");
    place.write("event.json", &upsert("customer", "1", json!({"id": "1"})).to_string());
    for (mistake, file) in [
        ("no schema file", "nowhere.json"),
        ("a schema file that is cut off", "broken.json"),
        ("a schema file of another form", "list.json"),
        ("an event as a schema file", "event.json"),
    ] {
        place.streams(mistake, &url, &["--schema", file]);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    let port = taken.local_addr().map(|at| at.port().to_string()).unwrap_or_else(|e| panic!("{e}"));
    place.stands_for(&port, "PORT");
    place.streams("a port that is taken", &url, &["--port", &port]);
    place.streams(
        "an address that is not of this machine",
        &url,
        &["--bind", "192.0.2.1", "--port", "9"],
    );
    place.streams("a file as data directory", &url, &["--data-dir", "schema.json"]);
    place.makes("no such journal", &url, &["replay", "nowhere.jsonl", "--schema", "schema.json"]);
    place.makes("a file with a secret that is not there", "", &["stream", "--url-file", "nowhere"]);
    place.makes("not enrolled", "", &["server", "--silent"]);
    place.makes("no state yet", "", &["state", "list", "--data-dir", "new"]);
    place.makes("no such code", "", &["explain", "EDS-999"]);
    golden("mistakes-files.txt", &place.told);
}

/// A disk without a free page, of the data directory and of a destination that is a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_explained() {
    let mut place = FirstSteps::new().await;
    let disk = place.dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap_or_else(|e| panic!("{e}"));
    let Some(mut disks) = Disks::on(&[&disk], "root") else { return };
    assert!(disks.fill(&disk));
    // One page is left of a disk to which nothing was ever written.
    let filled = disks
        .enter()
        .args(["sh", "-c", "head -c 4096 /dev/zero > \"$0/rest\""])
        .arg(&disk)
        .status();
    assert!(filled.is_ok_and(|status| status.success()));
    let dir = place.dir.path().display().to_string();
    let within = |disks: &Disks| {
        let mut command = disks.enter();
        command.args(["env", "-C", &dir]).arg(binary());
        command
    };
    let url = place.url.clone();
    let args = ["replay", "events.jsonl", "--schema", "schema.json", "--data-dir", "disk/data"];
    place.makes_within("no space for the data directory", within(&disks), &url, &args);
    let args = ["replay", "events.jsonl", "--schema", "schema.json"];
    place.makes_within(
        "no space for the destination",
        within(&disks),
        "sqlite://disk/shop.db",
        &args,
    );
    golden("mistakes-disk.txt", &place.told);
}

#[test]
fn mistakes_with_words_are_explained() {
    let mut told = String::new();
    for words in [
        &["strem"][..],
        &["sttream", "--url", "x"],
        &["consumer", "shwo"],
        &["stream", "--tabels", "a"],
        &["stream", "--schema-change", "widne"],
        &["stream", "--port", "http"],
        &["import", "--time-offset", "yesterday", "--url", "file://out"],
        &["doctor", "--check", "disks"],
        &["explain", "EDS-99"],
        &["dlq", "show"],
        &["drivers", "oracle"],
    ] {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let output = Command::new(binary()).args(words).current_dir(dir.path()).output();
        let output = output.unwrap_or_else(|e| panic!("{e}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().unwrap_or(-1);
        assert!(code == 1 || code == 3, "{words:?}: {said}");
        assert!(output.stdout.is_empty(), "{words:?}");
        told += &format!("$ eds {}\n{}\nexit code {code}\n\n", words.join(" "), said.trim_end());
    }
    golden("mistakes-words.txt", &told);
}

/// What docs/troubleshooting.md shows of the program is what the program printed.
#[test]
fn troubleshooting_quotes_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let printed: String = ["destination", "nats", "files", "disk", "words"]
        .iter()
        .map(|part| read(&format!("tests/golden/mistakes-{part}.txt")))
        .collect();
    let page = read("docs/troubleshooting.md");
    let quoted: Vec<&str> = page.lines().filter(|line| line.starts_with("eds: ")).collect();
    let wrong: Vec<&&str> = quoted.iter().filter(|line| !printed.contains(**line)).collect();
    assert!(!quoted.is_empty() && wrong.is_empty(), "nothing prints {wrong:#?}");
}

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A block of README that begins with these words.
fn block(begins: &str) -> String {
    let readme = readme();
    let blocks = readme.split("```").skip(1).step_by(2);
    let mut bodies = blocks.filter_map(|block| block.split_once('\n').map(|(_, body)| body));
    let found = bodies.find(|body| body.starts_with(begins));
    found.unwrap_or_else(|| panic!("no block begins with {begins:?}")).to_owned()
}

/// A line without what differs from run to run.
fn form(line: &str) -> String {
    let word = |word: &str| match word {
        path if path.contains("/eds-demo/") => "PATH".to_owned(),
        word => word.chars().filter(|c| !c.is_ascii_digit() && *c != '.').collect(),
    };
    let unit = |word: String| match word.as_str() {
        "s" | "ms" | "µs" => "TIME".to_owned(),
        _ => word,
    };
    let words: Vec<String> = line.split_whitespace().map(word).map(unit).collect();
    words.join(" ")
}

/// README shows every line that the demo prints, and none that it does not.
#[test]
fn readme_shows_what_the_demo_prints() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let words = ["demo", "--for", "5s", "--no-nats"];
    let output = Command::new(binary()).args(words).current_dir(dir.path()).output();
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    let forms = |text: &str| -> std::collections::BTreeSet<String> {
        let is_way = |line: &&str| !line.contains("NATS") && !line.is_empty();
        text.lines().filter(is_way).map(form).collect()
    };
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(forms(&block("A shop with")), forms(&printed), "{printed}");
}

/// README's event becomes README's row.
#[tokio::test(flavor = "multi_thread")]
async fn readme_shows_the_row_of_its_event() {
    let event: Value =
        serde_json::from_str(&block("{\"operation\"")).unwrap_or_else(|e| panic!("{e}"));
    let string = json!({"type": "string"});
    let properties = json!({
        "firstName": string, "city": string, "creditLimitCents": {"type": "integer"},
        "tags": {"type": "array", "items": string},
        "lastVisit": {"type": "string", "format": "date-time"},
    });
    let schemas = json!({"customer": schema("customer", "b041", properties)});
    let (database, url) = postgres::shared().database().await;
    let done = crate::services::eds::replay(&url, &schemas, &[event], &[]);
    assert!(done.status.success(), "{done:?}");
    let table = block(" id ");
    let cells = |line: &str| -> Vec<String> {
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let lines: Vec<Vec<String>> =
        table.lines().filter(|line| !line.contains("---")).map(cells).collect();
    let columns: Vec<String> = lines[0].iter().map(|name| format!("\"{name}\"::text")).collect();
    let client = postgres::shared().connect(&database).await;
    let utc = client.batch_execute("SET TIME ZONE 'UTC'").await;
    utc.unwrap_or_else(|e| panic!("{e}"));
    let query = format!("SELECT {} FROM customer", columns.join(", "));
    let row = client.query_one(&query, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let found: Vec<String> = (0..columns.len()).map(|i| row.get(i)).collect();
    assert_eq!(found, lines[1]);
}

/// The document under `--json` is whole whatever happens.
#[test]
fn a_document_tells_an_error_too() {
    let output = Command::new(binary()).args(["explain", "EDS-999", "--json"]).output();
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(told["error"]["code"], "EDS-106", "{told}");
    assert_eq!((&told["error"]["exit_code"], &told["data"]), (&json!(3), &json!([])));
}
