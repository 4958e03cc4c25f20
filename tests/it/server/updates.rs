//! Updates: one at a time, forward, and only to what has shown that it works.

use std::path::PathBuf;
use std::time::Duration;

use eds::sandbox::hq::Faults;
use serde_json::{Value, json};

use super::releases::Publisher;
use crate::services::eds::{Running, binary};
use crate::services::eventually;
use crate::services::site::{Site, children_of};

/// A release that is this program itself, but for a mark.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A server whose program may be replaced, and who publishes releases for it.
struct Updating {
    site: Site,
    publisher: Publisher,
    program: PathBuf,
}

impl Updating {
    async fn new(name: &str, seed: u64) -> Updating {
        let site = Site::new(name, seed).await;
        let publisher = Publisher::new(site.dir.path());
        site.hq.serve_releases(publisher.folder.clone());
        site.enroll().await;
        let program = site.dir.path().join("bin/eds");
        std::fs::create_dir_all(site.dir.path().join("bin"))
            .and_then(|()| std::fs::copy(binary(), &program))
            .unwrap_or_else(|e| panic!("{e}"));
        Updating { site, publisher, program }
    }

    fn server(&self, args: &[&str]) -> Running {
        let key = self.publisher.key_file.display().to_string();
        let (releases, url) = (format!("{}/releases", self.site.hq.url()), self.site.sqlite());
        let words = ["--self-update=always", "--release-url", &releases, "--release-key", &key];
        self.site.server_of(&self.program, &[&words[..], &["--url", &url], args].concat())
    }

    /// This program with a mark at its end: the same version, and another file.
    fn marked(&self, mark: &str) -> Vec<u8> {
        [std::fs::read(binary()).unwrap_or_else(|e| panic!("{e}")), mark.into()].concat()
    }

    fn has(&self, content: &[u8]) -> bool {
        std::fs::read(&self.program).unwrap_or_else(|e| panic!("{e}")) == content
    }

    fn is_the_old_program(&self) -> bool {
        self.has(&self.marked(""))
    }

    /// How often the program on trial was started; `None` if none is.
    fn starts(&self) -> Option<u64> {
        let note = std::fs::read(self.site.data_dir().join("update.json")).ok()?;
        let note: Value = serde_json::from_slice(&note).unwrap_or_else(|e| panic!("{e}"));
        note["starts"].as_u64()
    }

    /// HQ gives no more sessions, or does so again.
    fn no_sessions(&self, none: bool) {
        let conflicts = if none { u32::MAX } else { 0 };
        self.site.hq.set_faults(Faults { conflicts, ..Faults::default() });
    }

    /// A server that has updated itself, by its own program marked `new`, and does not come to
    /// stream, because HQ gives no session. This was the first start of the program.
    async fn unproven(&self) -> Running {
        self.publisher.release(VERSION, &self.marked("new"));
        let server = self.server(&[]);
        self.site.until_log("streaming eds-", 1).await;
        let session = self.site.session(0).await;
        self.no_sessions(true);
        let answer = self.site.order(&session, "upgrade", json!({"version": VERSION})).await;
        assert_eq!(answer["success"], true, "{answer}");
        self.site.until_log("HQ is asked again in", 1).await;
        assert!(self.has(&self.marked("new")) && self.starts() == Some(1));
        server
    }

    /// Runs a server that does not begin.
    fn ends_at_once(&self, args: &[&str]) -> String {
        let server = self.server(args);
        let ended = server.wait(Duration::from_secs(30));
        assert!(!ended.status.success(), "{}", ended.log);
        ended.log
    }

    /// Changes flow again, by whatever program is in place.
    async fn streams(&self, server: Running) {
        self.no_sessions(false);
        self.site.publish(50).await;
        self.site.until_equal().await;
        assert!(self.starts().is_none());
        assert!(server.stop().status.success());
    }

    /// A release whose worker says nothing.
    fn publish_one_that_hangs(&self, version: &str) {
        let script = format!(
            "#!/bin/sh\ncase \"$1\" in version) echo {version};; fork) exec sleep 100;; \
             *) exec '{}' \"$@\";; esac\n",
            binary()
        );
        self.publisher.release(version, &script);
    }
}

/// A second order during the trial is refused, an older version too. The program on trial is not in
/// place: a kill leaves the one that works, and the next start removes what is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_is_cut_short_leaves_the_old_program() {
    let updating = Updating::new("trial", 94).await;
    let site = &updating.site;
    updating.publish_one_that_hangs("9.9.7");
    updating.publish_one_that_hangs("9.9.8");
    updating.publish_one_that_hangs("0.0.1");
    let server = updating.server(&[]);
    site.until_log("streaming eds-trial", 1).await;
    let session = site.session(0).await;
    let refused = site.order(&session, "upgrade", json!({"version": "0.0.1"})).await;
    let said = |answer: &Value| answer["message"].as_str().unwrap_or_default().to_owned();
    assert!(said(&refused).contains("--allow-downgrade"), "{refused}");

    let sent = site.hq_nats.send(&session, "upgrade", json!({"version": "9.9.7"})).await;
    sent.unwrap_or_else(|e| panic!("{e}"));
    let is_sleeping = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.starts_with(b"sleep")
    };
    eventually("the trial begins", Duration::from_secs(60), async || {
        children_of(server.pid()).iter().any(is_sleeping)
    })
    .await;
    let refused = site.order(&session, "upgrade", json!({"version": "9.9.8"})).await;
    assert!(said(&refused).contains("an update to 9.9.7 is under way"), "{refused}");
    assert!(updating.is_the_old_program());

    server.kill();
    let server = updating.server(&[]);
    site.until_log("an update was cut short", 1).await;
    site.until_log("streaming eds-trial", 2).await;
    let staged = updating.program.with_file_name("eds.next");
    assert!(updating.is_the_old_program() && !staged.exists());
    site.publish(50).await;
    site.until_equal().await;
    assert!(server.stop().status.success());
}

/// A program whose worker works and whose server does not: whoever supervises starts it again, and
/// after three starts that came to nothing it puts the old one back. Starts count that end before a
/// server begins, too: a new program may not know what the old one was started with.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_never_comes_to_stream_is_replaced_by_the_old_one() {
    let updating = Updating::new("unproven", 96).await;
    let site = &updating.site;
    updating.unproven().await.kill();
    let said = updating.ends_at_once(&["--no-such-flag"]);
    assert!(said.contains("unexpected argument") && updating.starts() == Some(2), "{said}");
    let said = updating.ends_at_once(&["--schema-validator", "/no/such/rules"]);
    assert!(said.contains("cannot be used") && updating.starts() == Some(3), "{said}");
    assert!(updating.has(&updating.marked("new")));
    // The start after the third goes back; the old program does not know the flag either.
    let said = updating.ends_at_once(&["--no-such-flag"]);
    assert!(updating.is_the_old_program() && updating.starts().is_none(), "{said}");
    let back = format!("version {VERSION} has not come to stream: the old program is back");
    assert_eq!(site.log().matches(&back).count(), 1, "{}", site.log());
    updating.streams(updating.server(&[])).await;
}

/// Kills count as well, and the old program goes on in the same process.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_killed_before_it_streams_is_replaced_by_the_old_one() {
    let updating = Updating::new("killed", 97).await;
    let mut server = updating.unproven().await;
    for starts in 2..=3 {
        server.kill();
        server = updating.server(&[]);
        updating.site.until_log("HQ is asked again in", starts).await;
        assert_eq!(updating.starts(), Some(starts as u64));
    }
    server.kill();
    server = updating.server(&[]);
    updating.site.until_log("the old program is back", 1).await;
    updating.streams(server).await;
    assert!(updating.is_the_old_program());
}

/// Somebody who starts a second server by hand learns that one runs; the program on trial has
/// nothing to do with that.
#[tokio::test(flavor = "multi_thread")]
async fn starts_beside_a_server_that_runs_do_not_count() {
    let updating = Updating::new("beside", 98).await;
    let server = updating.unproven().await;
    for args in [&[][..], &[], &[], &["--no-such-flag"], &["--no-such-flag"], &[]] {
        updating.ends_at_once(args);
    }
    assert!(updating.starts() == Some(1) && updating.has(&updating.marked("new")));
    updating.streams(server).await;
    assert!(updating.has(&updating.marked("new")));
}

/// What a person, or a package manager, has put in the place of a program on trial stays there.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_put_there_by_hand_stays() {
    let updating = Updating::new("by-hand", 99).await;
    updating.unproven().await.kill();
    let by_hand = updating.program.with_file_name("by-hand");
    std::fs::copy(&updating.program, &by_hand)
        .and_then(|_| std::fs::write(&by_hand, updating.marked("by hand")))
        .and_then(|()| std::fs::rename(&by_hand, &updating.program))
        .unwrap_or_else(|e| panic!("{e}"));
    let server = updating.server(&[]);
    updating.site.until_log("is not the program in its place any more", 1).await;
    assert!(updating.starts().is_none());
    updating.streams(server).await;
    assert!(updating.has(&updating.marked("by hand")));
}

/// A program that would end at every start, because it does not know how it is started, is not put
/// in place.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_take_the_arguments_is_refused() {
    let updating = Updating::new("arguments", 100).await;
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in version) echo 9.9.5;; fork) exec '{0}' \"$@\";; \
         *) exec '{0}' --no-such-flag \"$@\";; esac\n",
        binary()
    );
    updating.publisher.release("9.9.5", &script);
    let server = updating.server(&[]);
    updating.site.until_log("streaming eds-arguments", 1).await;
    let session = updating.site.session(0).await;
    let answer = updating.site.order(&session, "upgrade", json!({"version": "9.9.5"})).await;
    let why = answer["message"].as_str().unwrap_or_default();
    assert!(why.contains("does not take the arguments that this server has"), "{answer}");
    assert!(updating.is_the_old_program());
    assert!(!updating.program.with_file_name("eds.next").exists());
    updating.streams(server).await;
}

/// An outage of the destination may keep a new program from showing itself for long: it can be
/// updated meanwhile, and the program that is gone back to is still the one that worked.
#[tokio::test(flavor = "multi_thread")]
async fn an_unproven_program_can_be_updated() {
    let updating = Updating::new("again", 101).await;
    let site = &updating.site;
    let server = updating.unproven().await;
    let file = site.dir.path().join("shop.db");
    let holder = rusqlite::Connection::open(file).unwrap_or_else(|e| panic!("{e}"));
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap_or_else(|e| panic!("{e}"));
    updating.no_sessions(false);
    let session = site.session(1).await;
    updating.publisher.release(VERSION, &updating.marked("newer"));
    let from = site.hq_nats.heard().len();
    let sent = site.hq_nats.send(&session, "upgrade", json!({"version": VERSION})).await;
    sent.unwrap_or_else(|e| panic!("{e}"));
    let is_on_trial = |pid: &u32| {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("eds.next\0fork")
    };
    eventually("the trial begins", Duration::from_secs(60), async || {
        children_of(server.pid()).iter().any(is_on_trial)
    })
    .await;
    updating.no_sessions(true);
    holder.execute_batch("COMMIT").unwrap_or_else(|e| panic!("{e}"));
    let answer = site.answer("upgrade-response", from).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert!(updating.has(&updating.marked("newer")));
    let previous = std::fs::read(updating.program.with_file_name("eds.previous"));
    assert!(previous.is_ok_and(|previous| previous == updating.marked("")));
    updating.streams(server).await;
}

/// An owner who wants it gets an older version.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_needs_its_owner() {
    let updating = Updating::new("older", 95).await;
    let site = &updating.site;
    updating.publisher.release("0.0.1", &updating.publisher.passing_on("0.0.1", binary()));
    let server = updating.server(&["--allow-downgrade"]);
    site.until_log("streaming eds-older", 1).await;
    let session = site.session(0).await;
    let answer = site.order(&session, "upgrade", json!({"version": "v0.0.1"})).await;
    assert_eq!(answer["success"], true, "{answer}");
    site.until_log("streaming eds-older", 3).await;
    site.publish(50).await;
    site.until_equal().await;
    assert!(!updating.is_the_old_program());
    assert!(server.stop().status.success());
}
