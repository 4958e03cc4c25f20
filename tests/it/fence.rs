//! Two processes on one destination: the older one commits nothing more, and says why it ends.

use std::time::Duration;

use eds::change::Position;
use eds::destination::catalog::DRIVERS;
use eds::destination::sql::SessionTag;
use eds::destination::{Access, Claim, Epoch, Settings, Target};

use crate::services::scene::Scene;
use crate::services::{eventually, postgres, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_replaced_while_it_slept_commits_nothing_more() {
    let mut scene = Scene::new("f1", 11).await;
    let new = scene.another();
    scene.eds.begin();
    let older = scene.eds.start(&[]);
    scene.publish(4_000).await;
    eventually("the older one streams", Duration::from_secs(30), async || {
        scene.consumer().await.2 > 0
    })
    .await;
    // Asleep, perhaps within a transaction.
    send(older.pid(), "STOP");
    scene.publish(4_000).await;
    let newer = new.start(&[]);
    newer.until_streaming().await;
    scene.until_idle().await;
    scene.assert_equal().await;
    send(older.pid(), "CONT");
    scene.publish(2_000).await;
    let ended = older.wait(Duration::from_secs(60));
    assert!(
        !ended.status.success() && ended.log.contains("another EDS has taken over"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    scene.until_idle().await;
    assert!(newer.stop().status.success());
    scene.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_start_at_once_one_streams_and_nothing_is_lost() {
    let mut scene = Scene::new("f2", 12).await;
    scene.publish(20_000).await;
    let other = scene.another();
    scene.eds.begin();
    let (first, second) =
        (scene.eds.start(&["--until-caught-up"]), other.start(&["--until-caught-up"]));
    let (first, second) =
        (first.wait(Duration::from_secs(120)), second.wait(Duration::from_secs(120)));
    assert!(
        first.status.success() || second.status.success(),
        "{}\n---\n{}",
        first.log,
        second.log
    );
    for loser in [&first, &second].iter().filter(|e| !e.status.success()) {
        assert!(loser.log.contains("another EDS"), "{}", loser.log);
    }
    scene.eds.catch_up();
    scene.assert_equal().await;
}

/// One that runs is not disturbed by a second one that is started by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_started_by_mistake_ends_and_the_first_goes_on() {
    let mut scene = Scene::new("f3", 13).await;
    let second = scene.another();
    scene.eds.begin();
    let mut first = scene.eds.start(&[]);
    first.until_streaming().await;
    let ended = second.start(&[]).wait(Duration::from_secs(60));
    assert!(
        !ended.status.success() && ended.log.contains("another EDS is reading"),
        "{}",
        ended.log
    );
    assert!(first.is_running());
    scene.publish(2_000).await;
    scene.until_idle().await;
    assert!(first.stop().status.success());
    scene.assert_equal().await;
}

/// A predecessor that hangs within a transaction, its locks held, does not keep its successor out.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_predecessor_left_hanging_is_ended() {
    let mut scene = Scene::new("f4", 14).await;
    scene.eds.begin();
    scene.publish(1_000).await;
    scene.eds.catch_up();
    scene.publish(1_000).await;
    // What a session of EDS is known by, and the locks that it would hold.
    let hanging = scene.server.connect(&scene.database).await;
    let row = hanging
        .query_one("SELECT epoch FROM _eds_checkpoint", &[])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let key = SessionTag::of("\"public\".\"_eds_checkpoint\"", "eds-f4", row.get(0)).0 as i64;
    hanging
        .execute("SELECT pg_advisory_lock_shared($1)", &[&key])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    hanging
        .batch_execute("BEGIN; LOCK TABLE \"order\", _eds_checkpoint IN EXCLUSIVE MODE")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let log = scene.eds.catch_up();
    assert!(!log.contains("trying again"), "{log}");
    assert!(hanging.batch_execute("COMMIT").await.is_err(), "the hanging session was ended");
    scene.assert_equal().await;
}

/// An earlier session of a process is at its COMMIT when the next one asks how far it came.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_under_way_is_awaited_before_the_checkpoint_is_read() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let (settings, driver) = Settings::parse(&url, DRIVERS).unwrap_or_else(|e| panic!("{e}"));
    let target = Target {
        settings,
        consumer: "eds-f5".into(),
        epoch: Epoch::default(),
        companies: "*".into(),
        rules: None,
        access: Access::Write,
    };
    let connect = async || (driver.open)(&target).await.unwrap_or_else(|e| panic!("{e}"));
    let mut first = connect().await;
    let nothing = first.checkpoint(Claim::Acquire).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(nothing, None);
    let committing = server.connect(&database).await;
    let moves = "BEGIN; UPDATE _eds_checkpoint SET stream_sequence = 7, stream_time_ns = 1";
    committing.batch_execute(moves).await.unwrap_or_else(|e| panic!("{e}"));
    let looking = server.connect(&database).await;
    let waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND \
                 wait_event_type = 'Lock'";
    let commit = async {
        eventually("the next one waits", Duration::from_secs(60), async || {
            looking.query(waits, &[]).await.is_ok_and(|rows| !rows.is_empty())
        })
        .await;
        committing.batch_execute("COMMIT").await.unwrap_or_else(|e| panic!("{e}"));
    };
    // It asks again where that takes longer than it waits for a lock.
    let ask = async {
        loop {
            if let Ok(found) = connect().await.checkpoint(Claim::Verify).await {
                return found;
            }
        }
    };
    let (found, ()) = tokio::join!(ask, commit);
    assert_eq!(found, Some(Position { sequence: 7, time_ns: 1 }));
}
