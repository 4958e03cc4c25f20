//! A server's whole life: from nothing to its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eds::sandbox::check::TableReport;
use serde_json::{Value, json};

use super::releases::Publisher;
use crate::services::eds::binary;
use crate::services::postgres::{self, PASSWORD};
use crate::services::scene::Keeper;
use crate::services::site::{Site, unpacked};
use crate::services::{eventually, send};

/// All files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The arguments of every process, as anybody on the machine can read them.
fn arguments() -> String {
    let all = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok());
    all.map(|words| String::from_utf8_lossy(&words).replace('\0', " ") + "\n").collect()
}

/// What a row holds that cannot be stored.
const ROW: &str = "what-a-customer-wrote";

struct Secrets(Vec<String>);

impl Secrets {
    fn of(site: &Site) -> Secrets {
        let mut all = site.hq.tokens();
        all.push(ROW.to_owned());
        all.push(PASSWORD.to_owned());
        all.push(percent_encoding(PASSWORD));
        for record in site.hq.sessions() {
            let creds = record.creds.unwrap_or_default();
            all.extend(
                creds
                    .lines()
                    .filter(|line| {
                        line.len() > 20 && !line.contains("NATS") && !line.contains("SEED")
                    })
                    .map(str::to_owned),
            );
        }
        assert!(all.len() > 5);
        Secrets(all)
    }

    fn assert_absent(&self, place: &str, text: &str) {
        for secret in &self.0 {
            assert!(!text.contains(secret.as_str()), "{place} holds a secret:\n{text}");
        }
    }
}

fn percent_encoding(text: &str) -> String {
    text.bytes()
        .map(|b| {
            if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }
        })
        .collect()
}

async fn until_equal(site: &Site, database: &str) {
    let shop = site.shop();
    eventually("the database is equal to the shop", Duration::from_secs(60), async || {
        postgres::shared()
            .reports(&shop, database)
            .await
            .is_ok_and(|reports| reports.iter().all(TableReport::is_equal))
    })
    .await;
}

/// Enrolled, configured, imported, streamed, paused, updated, rolled back, renewed, ended; and no
/// secret to be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_nothing_to_its_end() {
    let site = Site::with_history("life", 61, 2_000).await;
    let (database, url) = postgres::shared().database().await;
    let publisher = Publisher::new(site.dir.path());
    publisher.release("9.9.9", &publisher.passing_on("9.9.9", binary()));
    publisher.release(
        "9.9.8",
        "#!/bin/sh\nif [ \"$1\" = version ]; then echo 9.9.8; exit 0; fi\nexit 7\n",
    );
    site.hq.publish(publisher.folder.clone());

    site.enroll().await;
    let again =
        site.run(&["enroll", crate::services::site::CODE, "--api-url", site.hq.url()]).await;
    assert!(
        again.status.code() == Some(1)
            && crate::services::hq::said(&again).contains("not valid, or was used already")
    );

    let program = site.dir.path().join("bin/eds");
    std::fs::create_dir_all(site.dir.path().join("bin"))
        .and_then(|()| std::fs::copy(binary(), &program))
        .unwrap_or_else(|e| panic!("{e}"));
    let key = publisher.key_file.display().to_string();
    let releases = format!("{}/releases", site.hq.url());
    let words =
        ["-v", "--release-url", &releases, "--release-key", &key, "--self-update", "always"];
    let server = site.server_of(&program, &words);
    let session = site.session(0).await;
    site.until_log("configure one at HQ", 1).await;

    // What cannot be used is answered, and leaves no trace.
    let wrong = url.replace(&percent_encoding(PASSWORD), "wrong");
    assert_ne!(wrong, url);
    let reply = site
        .console
        .ask(&session, "configure", json!({"url": wrong, "backfill": "true", "updateStrategy": ""}))
        .await
        .unwrap_or_default();
    assert!(
        reply["success"] == false
            && reply["message"].as_str().is_some_and(|m| m.contains("password")),
        "{reply}"
    );
    let config =
        || std::fs::read_to_string(site.data_dir().join("config.toml")).unwrap_or_default();
    assert!(!config().contains("url"));

    let reply = site
        .console
        .ask(
            &session,
            "configure",
            json!({"url": url, "backfill": "true", "updateStrategy": "standard"}),
        )
        .await
        .unwrap_or_default();
    assert!(
        reply["success"] == true
            && reply["backfill"] == true
            && reply["sessionId"] == session.as_str(),
        "{reply}"
    );
    assert!(
        reply["maskedURL"]
            .as_str()
            .is_some_and(|masked| masked.starts_with("postgres://") && !masked.contains(PASSWORD)),
        "{reply}"
    );
    assert!(config().contains("url = ") && config().contains("update_strategy = \"standard\""));

    let answer = site.order(&session, "import", json!({"backfill": true})).await;
    assert_eq!(answer, json!({"success": true, "sessionId": session}), "{}", site.log());
    site.publish(300).await;
    until_equal(&site, &database).await;

    assert_eq!(site.order(&session, "pause", Value::Null).await["success"], true);
    site.publish(100).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let reports = postgres::shared().reports(&site.shop(), &database).await.unwrap_or_default();
    assert!(!reports.iter().all(TableReport::is_equal), "it is paused");
    assert_eq!(site.order(&session, "unpause", Value::Null).await["success"], true);
    until_equal(&site, &database).await;

    assert_eq!(site.order(&session, "restart", Value::Null).await["success"], true);
    let logs = site.order(&session, "sendlogs", Value::Null).await;
    assert_eq!(logs["path"], format!("/uploads/{session}/log"));

    // A release that cannot work is rolled back, and the server streams on.
    let answer = site.order(&session, "upgrade", json!({"version": "9.9.8"})).await;
    assert!(answer["success"] == false && answer["version"] == "9.9.8", "{answer}");
    assert!(
        answer["message"].as_str().is_some_and(|m| m.contains("the old program was restored")),
        "{answer}"
    );
    site.publish(100).await;
    until_equal(&site, &database).await;

    // One that works stays, under a new session.
    let answer = site.order(&session, "upgrade", json!({"version": "9.9.9"})).await;
    assert_eq!(
        answer,
        json!({"success": true, "sessionId": session, "version": "9.9.9"}),
        "{}",
        site.log()
    );
    let updated = site.session(1).await;
    assert!(std::fs::read_to_string(&program).is_ok_and(|script| script.contains("9.9.9")));
    site.publish(100).await;
    until_equal(&site, &database).await;

    // A change that cannot be stored becomes a dead letter, and what its row holds is in no log.
    let version = site
        .shop()
        .tables
        .iter()
        .find(|table| table.name == "order")
        .map(|table| table.version.to_owned());
    let poison = json!({"operation": "INSERT", "id": "poison", "table": "order", "key": [], "modelVersion": version, "companyId": "c0", "after": {"note": ROW}});
    site.nats
        .publish(std::iter::once((
            "dbchange.order.INSERT.c0.lc0.PUBLIC.x".to_owned(),
            poison.to_string().into_bytes(),
        )))
        .await;
    let broken =
        format!("{{\"operation\":\"INSERT\",\"table\":\"order\",\"after\":{{\"id\":\"{ROW}\"");
    site.nats
        .publish(std::iter::once((
            "dbchange.order.INSERT.c0.lc0.PUBLIC.y".to_owned(),
            broken.into_bytes(),
        )))
        .await;
    let letters = site.data_dir().join("dead-letters.jsonl");
    eventually("both become dead letters", Duration::from_secs(30), async || {
        std::fs::read_to_string(&letters).is_ok_and(|text| text.matches(ROW).count() == 2)
    })
    .await;

    let answer = site.order(&updated, "import", json!({"backfill": "false"})).await;
    assert_eq!(answer, json!({"success": true, "sessionId": updated}), "{}", site.log());
    until_equal(&site, &database).await;

    let secrets = Secrets::of(&site);
    secrets.assert_absent("the list of processes", &arguments());
    assert!(site.console.ping(&updated).await);

    site.console
        .send(&updated, "shutdown", json!({"message": "enough", "deleted": "true"}))
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let ended = server.wait(Duration::from_secs(60));
    assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
    assert!(!config().contains("server_id") && config().contains("token"));

    let records = site.hq.sessions();
    assert!(records.iter().all(|record| record.ended == Some(false)), "{records:?}");
    secrets.assert_absent("the server's output", &site.log());
    for (kind, content_type, bytes) in records.iter().flat_map(|record| &record.uploads) {
        assert_eq!(content_type, "application/x-tgz");
        let text = unpacked(bytes);
        secrets.assert_absent(&format!("the upload {kind}"), &text);
        assert!(
            text.lines().all(|line| serde_json::from_str::<Value>(line)
                .is_ok_and(|line| line["level"].is_string())),
            "{text}"
        );
    }
    let uploads: usize = records.iter().map(|record| record.uploads.len()).sum();
    assert!(uploads >= 3, "{uploads}");
    for file in files(&site.data_dir())
        .iter()
        .filter(|file| !file.ends_with("config.toml") && !file.ends_with("dead-letters.jsonl"))
    {
        assert!(!file.ends_with("nats.creds"), "credentials are left behind");
        secrets.assert_absent(
            &file.display().to_string(),
            &String::from_utf8_lossy(&std::fs::read(file).unwrap_or_default()),
        );
    }
}

/// A signal to the whole group of processes, as a terminal sends it, ends both in order; so does
/// SIGTERM to the upper half alone. Killed, it takes its worker with it.
#[tokio::test(flavor = "multi_thread")]
async fn signals_end_both_processes() {
    let site = Site::new("signals", 62).await;
    site.enroll().await;
    let url = site.sqlite();
    for (round, signal) in ["TERM", "INT", "KILL"].into_iter().enumerate() {
        let server = site.server(&["--url", &url]);
        site.until_log("streaming eds-signals", round + 1).await;
        let worker = Site::worker(&server);
        // What the one before had not taken yet.
        site.until_equal().await;
        site.publish(50).await;
        if signal == "INT" {
            send(worker, signal);
        }
        send(server.pid(), signal);
        let ended = server.wait(Duration::from_secs(30));
        if signal != "KILL" {
            assert!(ended.status.success(), "{signal}: {:?}\n{}", ended.status, site.log());
        }
        eventually("the worker is gone", Duration::from_secs(40), async || {
            !Path::new(&format!("/proc/{worker}")).exists()
        })
        .await;
    }
    let ended: Vec<Option<bool>> = site.hq.sessions().iter().map(|record| record.ended).collect();
    assert_eq!(ended, [Some(false), Some(false), None]);
    // What the killed one left is swept away by the next.
    let left =
        || files(&site.data_dir()).iter().filter(|file| file.ends_with("nats.creds")).count();
    assert_eq!(left(), 1);
    let server = site.server(&["--url", &url]);
    site.until_log("streaming eds-signals", 4).await;
    site.until_equal().await;
    assert_eq!(left(), 1);
    assert!(server.stop().status.success());
    assert_eq!(left(), 0);
}
