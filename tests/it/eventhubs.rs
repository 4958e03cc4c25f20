//! Azure Event Hubs, against a peer that speaks its protocol: what arrives, where, in which order,
//! and what is said when it cannot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kafka::{assert_equal, event, identity, publish, said};
use crate::services::certs::{certificates, write};
use crate::services::eds::{Eds, binary, replay, replay_with};
use crate::services::entra::{self, CLIENT_SECRET};
use crate::services::eventhubs::{EventHubs, KEY, MESSAGE_BYTES_MAX, POISON, PeerHabits, Received};
use crate::services::eventually;
use crate::services::hq::Importing;
use crate::services::nats::Nats;
use crate::services::scene::COMPANIES;

/// Partition key, message id, property, body; changes of a row in one partition, in order, many in
/// a batch.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_as_the_contract_says() {
    let hub = EventHubs::start(None).await;
    // Company and location are those of the row, before its deletion; only where there is no row,
    // those of the event.
    let deleted = |id: &str, before: Value| json!({"operation": "DELETE", "id": id, "table": "customer", "key": ["eu", "c1"], "companyId": "of-event", "locationId": "of-event", "before": before, "timestamp": 5, "mvccTimestamp": "7"});
    let row = json!({"id": "c1", "companyId": "co", "locationId": null});
    let updated = json!({"operation": "UPDATE", "id": "e-2", "table": "customer", "key": ["c2"], "companyId": "of-event", "before": {"id": "c2", "companyId": "old"}, "after": {"id": "c2", "locationId": "lo"}});
    let events: Vec<Value> = [deleted("e0", row), deleted("e-1", Value::Null), updated]
        .into_iter()
        .chain((1..5_000).map(|n| event(&format!("e{n}"), &format!("key-{}", n % 700))))
        .collect();
    let output = replay(&hub.url(), &json!({}), &events, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let found = hub.received();
    assert_eq!(found.len(), 5_002);
    let mut owners: Vec<&str> =
        found.iter().filter_map(|event| event.partition_key.strip_prefix("customer.")).collect();
    owners.sort_unstable();
    assert_eq!(owners, ["NONE.lo.c2", "co.NONE.c1", "of-event.of-event.c1"]);
    let mut place: HashMap<&str, usize> = HashMap::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    for Received { partition, partition_key, message_id, content_type, object_id, body } in &found {
        let event: Value = serde_json::from_slice(body).unwrap_or_else(|e| panic!("{e}"));
        let text = |field: &str| event[field].as_str().unwrap_or("NONE").to_owned();
        let row =
            [&event["after"], &event["before"], &event].into_iter().find(|row| !row.is_null());
        let of_row =
            |field: &str| row.and_then(|row| row[field].as_str()).unwrap_or("NONE").to_owned();
        let key = event["key"]
            .as_array()
            .and_then(|key| key.last())
            .and_then(Value::as_str)
            .unwrap_or_default();
        let owner = format!("{}.{}.{key}", of_row("companyId"), of_row("locationId"));
        assert_eq!(*partition_key, format!("{}.{owner}", text("table")));
        assert_eq!(*object_id, format!("dbchange.{}.{}.{owner}", text("table"), text("operation")));
        assert_eq!(
            (message_id.as_str(), content_type.as_str()),
            (text("id").as_str(), "application/json")
        );
        assert_eq!(
            *place.entry(partition_key).or_insert(*partition),
            *partition,
            "a row has one partition"
        );
        let Ok(number) = message_id[1..].parse::<u64>() else { continue };
        assert!(
            last.insert(partition_key, number).is_none_or(|before| before < number),
            "changes of a row are in order"
        );
    }
    let used: BTreeSet<usize> = found.iter().map(|event| event.partition).collect();
    assert_eq!(used.len(), 4);
    assert!(hub.batches() < 50, "{} batches: many events go together", hub.batches());
}

/// The service is busy, moves links, lets batches go, loses answers; EDS is killed: every event is
/// there, repeats have one id, and a row's last event is its last.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_there_whatever_happens() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(81, ShopOptions::default());
    let (stream, published) = publish(&nats, &mut shop, 100_000).await;
    let creds = nats.server_creds("hub", COMPANIES, None);
    let hub = EventHubs::start(None).await;
    let eds = Eds::stream(&nats, &creds, &hub.url(), &shop.schema_map());
    eds.begin();
    hub.disturb(PeerHabits { busy: 2, release: 5, detach: 5, lose: 5, idle: None });
    eds.kill_at_random(8, fastrand::Rng::with_seed(3), 200..1200).await;
    eds.catch_up_supervised();
    let (unacknowledged, undelivered, _) = nats.consumer("eds-hub").await;
    assert_eq!((unacknowledged, undelivered), (0, 0));
    let found = hub.received();
    let there: BTreeSet<String> = found.iter().map(|event| identity(&event.body)).collect();
    let missing = published.difference(&there).count();
    assert!(missing == 0 && there.len() == published.len(), "{missing} events are missing");
    // A row's last event of the stream is the last that arrived: repeats come in order, too.
    let lasts = |events: &mut dyn Iterator<Item = Value>| -> BTreeMap<String, Value> {
        events
            .map(|event| (format!("{} {}", event["table"], event["key"]), event["id"].clone()))
            .collect()
    };
    let parsed = |payload: &[u8]| serde_json::from_slice::<Value>(payload).unwrap_or_default();
    let expected = lasts(&mut stream.iter().map(|payload| parsed(payload)));
    let arrived = lasts(&mut found.iter().map(|event| parsed(&event.body)));
    assert!(
        expected == arrived,
        "{} rows end with another event",
        expected.iter().filter(|(row, id)| arrived.get(*row) != Some(id)).count()
    );
    assert_equal(&shop, found.iter().map(|event| parsed(&event.body)).collect());
}

/// Links that end, whatever the service calls it, and outcomes that promise nothing are an outage:
/// no event becomes a dead letter, and none that was confirmed is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_ends_is_no_bad_event() {
    let hub = EventHubs::start(None).await;
    hub.disturb(PeerHabits { detach: 150, release: 100, ..PeerHabits::default() });
    let mut events: Vec<Value> =
        (0..6_000).map(|n| event(&format!("e{n}"), &format!("key-{}", n % 300))).collect();
    events.iter_mut().for_each(|event| event["after"]["text"] = "x".repeat(500).into());
    let output = replay(&hub.url(), &json!({}), &events, &[]);
    let said = said(&output);
    assert!(output.status.success() && !said.contains("dead letter ("), "{said}");
    let ids: Vec<String> = hub.received().into_iter().map(|event| event.message_id).collect();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!((ids.len(), distinct.len()), (6_000, 6_000));
    assert!(hub.connections() > 2, "links have ended: {} connections", hub.connections());
}

/// Of a message that the hub refuses, the events that it refuses alone become dead letters; all
/// others arrive once, in the order of their rows.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_refuses_becomes_a_dead_letter_alone() {
    let hub = EventHubs::start(None).await;
    let events: Vec<Value> = (0..2_000)
        .map(|n| match n % 700 {
            350 => event(&format!("{POISON}{n}"), "key-3"),
            _ => event(&format!("e{n}"), &format!("key-{}", n % 7)),
        })
        .collect();
    let output = replay(&hub.url(), &json!({}), &events, &[]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("Event Hubs does not take the event").count(), 3, "{said}");
    let mut last: HashMap<String, u64> = HashMap::new();
    let found = hub.received();
    for event in &found {
        let number = event.message_id[1..].parse().unwrap_or_default();
        let before = last.insert(event.partition_key.clone(), number);
        assert!(before.is_none_or(|before| before < number), "{} {number}", event.partition_key);
    }
    assert_eq!(found.len(), 2_000 - 3);
}

/// After long idleness the service has ended links, or the connection: that is seen before anything
/// is sent, so that nothing fails.
#[tokio::test(flavor = "multi_thread")]
async fn idle_links_are_made_anew() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(82, ShopOptions::default());
    let mut published = publish(&nats, &mut shop, 500).await.0;
    let creds = nats.server_creds("idle", COMPANIES, None);
    let hub = EventHubs::start(None).await;
    hub.disturb(PeerHabits { idle: Some(Duration::from_millis(300)), ..PeerHabits::default() });
    let eds = Eds::stream(&nats, &creds, &hub.url(), &shop.schema_map());
    eds.begin();
    let running = eds.start(&["--restart=false"]);
    let first_connections = hub.connections();
    for _ in 0..3 {
        eventually("all events are there", Duration::from_secs(60), async || {
            hub.received().len() >= published.len()
        })
        .await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        published.extend(publish(&nats, &mut shop, 500).await.0);
    }
    let ended = running.stop();
    assert!(ended.status.success() && !ended.log.contains("trying again"), "{}", ended.log);
    assert!(hub.connections() >= first_connections + 3, "{} connections", hub.connections());
    eds.catch_up();
    let sorted = |events: &mut dyn Iterator<Item = String>| {
        let mut all: Vec<String> = events.collect();
        all.sort_unstable();
        all
    };
    let found = sorted(&mut hub.received().iter().map(|event| identity(&event.body)));
    assert!(found == sorted(&mut published.iter().map(|event| identity(event))));
}

/// An event that the hub would not take becomes a dead letter before anything is sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_becomes_a_dead_letter() {
    let hub = EventHubs::start(None).await;
    let mut large = event("e2", "k");
    large["after"]["text"] = "x".repeat(MESSAGE_BYTES_MAX as usize).into();
    let mut almost = event("e3", "k");
    almost["after"]["text"] = "x".repeat(MESSAGE_BYTES_MAX as usize - 2_000).into();
    let long = event("e4", &"é".repeat(300));
    let output = replay(&hub.url(), &json!({}), &[event("e1", "k"), large, almost, long], &[]);
    assert!(
        output.status.success() && said(&output).contains("and the hub takes"),
        "{}",
        said(&output)
    );
    let found = hub.received();
    let mut ids: Vec<&str> = found.iter().map(|event| event.message_id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["e1", "e3", "e4"]);
    assert!(
        found.iter().all(|event| event.partition_key.chars().count() <= 128),
        "longer keys are not taken"
    );
}

/// Over TLS, as in the cloud; the certificate has to be the host's.
#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_checked() -> Result<(), Box<dyn std::error::Error>> {
    let [authority, certificate, key] = certificates()?;
    let dir = TempDir::new()?;
    let ca = write(dir.path(), "ca.pem", &authority);
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let hub = EventHubs::start(Some(config.into())).await;
    write(dir.path(), "journal.jsonl", &event("e1", "k").to_string());
    let run = |trusted: bool| {
        let mut command = Command::new(binary());
        command
            .current_dir(dir.path())
            .env("EDS_URL", hub.url_of("127.0.0.1", "hub", KEY, ""))
            .args(["replay", "journal.jsonl", "--restart"]);
        if trusted {
            command.env("SSL_CERT_FILE", &ca);
        }
        command.output()
    };
    let (unknown, known) = (run(false)?, run(true)?);
    assert!(
        unknown.status.code() == Some(3) && said(&unknown).contains("TLS"),
        "{}",
        said(&unknown)
    );
    assert!(known.status.success() && hub.received().len() == 1, "{}", said(&known));
    Ok(())
}

/// Each refusal is a clear one, at the start, and says nothing that is secret.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_at_the_start() {
    let hub = EventHubs::start(None).await;
    let local = ";UseDevelopmentEmulator=true";
    let cases = [
        (hub.url_of("127.0.0.1", "hub", "wr0ng", local), "refuses the key for hub \"hub\""),
        (hub.url_of("127.0.0.1", "nowhere", KEY, local), "has no hub \"nowhere\""),
        (
            format!(
                "eventhub://127.0.0.1:{}/;SharedAccessKeyName=Root;SharedAccessKey={KEY}{local}",
                hub.port
            ),
            "has no EntityPath",
        ),
        (hub.url_of("example.invalid", "hub", KEY, local), "on this machine"),
        (
            format!(
                "eventhub://127.0.0.1:1/;SharedAccessKeyName=Root;SharedAccessKey={KEY};EntityPath=hub{local}"
            ),
            "refused",
        ),
    ];
    for (url, expected) in cases {
        let output = replay(&url, &json!({}), &[event("e1", "k")], &[]);
        let said = said(&output);
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
        assert!(["wr0ng", KEY, "sig="].iter().all(|secret| !said.contains(secret)), "{said}");
    }
    assert!(hub.received().is_empty() && hub.connections() > 0);
}

/// Entra's identities log in: an application by its secret, a machine and a container by what
/// Azure gives them. A wrong secret is named, and nothing of it is said.
#[tokio::test(flavor = "multi_thread")]
async fn identities_of_entra_log_in() {
    let (hub, entra) = (EventHubs::start(None).await, entra::start().await);
    let url = |more: &str| {
        format!(
            "eventhub://127.0.0.1:{}/;EntityPath=hub;UseDevelopmentEmulator=true;{more}",
            hub.port
        )
    };
    let application = |secret: &str| {
        url(&format!(
            "Authentication=ClientSecret;TenantId=a-tenant;ClientId=an-app;ClientSecret={secret}"
        ))
    };
    let (authority, of_container) =
        (("AZURE_AUTHORITY_HOST", entra.as_str()), format!("{entra}/msi/token"));
    let machine = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", entra.as_str());
    let container =
        [("IDENTITY_ENDPOINT", of_container.as_str()), ("IDENTITY_HEADER", "of-this-container")];
    let in_environment = [
        authority,
        ("AZURE_TENANT_ID", "a-tenant"),
        ("AZURE_CLIENT_ID", "an-app"),
        ("AZURE_CLIENT_SECRET", CLIENT_SECRET),
    ];
    let cases: [(String, &[(&str, &str)]); 4] = [
        (application(CLIENT_SECRET), &[authority]),
        (url("Authentication=ClientSecret"), &in_environment),
        (url("Authentication=ManagedIdentity"), &[machine]),
        (url("Authentication=Managed Identity"), &container),
    ];
    for (url, env) in &cases {
        let output = replay_with(url, &[event("e1", "k")], env);
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(hub.received().len(), cases.len());
    for (url, env, expected) in [
        (application("wr0ng-secret"), authority, "invalid_client AADSTS7000215"),
        (application("wr0ng-secret"), ("AZURE_AUTHORITY_HOST", "http://login.example"), "https://"),
        (
            url("Authentication=ManagedIdentity"),
            ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1"),
            "cannot be reached",
        ),
    ] {
        let output = replay_with(&url, &[event("e1", "k")], &[env]);
        let said = said(&output);
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
        assert!(!said.contains("wr0ng-secret"), "{said}");
    }
}

/// A full export: an event for each row, where a stream's would be.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole() {
    let hub = EventHubs::start(None).await;
    let importing = Importing::new(29, 1_000, 200).await;
    importing.import(&hub.url(), &[]).await;
    assert_equal(
        &importing.shop(),
        hub.received()
            .iter()
            .map(|event| serde_json::from_slice(&event.body).unwrap_or_default())
            .collect(),
    );
}
