//! What goes wrong with a topic while EDS writes to it: clients that end, limits that nobody told,
//! others who write there, too.

use std::collections::BTreeSet;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};

use crate::kafka::{assert_there, assert_whole, event, identity, publish, said, token};
use crate::services::eds::{Eds, binary, dead_letters, dlq, replay, replay_in};
use crate::services::kafka::{Kafka, delete_topic, make_topic, messages, send_foreign, shared};
use crate::services::nats::Nats;
use crate::services::scene::COMPANIES;

/// Errors after which a client does nothing any more: another one goes on, and nothing is
/// missing or there twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_fatal_error_is_made_anew() {
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    let cluster = MockCluster::new(1).unwrap_or_else(|e| panic!("{e}"));
    cluster.create_topic("fatal", 2, 1).unwrap_or_else(|e| panic!("{e}"));
    let url = format!("kafka://{}/fatal", cluster.bootstrap_servers());
    for error in [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    ] {
        let nats = Nats::start().await;
        let mut shop = Shop::new(74, ShopOptions::default());
        let (_, published) = publish(&nats, &mut shop, 2_000).await;
        let topic = format!("fatal-{}", error as i32);
        cluster.create_topic(&topic, 2, 1).unwrap_or_else(|e| panic!("{e}"));
        let creds = nats.server_creds("fatal", COMPANIES, None);
        let url = url.replace("/fatal", &format!("/{topic}"));
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
        eds.begin();
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
        let log = eds.catch_up();
        assert!(!log.contains("dead letter ("), "{error:?}: {log}");
        let found = messages(&cluster.bootstrap_servers(), &topic);
        assert_there(&found, &published);
        let positions: BTreeSet<_> = found.iter().map(|r| r.headers.get("eds-position")).collect();
        assert_eq!(found.len(), positions.len(), "{error:?}: once each");
    }
}

/// The topic takes less than EDS was told, and may not be asked: the one event that is too large
/// becomes a dead letter, all others arrive once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_nobody_told_is_found() {
    let kafka = shared();
    let topic = kafka.topic();
    make_topic(&kafka.brokers(), &topic, 20_000).await;
    let mut events: Vec<Value> =
        (0..300).map(|n| event(&format!("e{n}"), &format!("k{}", n % 3))).collect();
    for (n, size) in [(10, 30_000), (20, 10_000), (30, 30_000)] {
        // Random text, so that compression does not make it small.
        let mut rng = fastrand::Rng::with_seed(n);
        let text: String = (0..size).map(|_| rng.alphanumeric()).collect();
        events[n as usize]["after"]["text"] = text.into();
    }
    let url = format!("{}?max-message-bytes=1000000&compression=none", kafka.url(&topic));
    let output = replay(&url, &json!({}), &events, &[]);
    let said = said(&output);
    assert!(output.status.success() && said.contains("?max-message-bytes="), "{said}");
    assert_eq!(said.matches("dead letter (").count(), 2, "{said}");
    assert!(said.contains(&format!("topic {topic:?} takes fewer")), "{said}");
    let found: Vec<String> =
        messages(&kafka.brokers(), &topic).into_iter().map(|read| read.key).collect();
    let expected: Vec<String> = (0..300)
        .filter(|n| ![10, 30].contains(n))
        .map(|n| format!("dbchange.order.UPDATE.NONE.NONE.e{n}"))
        .collect();
    assert_eq!(found, expected);
}

/// Others write so much that the topic's end does not tell what an unfinished batch wrote: EDS says
/// so, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_full_of_others_messages_is_reported() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(75, ShopOptions::default());
    let (_, published) = publish(&nats, &mut shop, 60_000).await;
    let creds = nats.server_creds("crowd", COMPANIES, None);
    let kafka = shared();
    let topic = kafka.topic();
    make_topic(&kafka.brokers(), &topic, 1_000_000).await;
    let eds = Eds::stream(&nats, &creds, &kafka.url(&topic), &shop.schema_map());
    eds.begin();
    let mut log = String::new();
    for round in 0..5 {
        // Killed where a batch is on its way, as nearly always.
        eds.kill_at_random(1, fastrand::Rng::with_seed(round), 500..900).await;
        send_foreign(&kafka.brokers(), &topic, 20_500).await;
        let running = eds.start(&["--restart=false", "--until-caught-up"]);
        log = match round {
            4 => running.wait(Duration::from_secs(300)).log,
            _ => {
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                let log = running.log();
                running.kill();
                log
            }
        };
        if log.contains("the last 20000 messages of topic") {
            break;
        }
    }
    assert!(log.contains("the last 20000 messages of topic"), "{log}");
    eds.catch_up();
    let found = messages(&kafka.brokers(), &topic);
    let ours = found.iter().filter(|read| read.headers.contains_key("eds-position"));
    let there: BTreeSet<String> = ours.map(|read| identity(&read.value)).collect();
    assert!(there == published, "{} of {} events", there.len(), published.len());
}

/// Brokers come and go, and a URL names some of them: it is the same topic, which goes on where it
/// is. Its end tells what was there before each kill.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_the_same_whichever_brokers_a_url_names() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(76, ShopOptions::default());
    let (_, published) = publish(&nats, &mut shop, 40_000).await;
    let creds = nats.server_creds("moved", COMPANIES, None);
    let kafka = shared();
    let topic = kafka.topic();
    let eds = Eds::stream(&nats, &creds, &kafka.url(&topic), &shop.schema_map());
    eds.begin();
    let others = [
        format!("kafka://127.0.0.1:{},127.0.0.1:1/{topic}", kafka.port),
        format!("kafka://localhost:{}/{topic}", kafka.port),
        kafka.url(&topic),
    ];
    for (round, url) in others.iter().chain(&others).enumerate() {
        let running = eds.start(&["--restart=false", "--url", url]);
        running.until_log("streaming eds-moved", Duration::from_secs(60)).await;
        tokio::time::sleep(Duration::from_millis(100 + 50 * round as u64)).await;
        running.kill();
    }
    let ended = eds
        .start(&["--restart=false", "--until-caught-up", "--url", &others[0]])
        .wait(Duration::from_secs(300));
    assert!(ended.status.success(), "{}", ended.log);
    let found = messages(&kafka.brokers(), &topic);
    assert_eq!(assert_whole(&found, &published), 0, "what was unfinished is known");
    let mut command = std::process::Command::new(binary());
    command.args(["state", "list", "--data-dir"]).arg(eds.data_dir());
    let listed = command.output().unwrap_or_else(|e| panic!("{e}"));
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.matches("position/eds-moved @ kafka").count(), 1, "{listed}");
}

/// Dead letters belong to the topic: they are found by other brokers of it, too, before EDS was
/// ever started with those, and where none answers, that is said instead of that there are none.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_found_by_other_brokers() {
    let kafka = shared();
    let topic = kafka.topic();
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let journal = format!("{}\n{{\"table\":\n", event("e1", "k"));
    let output = replay_in(dir.path(), &kafka.url(&topic), &json!({}), &journal, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let (data, other) =
        (dir.path().join("data"), format!("kafka://localhost:{}/{topic}", kafka.port));
    let away = dlq(&format!("kafka://127.0.0.1:1/{topic}"), &data, &["list"]);
    assert!(!away.status.success() && said(&away).contains("127.0.0.1:1"), "{}", said(&away));
    let letters = dead_letters(&other, &data);
    assert!(letters.len() == 1 && letters[0]["kind"] == "malformed", "{letters:?}");
    assert!(dlq(&other, &data, &["drop", "--all"]).status.success());
    assert!(dead_letters(&kafka.url(&topic), &data).is_empty());
}

/// Brokers that make no topics by themselves: a missing one is named, at the start and where it
/// vanishes; once it is there, everything arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_nobody_makes_is_named() {
    let kafka = Kafka::start_with("auto.create.topics.enable=false");
    let (topic, nats) = (kafka.topic(), Nats::start().await);
    let named = format!("has no topic {topic:?} and does not make it by itself");
    let output = replay(&kafka.url(&topic), &json!({}), &[event("e1", "k")], &[]);
    assert!(output.status.code() == Some(3) && said(&output).contains(&named), "{}", said(&output));

    make_topic(&kafka.brokers(), &topic, 1_000_000).await;
    let mut shop = Shop::new(77, ShopOptions::default());
    publish(&nats, &mut shop, 500).await;
    let creds = nats.server_creds("topicless", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &kafka.url(&topic), &shop.schema_map());
    eds.begin();
    eds.catch_up();
    let running = eds.start(&["--restart=false"]);
    running.until_log("streaming eds-topicless", Duration::from_secs(60)).await;
    delete_topic(&kafka.brokers(), &topic).await;
    let (_, published) = publish(&nats, &mut shop, 500).await;
    running.until_log(&format!("topic {topic:?}"), Duration::from_secs(120)).await;
    let log = running.log();
    assert!(log.contains("event \"") || log.contains(&named), "it names the event: {log}");
    running.kill();
    make_topic(&kafka.brokers(), &topic, 1_000_000).await;
    eds.catch_up();
    assert_whole(&messages(&kafka.brokers(), &topic), &published);
}

/// A login by tokens that live for seconds: those that are written in time are used without a
/// break, and one that is late is named and waited for; every event is there once.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_expire_while_it_streams_are_read_again() {
    let kafka = Kafka::start_with(
        "auto.create.topics.enable=true\nlistener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms=3000",
    );
    let topic = kafka.topic();
    let file = kafka.path().join("token");
    let write = |seconds: u64| {
        let now = eds::clock::now_s();
        let claims = json!({"sub": "eds", "iat": now, "exp": now + seconds});
        std::fs::write(&file, token(&claims)).unwrap_or_else(|e| panic!("{e}"));
    };
    let shown = |name: &str| kafka.path().join(name).display().to_string().replace('/', "%2F");
    let url = format!(
        "kafka://127.0.0.1:{}/{topic}?ca={}&sasl=OAUTHBEARER&token-file={}",
        kafka.secure_port,
        shown("ca.pem"),
        shown("token")
    );
    let nats = Nats::start().await;
    let mut shop = Shop::new(78, ShopOptions::default());
    let (_, mut published) = publish(&nats, &mut shop, 500).await;
    let creds = nats.server_creds("bearer", COMPANIES, None);
    write(600);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    write(6);
    let mut running = eds.start(&["--restart=false"]);
    running.until_log("streaming eds-bearer", Duration::from_secs(60)).await;
    for _ in 0..6 {
        published.extend(publish(&nats, &mut shop, 200).await.1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        write(6);
    }
    let log = running.log();
    assert!(running.is_running() && !log.contains("WARN") && !log.contains("ERROR"), "{log}");
    // Nobody writes a new one any more.
    tokio::time::sleep(Duration::from_secs(7)).await;
    published.extend(publish(&nats, &mut shop, 200).await.1);
    running.until_log("has expired: a new one has to be put there", Duration::from_secs(120)).await;
    write(600);
    drop(running);
    eds.catch_up();
    assert_whole(&messages(&kafka.brokers(), &topic), &published);
}
