//! Metrics, alert rules and dashboard, as a real Prometheus takes them.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::health::{WatchedStream, address, get};
use crate::services::postgres::Postgres;
use crate::services::prometheus::Prometheus;
use crate::services::scene::publish;
use crate::services::site::Site;
use crate::services::{eventually_ok, installed};

/// Their names are the Go program's, and stay.
const OF_UPSTREAM: [&str; 1] = ["eds_total_events"];
/// Metrics that a healthy stream without HQ does not have.
const NOT_ALWAYS: [&str; 15] = [
    "eds_credentials_expiry_timestamp_seconds",
    "eds_dead_letters_total",
    "eds_errors_total",
    "eds_events_filtered_total",
    "eds_events_imported_total",
    "eds_events_stale_total",
    "eds_held_changes",
    "eds_held_since_timestamp_seconds",
    "eds_retries_total",
    "eds_schema_lookups_total",
    "eds_session_renewal_timestamp_seconds",
    "eds_worker_cpu_seconds_total",
    "eds_worker_failures_total",
    "eds_worker_resident_memory_bytes",
    "eds_worker_restarts_total",
];

fn file(path: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The shipped rules with waits of seconds.
fn impatient_rules() -> String {
    let rules = file("packaging/prometheus/eds.rules.yml");
    let lines = rules.lines().map(|line| match line.trim_start().starts_with("for: ") {
        true => line.split("for: ").next().unwrap_or_default().to_owned() + "for: 2s",
        false => line.replace("> 300", "> 5"),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn promtool(args: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(installed("promtool"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("promtool: {e}"));
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    }
    let output = child.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| word.starts_with("eds_") || word.starts_with("process_");
    words.filter(is_metric).map(str::to_owned).collect()
}

fn dashboard_expressions() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&file("packaging/grafana/eds.json"))
        .unwrap_or_else(|e| panic!("the dashboard is no JSON: {e}"));
    let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let expressions = targets.filter_map(|target| target["expr"].as_str());
    expressions
        .map(|e| {
            e.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
        })
        .collect()
}

/// Every alert has a page that it names, and every page an alert.
#[test]
fn each_alert_has_its_page() {
    let rules = file("packaging/prometheus/eds.rules.yml");
    let of = |prefix: &str| -> Vec<String> {
        let lines = rules.lines().filter_map(|line| line.trim_start().strip_prefix(prefix));
        lines.map(str::to_owned).collect()
    };
    let alerts = of("- alert: ");
    let pages: Vec<String> = file("docs/alerts.md")
        .lines()
        .filter_map(|line| line.strip_prefix("## ").map(str::to_owned))
        .collect();
    assert_eq!(alerts, pages, "in the same order");
    let named: Vec<String> =
        alerts.iter().map(|a| format!("docs/alerts.md#{}", a.to_lowercase())).collect();
    assert_eq!(of("runbook: "), named);
    let (ok, said) = promtool(
        &[
            "check",
            "rules",
            concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus/eds.rules.yml"),
        ],
        "",
    );
    assert!(ok && said.contains("SUCCESS"), "{said}");
}

/// Each alert fires for what it is about, and for nothing else.
#[test]
fn each_alert_fires_when_it_should() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/alert_rules.yml");
    let (ok, said) = promtool(&["test", "rules", tests], "");
    assert!(ok, "{said}");
    let (rules, tested) =
        (file("packaging/prometheus/eds.rules.yml"), file("tests/it/alert_rules.yml"));
    let alerts = rules.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    let untested: Vec<&str> = alerts.filter(|alert| !tested.contains(*alert)).collect();
    assert!(untested.is_empty(), "{untested:?}");
}

/// A database is away and comes back: the alert fires and resolves. Before and after, no alert
/// fires, and every question of the dashboard has an answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fires_its_alert_and_its_end_resolves_it() {
    let WatchedStream { nats, mut server, mut shop, running, address, eds: _eds } =
        WatchedStream::start("p1", 61, 300).await;
    let prometheus = Prometheus::start(&address, &impatient_rules());
    let is = async |expression: &str, expected: &str| {
        eventually_ok(Duration::from_secs(60), async || {
            let found = prometheus.query(expression)?;
            let value = found[0]["value"][1].as_str().unwrap_or_default().to_owned();
            (value == expected).then_some(()).ok_or(format!("{expression}: {found}"))
        })
        .await;
    };
    is("eds_state{state=\"caught_up\"}", "1").await;
    is("sum(eds_events_received_total)", "300").await;
    let (_, metrics) = get(&address, "/metrics").await;
    well_named(&metrics);
    answered(&prometheus, &metrics);
    assert_eq!(prometheus.firing(), Ok(vec![]));

    if let Some(mut gone) = server.server.take() {
        gone.stop();
    }
    publish(&nats, &mut shop, 40).await;
    for alert in ["EdsNotStreaming", "EdsNoProgress", "EdsLagging"] {
        eventually_ok(Duration::from_secs(90), async || {
            let firing = prometheus.firing()?;
            firing.iter().any(|name| name == alert).then_some(()).ok_or(format!("{firing:?}"))
        })
        .await;
    }
    let status = status(&address).await;
    assert!(status["last_error"]["text"].as_str().unwrap_or_default().contains("PostgreSQL"));
    assert!(status["lag_seconds"].as_f64() > Some(5.0), "{status}");
    is("eds_failing", "1").await;

    server.run(&[]).await;
    eventually_ok(Duration::from_secs(120), async || {
        let firing = prometheus.firing()?;
        firing.is_empty().then_some(()).ok_or(format!("{firing:?}"))
    })
    .await;
    is("eds_pending_events", "0").await;
    is("eds_failing", "0").await;
    let status = self::status(&address).await;
    assert!(status["last_error"].is_null(), "{status}");
    assert!(status["last_error_unix"].as_u64() > Some(0), "{status}");
    assert!(running.stop().status.success());
}

/// The database is away when a server starts: what waits for it is known all the same, and since
/// when.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_knows_its_lag_though_its_database_is_away_at_its_start() {
    let site = Site::new("lag", 85).await;
    site.enroll().await;
    let mut database = Postgres::start().await;
    let (_, url) = database.database().await;
    let server = site.server(&["--url", &url]);
    site.until_log("streaming eds-lag", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    site.publish(10).await;
    eventually_ok(Duration::from_secs(60), async || {
        let status = status(&address).await;
        (status["done"] == 10).then_some(()).ok_or(status.to_string())
    })
    .await;
    assert!(server.stop().status.success());
    if let Some(mut gone) = database.server.take() {
        gone.stop();
    }
    site.publish(25).await;
    let server = site.server(&["--url", &url]);
    site.until_log("status at http://", 2).await;
    let address = crate::health::address(&site.log()).unwrap_or_default();
    let lagging = eventually_ok(Duration::from_secs(60), async || {
        let status = status(&address).await;
        // What waits may be known before the first try at the database has failed.
        let has_tried = !status["problems"].as_array().is_none_or(Vec::is_empty);
        let knows = status["lag_events"] == 25 && status["lag_seconds"].as_f64() > Some(0.0);
        let knows = knows && has_tried;
        knows.then_some(()).ok_or(status.to_string())?;
        Ok(status)
    })
    .await;
    assert_eq!(lagging["problems"][0]["severity"], "error", "{lagging}");
    let (_, metrics) = get(&address, "/metrics").await;
    assert!(metrics.lines().any(|line| line == "eds_pending_events 25"), "{metrics}");
    database.run(&[]).await;
    eventually_ok(Duration::from_secs(90), async || {
        let status = status(&address).await;
        let is_well = status["lag_seconds"] == 0.0 && status["done"] == 25;
        (is_well && status["last_error"].is_null()).then_some(()).ok_or(status.to_string())
    })
    .await;
    assert!(server.stop().status.success());
}

async fn status(address: &str) -> Value {
    let (_, body) = get(address, "/status.json").await;
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"))
}

/// Prometheus' own rules for names and help have nothing to say, but of the Go program's names.
fn well_named(metrics: &str) {
    let (_, said) = promtool(&["check", "metrics"], metrics);
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| !OF_UPSTREAM.iter().any(|name| line.starts_with(name)))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// Every expression of the dashboard and of the rules is one, about metrics that there are.
fn answered(prometheus: &Prometheus, metrics: &str) {
    let known: BTreeSet<String> = names(metrics).into_iter().collect();
    let rules = file("packaging/prometheus/eds.rules.yml");
    let all = dashboard_expressions();
    assert!(all.len() > 20);
    for expression in &all {
        let said = prometheus.query(expression);
        assert!(said.is_ok(), "{expression}: {said:?}");
    }
    let asked = all.iter().flat_map(|e| names(e)).chain(names(&rules));
    let unknown: BTreeSet<String> = asked
        .filter(|name| !known.contains(name) && !NOT_ALWAYS.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in\n{metrics}");
}
