//! A server's whole life: from nothing to its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eds::sandbox::check::TableReport;
use serde_json::{Value, json};

use super::releases::Publisher;
use crate::services::eds::{Running, binary, dead_letters};
use crate::services::hq::said;
use crate::services::postgres::{self, PASSWORD};
use crate::services::scene::Keeper;
use crate::services::site::{CODE, Site, unpacked};
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

/// A server that HQ configures, PostgreSQL as its destination, and two releases to update to.
struct ServerLife {
    site: Site,
    database: String,
    url: String,
    /// The program that the server replaces by a release.
    program: PathBuf,
    server: Running,
}

impl ServerLife {
    /// Enrolled and started, and not configured yet.
    async fn begin() -> ServerLife {
        let site = Site::with_history("life", 61, 2_000).await;
        let (database, url) = postgres::shared().database().await;
        let publisher = Publisher::new(site.dir.path());
        publisher.release("9.9.9", &publisher.passing_on("9.9.9", binary()));
        publisher.release(
            "9.9.8",
            "#!/bin/sh\ncase \"$1\" in version) echo 9.9.8;; fork) exit 7;; esac\n",
        );
        site.hq.serve_releases(publisher.folder.clone());

        site.enroll().await;
        let again = site.run(&["enroll", CODE, "--api-url", site.hq.url()]).await;
        assert!(
            again.status.code() == Some(1)
                && said(&again).contains("not valid, or was used already")
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
        ServerLife { site, database, url, program, server }
    }

    fn config(&self) -> String {
        std::fs::read_to_string(self.site.data_dir().join("config.toml")).unwrap_or_default()
    }

    async fn until_equal(&self) {
        let shop = self.site.shop();
        eventually("the database is equal to the shop", Duration::from_secs(60), async || {
            postgres::shared()
                .reports(&shop, &self.database)
                .await
                .is_ok_and(|reports| reports.iter().all(TableReport::is_equal))
        })
        .await;
    }

    async fn configure(&self, session: &str, url: &str, strategy: &str) -> Value {
        let data = json!({"url": url, "backfill": "true", "updateStrategy": strategy});
        self.site.hq_nats.ask(session, "configure", data).await.unwrap_or_default()
    }

    /// A configuration that cannot be used is answered, and leaves no trace; one that can is kept,
    /// and its answer shows no password.
    async fn takes_a_configuration(&self, session: &str) {
        let wrong = self.url.replace(&percent_encoding(PASSWORD), "wrong");
        assert_ne!(wrong, self.url);
        let reply = self.configure(session, &wrong, "").await;
        assert!(
            reply["success"] == false
                && reply["message"].as_str().is_some_and(|m| m.contains("password")),
            "{reply}"
        );
        assert!(!self.config().contains("url"));

        let reply = self.configure(session, &self.url, "standard").await;
        assert!(
            reply["success"] == true && reply["backfill"] == true && reply["sessionId"] == session,
            "{reply}"
        );
        let is_masked = |url: &str| url.starts_with("postgres://") && !url.contains(PASSWORD);
        assert!(reply["maskedURL"].as_str().is_some_and(is_masked), "{reply}");
        let config = self.config();
        assert!(config.contains("url = ") && config.contains("update_strategy = \"standard\""));
    }

    /// Imports as `data` says, and streams what is published afterwards.
    async fn imports(&self, session: &str, data: Value, events: u64) {
        let answer = self.site.order(session, "import", data).await;
        assert_eq!(answer, json!({"success": true, "sessionId": session}), "{}", self.site.log());
        self.site.publish(events).await;
        self.until_equal().await;
    }

    /// Nothing flows during a pause; everything does after it.
    async fn pauses(&self, session: &str) {
        let site = &self.site;
        assert_eq!(site.order(session, "pause", Value::Null).await["success"], true);
        site.publish(100).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let reports = postgres::shared().reports(&site.shop(), &self.database).await;
        let reports = reports.unwrap_or_default();
        assert!(!reports.iter().all(TableReport::is_equal), "it is paused");
        assert_eq!(site.order(session, "unpause", Value::Null).await["success"], true);
        self.until_equal().await;
    }

    async fn restarts_and_sends_logs(&self, session: &str) {
        let answer = self.site.order(session, "restart", Value::Null).await;
        assert_eq!(answer["success"], true);
        let logs = self.site.order(session, "sendlogs", Value::Null).await;
        assert_eq!(logs["path"], format!("/uploads/{session}/log"));
    }

    /// A release that does not work is rolled back, and the server streams on.
    async fn rolls_back_a_release(&self, session: &str) {
        let answer = self.site.order(session, "upgrade", json!({"version": "9.9.8"})).await;
        assert!(answer["success"] == false && answer["version"] == "9.9.8", "{answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains("the old program goes on"), "{answer}");
        self.site.publish(100).await;
        self.until_equal().await;
    }

    /// A release that works stays, under a new session.
    async fn updates(&self, session: &str) -> String {
        let answer = self.site.order(session, "upgrade", json!({"version": "9.9.9"})).await;
        let expected = json!({"success": true, "sessionId": session, "version": "9.9.9"});
        assert_eq!(answer, expected, "{}", self.site.log());
        let updated = self.site.session(1).await;
        let script = std::fs::read_to_string(&self.program);
        assert!(script.is_ok_and(|script| script.contains("9.9.9")));
        self.site.publish(100).await;
        self.until_equal().await;
        updated
    }

    /// A change without a key and one that breaks off become dead letters; what they hold is to be
    /// found nowhere else.
    async fn keeps_dead_letters(&self) {
        let shop = self.site.shop();
        let order = shop.tables.iter().find(|table| table.name == "order");
        let version = order.map(|table| table.version.to_owned());
        let poison = json!({"operation": "INSERT", "id": "poison", "table": "order", "key": [], "modelVersion": version, "companyId": "c0", "after": {"note": ROW}});
        let broken =
            format!("{{\"operation\":\"INSERT\",\"table\":\"order\",\"after\":{{\"id\":\"{ROW}\"");
        for (name, text) in [("x", poison.to_string()), ("y", broken)] {
            let subject = format!("dbchange.order.INSERT.c0.lc0.PUBLIC.{name}");
            self.site.nats.publish(std::iter::once((subject, text.into_bytes()))).await;
        }
        let data_dir = self.site.data_dir();
        eventually("both become dead letters", Duration::from_secs(30), async || {
            let letters = dead_letters(&self.url, &data_dir);
            letters.len() == 2 && letters.iter().all(|l| l["payload"].to_string().contains(ROW))
        })
        .await;
    }

    /// HQ deletes the server: it ends well, and is no longer enrolled.
    async fn shut_down(self, session: &str) -> Site {
        assert!(self.site.hq_nats.ping(session).await);
        let data = json!({"message": "enough", "deleted": "true"});
        let sent = self.site.hq_nats.send(session, "shutdown", data).await;
        sent.unwrap_or_else(|e| panic!("{e}"));
        let config = self.site.data_dir().join("config.toml");
        let ended = self.server.wait(Duration::from_secs(60));
        assert!(ended.status.success(), "{:?}\n{}", ended.status, ended.log);
        let config = std::fs::read_to_string(config).unwrap_or_default();
        assert!(!config.contains("server_id") && config.contains("token"));
        self.site
    }
}

/// Everything that was uploaded is a log in lines of JSON, without a secret.
fn assert_uploads_are_clean(site: &Site, secrets: &Secrets) {
    let records = site.hq.sessions();
    assert!(records.iter().all(|record| record.ended == Some(false)), "{records:?}");
    for upload in records.iter().flat_map(|record| &record.uploads) {
        assert_eq!(upload.content_type, "application/x-tgz");
        let text = unpacked(&upload.bytes);
        secrets.assert_absent(&format!("the upload {}", upload.kind), &text);
        let has_level = |line: &str| {
            serde_json::from_str::<Value>(line).is_ok_and(|line| line["level"].is_string())
        };
        assert!(text.lines().all(has_level), "{text}");
    }
    let uploads: usize = records.iter().map(|record| record.uploads.len()).sum();
    assert!(uploads >= 3, "{uploads}");
}

/// No credentials are left behind, and no secret is in a file that is not meant for it.
fn assert_files_are_clean(site: &Site, secrets: &Secrets) {
    for file in files(&site.data_dir()).iter().filter(|file| !file.ends_with("config.toml")) {
        assert!(!file.ends_with("nats.creds"), "credentials are left behind");
        let bytes = std::fs::read(file).unwrap_or_default();
        secrets.assert_absent(&file.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
}

/// Enrolled, configured, imported, streamed, paused, rolled back, updated, renewed, ended; and no
/// secret to be found.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_from_nothing_to_its_end() {
    let life = ServerLife::begin().await;
    let session = life.site.session(0).await;
    life.site.until_log("configure one at HQ", 1).await;
    life.takes_a_configuration(&session).await;
    life.imports(&session, json!({"backfill": true}), 300).await;
    life.pauses(&session).await;
    life.restarts_and_sends_logs(&session).await;
    life.rolls_back_a_release(&session).await;
    let updated = life.updates(&session).await;
    life.keeps_dead_letters().await;
    life.imports(&updated, json!({"backfill": "false"}), 0).await;

    let secrets = Secrets::of(&life.site);
    secrets.assert_absent("the list of processes", &arguments());
    let site = life.shut_down(&updated).await;
    secrets.assert_absent("the server's output", &site.log());
    assert_uploads_are_clean(&site, &secrets);
    assert_files_are_clean(&site, &secrets);
}

/// A signal to the whole group of processes, as a terminal sends it, ends both in order; so does
/// SIGTERM to the supervisor alone. Killed, it takes its worker with it.
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
