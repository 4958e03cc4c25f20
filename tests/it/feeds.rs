//! JetStream as it comes: narrow rights, other people's consumers, streams that are cut or
//! recreated.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use eds::sandbox::check;
use eds::sandbox::shop::{Shop, ShopOptions};

use crate::parts::files;
use crate::services::eds::Eds;
use crate::services::nats::Nats;
use crate::services::scene::{COMPANIES, Scene, publish};
use crate::services::{eventually, send};

/// A credential for one company brings that company's rows and no others.
#[tokio::test(flavor = "multi_thread")]
async fn one_company_sees_only_itself() {
    let mut scene = Scene::new("all", 31).await;
    scene.publish(3_000).await;
    let creds = scene.nats.server_creds("one", &["c1"], None);
    Eds::stream(&scene.nats, &creds, &scene.url, &scene.shop.schema_map())
        .with(&["--restart"])
        .catch_up_first();
    let client = scene.server.connect(&scene.database).await;
    let found = client
        .query("SELECT DISTINCT \"companyId\" FROM \"order\"", &[])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["c1"]);
}

/// What is not needed does not come over the wire.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_not_needed_are_not_delivered() {
    let mut scene = Scene::new("narrow", 45).await;
    scene.publish(3_000).await;
    scene.another().with(&["--restart", "--tables", "customer"]).catch_up_first();
    let admin = scene.nats.admin().await;
    let stream = admin.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    let info = stream.consumer_info("eds-narrow").await.unwrap_or_else(|e| panic!("{e}"));
    let of_company = |company: &&str| format!("dbchange.customer.*.{company}.*.PUBLIC.>");
    let filters: Vec<String> = COMPANIES.iter().map(of_company).collect();
    assert_eq!(info.config.filter_subjects, filters);
    assert!(info.delivered.consumer_sequence < 3_000, "{:?}", info.delivered);
    let client = scene.server.connect(&scene.database).await;
    let found = client.query_one("SELECT count(*) FROM customer", &[]).await;
    let customers: i64 = found.unwrap_or_else(|e| panic!("{e}")).get(0);
    let table = scene.shop.tables.iter().position(|t| t.name == "customer");
    let alive = table.map_or(0, |table| scene.shop.alive(table).count());
    assert_eq!(customers, alive as i64);
}

/// With an acknowledgement for each message the end is the same.
#[tokio::test(flavor = "multi_thread")]
async fn explicit_acknowledgement_ends_equal() {
    let mut scene = Scene::new("explicit", 32).await;
    scene.publish(8_000).await;
    scene.another().with(&["--restart", "--ack", "explicit"]).catch_up_first();
    scene.assert_equal().await;
    assert!(scene.is_idle().await);
}

/// Credentials that have expired, that lack a right, or that the server does not know are told
/// apart.
#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_named() {
    let (scene, other) = (Scene::new("known", 33).await, Nats::start().await);
    let expired = scene.nats.server_creds("expired", COMPANIES, Some(1_000_000_000));
    let foreign = other.server_creds("foreign", COMPANIES, None);
    let rights = serde_json::json!({"allow": ["_INBOX.>"]});
    let subjects = serde_json::json!({"allow": ["dbchange.*.*.c0.*.PUBLIC.>", "_INBOX.>"]});
    let narrow = scene.nats.creds("narrow", &rights, &subjects, None);
    for (creds, expected) in [
        (expired, "expired"),
        (foreign, "refuses the login"),
        (narrow, "do the credentials allow publishing to $JS.API.CONSUMER.>"),
    ] {
        let ended = Eds::stream(&scene.nats, &creds, &scene.url, &scene.shop.schema_map())
            .start(&[])
            .wait(Duration::from_secs(60));
        assert!(
            !ended.status.success() && ended.log.contains(expected),
            "{expected}: {}",
            ended.log
        );
    }
}

/// Credentials that expire while EDS streams: it says so and what to do, takes no others', and goes
/// on once its own were renewed in their file.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_are_read_again_from_their_file() {
    let mut scene = Scene::new("expiring", 53).await;
    let until = |seconds| Some(eds::clock::now_s() + seconds);
    let file = scene.eds.data_dir().with_file_name("renewed.creds");
    let put = |creds: std::path::PathBuf| {
        let new = file.with_extension("new");
        std::fs::copy(creds, &new)
            .and_then(|_| std::fs::rename(&new, &file))
            .unwrap_or_else(|e| panic!("{e}"));
    };
    put(scene.nats.server_creds("expiring", COMPANIES, None));
    let eds = Eds::stream(&scene.nats, &file, &scene.url, &scene.shop.schema_map());
    eds.begin();
    scene.publish(500).await;
    put(scene.nats.server_creds("expiring", COMPANIES, until(15)));
    let running = eds.start(&[]);
    running.until_log("streaming eds-expiring", Duration::from_secs(60)).await;
    let cure = format!("put new ones into {}", file.display());
    running.until_log(&cure, Duration::from_secs(60)).await;
    scene.publish(500).await;
    put(scene.nats.server_creds("somebody", COMPANIES, None));
    running.until_log("they are those of server", Duration::from_secs(60)).await;
    put(scene.nats.server_creds("expiring", COMPANIES, until(3_600)));
    running.until_log("were renewed, and are used from now on", Duration::from_secs(60)).await;
    scene.publish(500).await;
    scene.until_equal().await;
    assert!(running.stop().status.success());
}

/// Somebody deletes the consumer while it is in use: EDS recreates it, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_recreated() {
    let mut scene = Scene::new("deleted", 34).await;
    scene.eds.begin();
    scene.publish(5_000).await;
    let running = scene.eds.start(&[]);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _ =
            scene.nats.admin().await.delete_consumer_from_stream("eds-deleted", "dbchange").await;
        scene.publish(3_000).await;
    }
    scene.until_equal().await;
    assert!(running.stop().status.success());
}

/// The durable of the predecessor is taken over where it stands, with what it had under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_the_predecessor_is_taken_over() {
    let mut scene = Scene::new("upstream", 35).await;
    let config = pull::Config {
        durable_name: Some("eds-upstream".into()),
        ack_policy: AckPolicy::Explicit,
        max_deliver: 20,
        max_waiting: 1,
        max_ack_pending: 25_000,
        max_batch: 500,
        filter_subjects: COMPANIES.iter().map(|c| format!("dbchange.*.*.{c}.*.PUBLIC.>")).collect(),
        ..Default::default()
    };
    let consumer = scene
        .nats
        .admin()
        .await
        .create_consumer_on_stream(config, "dbchange")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    scene.publish(2_000).await;
    let mut batch = futures::StreamExt::take(
        consumer.fetch().max_messages(300).messages().await.unwrap_or_else(|e| panic!("{e}")),
        300,
    );
    while let Some(message) = futures::StreamExt::next(&mut batch).await {
        drop(message);
    }
    scene.eds.catch_up();
    scene.assert_equal().await;
    assert!(scene.is_idle().await);
}

/// EDS reports what retention removed before it was read, and not what was removed after it was
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_reported_and_only_a_gap_is() {
    let mut scene = Scene::new("gap", 36).await;
    scene.eds.begin();
    scene.publish(1_000).await;
    scene.eds.catch_up();
    let admin = scene.nats.admin().await;
    let stream = async || admin.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    // All of it was applied: its removal loses nothing.
    stream().await.purge().await.unwrap_or_else(|e| panic!("{e}"));
    admin
        .delete_consumer_from_stream("eds-gap", "dbchange")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    scene.publish(100).await;
    let log = scene.eds.catch_up();
    assert!(!log.contains("changes may be missing"), "{log}");
    scene.publish(500).await;
    stream().await.purge().sequence(1_400).await.unwrap_or_else(|e| panic!("{e}"));
    let log = scene.eds.catch_up();
    assert!(
        log.contains("changes may be missing")
            && log.contains("1101 to 1399")
            && log.contains("import"),
        "{log}"
    );
}

/// A stream is deleted and recreated with so many events. EDS says `notice` once, and reads them
/// from their beginning.
async fn a_stream_is_recreated(name: &str, seed: u64, events: u64, notice: &str) {
    let mut scene = Scene::new(name, seed).await;
    scene.eds.begin();
    scene.publish(1_000).await;
    scene.eds.catch_up();
    scene.nats.allow_consumers(1).await;
    scene.publish(events).await;
    let log = scene.eds.catch_up();
    assert!(log.contains(notice), "{log}");
    scene.assert_equal().await;
    let log = scene.eds.catch_up();
    assert!(!log.contains(notice), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_stream_is_read_from_its_beginning() {
    a_stream_is_recreated("anew", 37, 300, ": it was recreated").await;
}

/// One that has grown past our position meanwhile is known by the message there.
#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_stream_that_has_grown_is_read_from_its_beginning() {
    a_stream_is_recreated("grown-anew", 38, 1_300, "has another message at sequence 1000").await;
}

/// A stream that is deleted while EDS runs is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_vanishes_is_waited_for() {
    let mut scene = Scene::new("vanished", 39).await;
    scene.eds.begin();
    scene.publish(500).await;
    let running = scene.eds.start(&[]);
    scene.until_equal().await;
    let admin = scene.nats.admin().await;
    admin.delete_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    running.until_log("the stream is gone", Duration::from_secs(30)).await;
    scene.nats.stream().await;
    scene.publish(200).await;
    scene.until_equal().await;
    assert!(running.stop().status.success());
}

/// A second consumer has the only place that the stream allows: what to do about it is said.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_another_consumer_has_is_named() {
    let scene = Scene::new("second", 40).await;
    let config = pull::Config { durable_name: Some("other".into()), ..Default::default() };
    let admin = scene.nats.admin().await;
    admin.create_consumer_on_stream(config, "dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    let ended = scene.eds.start(&["--restart"]).wait(Duration::from_secs(60));
    assert!(
        ended.status.code() == Some(1) && ended.log.contains("another consumer has the place"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
}

/// Two processes with one name, into a destination that cannot tell them apart: the one whose
/// consumer was taken while it was away ends, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_the_former_ends() {
    let mut scene = Scene::new("twice", 41).await;
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let url = format!("file://{}", dir.path().display());
    let creds = scene.nats.server_creds("twice", COMPANIES, None);
    let eds = || Eds::stream(&scene.nats, &creds, &url, &scene.shop.schema_map());
    let (former, latter) = (eds(), eds());
    let former = former.start(&["--restart"]);
    former.until_streaming().await;
    send(former.pid(), "STOP");
    // Its last pull ends after five seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let latter = latter.start(&["--restart"]);
    latter.until_streaming().await;
    send(former.pid(), "CONT");
    // Two that read one consumer notice it as soon as messages come.
    publish(&scene.nats, &mut scene.shop, 50).await;
    let ended = former.wait(Duration::from_secs(60));
    assert!(
        !ended.status.success() && ended.log.contains("another EDS has taken over"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    publish(&scene.nats, &mut scene.shop, 50).await;
    eventually("the other one goes on", Duration::from_secs(30), async || {
        std::fs::read_dir(dir.path()).is_ok_and(|entries| entries.count() > 0)
    })
    .await;
    assert!(latter.stop().status.success());
}

/// What is known of one destination says nothing about another: from A to B and back to A the
/// stream goes on where A is, although B has acknowledged more.
#[tokio::test(flavor = "multi_thread")]
async fn each_destination_has_its_own_position() {
    let mut scene = Scene::new("places", 43).await;
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let url = |name: &str| format!("file://{}", dir.path().join(name).display());
    let names = |name: &str| files(&dir.path().join(name)).into_iter().collect::<BTreeMap<_, _>>();
    let creds = scene.nats.server_creds("places", COMPANIES, None);
    let eds = Eds::stream(&scene.nats, &creds, &url("a"), &scene.shop.schema_map());
    let into = |name: &str, restart: &str| {
        let ended = eds
            .start(&["--until-caught-up", restart, "--url", &url(name)])
            .wait(Duration::from_secs(120));
        assert!(ended.status.success(), "{}", ended.log);
    };
    publish(&scene.nats, &mut scene.shop, 60).await;
    into("a", "--restart");
    publish(&scene.nats, &mut scene.shop, 50).await;
    into("b", "--restart=false");
    publish(&scene.nats, &mut scene.shop, 40).await;
    into("a", "--restart=false");
    into("all", "--restart");
    assert_eq!((names("a").len(), names("b").len()), (150, 50));
    assert_eq!(names("a"), names("all"));
    // A change in the same second as another of its row has the name of that one.
    let all = names("all");
    assert!(names("b").keys().all(|name| all.contains_key(name)));
}

/// A server that was enrolled again has another name: what its former self has written is neither
/// ignored nor doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_another_name_is_asked_about() {
    let mut scene = Scene::new("former", 91).await;
    scene.nats.allow_consumers(2).await;
    scene.publish(120).await;
    scene.eds.begin();
    scene.eds.catch_up();
    scene.publish(80).await;
    let creds = scene.nats.server_creds("latter", &["c0", "c1"], None);
    let latter = Eds::stream(&scene.nats, &creds, &scene.url, &scene.shop.schema_map());
    for (adopt, expected) in [
        (&[][..], "--adopt-checkpoint NAME resumes"),
        (
            &["--adopt-checkpoint", "eds-nobody"],
            "no checkpoint of \"eds-nobody\" to adopt; it has eds-former (stream sequence 120)",
        ),
    ] {
        let ended = latter.start(adopt).wait(Duration::from_secs(30));
        assert!(
            ended.status.code() == Some(3) && ended.log.contains(expected),
            "{:?}\n{}",
            ended.status,
            ended.log
        );
    }
    // With the rights to all companies and the data directory of the former one, from where that
    // ended; after that it knows its own position.
    let creds = scene.nats.server_creds("latter", COMPANIES, None);
    let data_dir = scene.eds.data_dir().display().to_string();
    let latter = Eds::stream(&scene.nats, &creds, &scene.url, &scene.shop.schema_map())
        .with(&["--data-dir", &data_dir]);
    let ended = latter
        .start(&["--adopt-checkpoint=eds-former", "--until-caught-up"])
        .wait(Duration::from_secs(60));
    assert!(ended.status.success(), "{}", ended.log);
    scene.assert_equal().await;
    scene.publish(50).await;
    latter.catch_up();
    scene.assert_equal().await;
}

/// EDS reports a company that the credentials cover from now on.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_company_needs_an_import() {
    let mut scene = Scene::new("grown", 92).await;
    let few = scene.nats.server_creds("grown", &["c0", "c1"], None);
    let eds = Eds::stream(&scene.nats, &few, &scene.url, &scene.shop.schema_map());
    scene.publish(60).await;
    eds.catch_up_first();
    scene.publish(20).await;
    assert!(!eds.catch_up().contains("is new to this destination"));
    let all = scene.nats.server_creds("grown", COMPANIES, None);
    let eds = Eds::stream(&scene.nats, &all, &scene.url, &scene.shop.schema_map());
    let log = eds.catch_up();
    assert!(
        log.contains("company c2 is new to this destination") && !log.contains("company c0"),
        "{log}"
    );
}

/// Who has more companies than the server takes at once is told what cures it: the credentials name
/// each of them in one line, and the consumer in one request.
#[tokio::test(flavor = "multi_thread")]
async fn more_companies_than_the_server_takes_are_an_error_with_its_cure() {
    let companies: Vec<String> = (0..100).map(|n| format!("{n:024x}")).collect();
    let companies: Vec<&str> = companies.iter().map(String::as_str).collect();
    for (more, cure) in [
        ("", "max_control_line"),
        ("max_control_line: 64KB\nmax_payload: 4KB\n", "raise its max_payload"),
    ] {
        let nats = Nats::with(more).await;
        let creds = nats.server_creds("many", &companies, None);
        let eds = Eds::stream(&nats, &creds, "sqlite://:memory:", "{}");
        let ended = eds.start(&["--restart"]).wait(Duration::from_secs(60));
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(ended.log.contains(cure), "{}", ended.log);
    }
    // The same number of them is no trouble to a server that takes it.
    let nats = Nats::with("max_control_line: 64KB\n").await;
    let creds = nats.server_creds("many", &companies, None);
    let eds = Eds::stream(&nats, &creds, "sqlite://:memory:", "{}");
    eds.begin();
}

/// NATS by TLS, with an authority of the customer's own.
#[tokio::test(flavor = "multi_thread")]
async fn nats_may_speak_tls() {
    let nats = Nats::encrypted().await;
    let other = crate::services::certs::certificates()
        .map(|[other, ..]| other)
        .unwrap_or_else(|e| panic!("{e}"));
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let other =
        crate::services::certs::write(dir.path(), "other.pem", &other).display().to_string();
    let authority =
        nats.authority.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    let creds = nats.server_creds("tls", COMPANIES, None);
    let mut shop = Shop::new(93, ShopOptions::default());
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    for wrong in [&[][..], &["--nats-ca", &other]] {
        let ended = eds.start(wrong).wait(Duration::from_secs(30));
        assert!(
            ended.status.code() == Some(1) && ended.log.contains("no encrypted connection to NATS"),
            "{:?}\n{}",
            ended.status,
            ended.log
        );
    }
    let encrypted = nats.url().replace("nats://", "tls://");
    for (round, server) in [nats.url(), encrypted].into_iter().enumerate() {
        publish(&nats, &mut shop, 100).await;
        let restart = format!("--restart={}", round == 0);
        let ended = eds
            .start(&["--nats-ca", &authority, "--server", &server, "--until-caught-up", &restart])
            .wait(Duration::from_secs(30));
        assert!(ended.status.success(), "{server}: {}", ended.log);
        let reports = check::sqlite(&shop, &dir.path().join("shop.db").display().to_string())
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(reports.iter().all(|report| report.is_equal()), "{server}");
    }
}
