//! Files of many changes, in a folder and in S3: each change is in one of them, once, whatever
//! happened meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::process::Command;

use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kafka::{assert_equal, event, identity, publish, said};
use crate::services::eds::{Eds, replay, replay_in};
use crate::services::hq::Importing;
use crate::services::installed;
use crate::services::nats::Nats;
use crate::services::s3::shared;
use crate::services::scene::COMPANIES;

/// The lines of the packed files below a folder that are finished, by the files' names.
pub fn finished(folder: &Path) -> BTreeMap<String, Vec<String>> {
    unpacked(files(folder).into_iter().filter(|(name, _)| !name.contains(".eds-unfinished-")))
}

/// Where DuckDB and Apache Arrow are.
pub const PYTHON: &str = "../snowflake/bin/python";

/// The lines of packed files, by the files' names.
fn unpacked(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> BTreeMap<String, Vec<String>> {
    let lines = |packed: Vec<u8>| {
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .unwrap_or_else(|e| panic!("{e}"));
        text.lines().map(str::to_owned).collect()
    };
    files.into_iter().map(|(name, packed)| (name, lines(packed))).collect()
}

/// The files below a folder.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => found.push((
                    path.strip_prefix(folder).unwrap_or(&path).display().to_string(),
                    std::fs::read(&path).unwrap_or_default(),
                )),
            }
        }
    }
    found
}

/// The first row that DuckDB answers with.
pub fn duckdb(sql: &str) -> String {
    let python = format!("import duckdb; print(duckdb.sql({sql:?}).fetchall()[0])");
    let output = Command::new(installed(PYTHON))
        .args(["-c", &python])
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", said(&output));
    // A query that takes long shows its progress first.
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().trim().to_owned()
}

fn assert_names(found: &BTreeMap<String, Vec<String>>) {
    for (name, lines) in found {
        let event: Value = serde_json::from_str(&lines[0]).unwrap_or_default();
        let shape: Vec<&str> = name.rsplit('/').take(4).collect();
        assert!(
            shape[3] == format!("table={}", event["table"].as_str().unwrap_or_default()),
            "{name}"
        );
        assert!(
            shape[2].starts_with("date=20")
                && shape[1].starts_with("hour=")
                && shape[0].starts_with("part-")
                && shape[0].ends_with(".ndjson.gz"),
            "{name}"
        );
    }
}

/// Kills at any moment: as many lines as events were published, no more and no less.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_one_file_after_kills() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(91, ShopOptions::default());
    let (stream, published) = publish(&nats, &mut shop, 100_000).await;
    let creds = nats.server_creds("parts", COMPANIES, None);
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let folder = dir.path().join("lake");
    let eds = Eds::stream(
        &nats,
        &creds,
        &format!("file://{}?format=ndjson&freshness=50ms", folder.display()),
        &shop.schema_map(),
    );
    eds.begin();
    eds.kill_at_random(12, fastrand::Rng::with_seed(5), 150..700).await;
    eds.catch_up();
    let found = finished(&folder);
    assert_names(&found);
    let lines: Vec<&String> = found.values().flatten().collect();
    let there: BTreeSet<String> = lines.iter().map(|line| identity(line.as_bytes())).collect();
    assert!(there == published, "{} events are missing", published.difference(&there).count());
    assert_eq!(lines.len(), stream.len(), "a repeat is written over itself");
    assert_equal(
        &shop,
        lines.iter().map(|line| serde_json::from_str(line).unwrap_or_default()).collect(),
    );
    // As others read them.
    let sql = format!(
        "SELECT count(*), count(DISTINCT \"table\") FROM read_json_auto('{}/**/*.ndjson.gz', \
         hive_partitioning = true, union_by_name = true)",
        folder.display()
    );
    let tables =
        there.iter().map(|identity| identity.split(' ').next()).collect::<BTreeSet<_>>().len();
    assert_eq!(duckdb(&sql), format!("({}, {tables})", stream.len()));
}

/// The same in S3, with kills.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_one_object_after_kills() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(92, ShopOptions::default());
    let (stream, published) = publish(&nats, &mut shop, 100_000).await;
    let creds = nats.server_creds("objects-of-many", COMPANIES, None);
    let server = shared();
    let (folder, url) = server.folder();
    let eds = Eds::stream(
        &nats,
        &creds,
        &format!("{url}&format=ndjson&freshness=50ms"),
        &shop.schema_map(),
    );
    eds.begin();
    eds.kill_at_random(8, fastrand::Rng::with_seed(6), 200..900).await;
    eds.catch_up();
    let found = unpacked(
        server.objects(&folder).into_iter().filter(|(name, _)| !name.ends_with(".eds-probe")),
    );
    assert_names(&found);
    let there: BTreeSet<String> =
        found.values().flatten().map(|line| identity(line.as_bytes())).collect();
    assert!(there == published, "{} events are missing", published.difference(&there).count());
    assert_eq!(
        found.values().map(Vec::len).sum::<usize>(),
        stream.len(),
        "a repeat is written over itself"
    );
}

/// What others wrote under the same name is kept; the same again changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_others_is_written_over() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let folder = dir.path().join("lake");
    let server = shared();
    let (objects, url) = server.folder();
    for place in
        [format!("file://{}?format=ndjson", folder.display()), format!("{url}&format=ndjson")]
    {
        for id in ["one", "one", "two"] {
            let journal = format!("{}\n", event(id, "../k"));
            let output = replay_in(dir.path(), &place, &json!({}), &journal, &[]);
            assert!(output.status.success(), "{}", said(&output));
        }
    }
    for found in [
        unpacked(files(&folder)),
        unpacked(
            server.objects(&objects).into_iter().filter(|(name, _)| !name.ends_with(".eds-probe")),
        ),
    ] {
        let lines: Vec<&String> = found.values().flatten().collect();
        assert!(
            found.len() == 2 && lines.len() == 2 && found.keys().all(|name| name.contains("table=order/date=1970-01-01/hour=00/part-00000000000000000001-00000000000000000001-")),
            "{found:?}"
        );
    }
    let output = replay(
        &format!("file://{}?format=orc", folder.display()),
        &json!({}),
        &[event("e", "k")],
        &[],
    );
    assert!(
        output.status.code() == Some(3) && said(&output).contains("there is json"),
        "{}",
        said(&output)
    );
}

/// A full export: a line for each row, whose files are named by what is in them.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let folder = dir.path().join("lake");
    let importing = Importing::new(39, 1_000, 200).await;
    importing.import(&format!("file://{}?format=ndjson", folder.display()), &[]).await;
    let found = unpacked(files(&folder));
    assert!(found.keys().all(|name| name.contains("/part-import-")), "{:?}", found.keys());
    assert_equal(
        &importing.shop(),
        found
            .values()
            .flatten()
            .map(|line| serde_json::from_str(line).unwrap_or_default())
            .collect(),
    );
}
