//! Metrics go to a collector of OpenTelemetry where the standard variables ask for it.

use std::path::Path;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::Value;

use crate::services::eds::{Eds, Running, binary};
use crate::services::eventually_ok;
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::receiver::Receiver;
use crate::services::scene::{COMPANIES, publish};
use crate::services::site::Site;

const SECRET: &str = "Qm4tYw8sLp";
const EVENTS: u64 = 200;

/// The metric of that name in what was posted.
fn metric<'b>(body: &'b Value, name: &str) -> &'b Value {
    let metrics = body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array();
    metrics.into_iter().flatten().find(|metric| metric["name"] == name).unwrap_or(&Value::Null)
}

fn sum(points: &Value, field: &str) -> f64 {
    let number = |value: &Value| value.as_str().and_then(|n| n.parse().ok()).or(value.as_f64());
    let points = points["dataPoints"].as_array().into_iter().flatten();
    points.filter_map(|point| number(&point[field])).sum()
}

/// A collector does not take the first one: that is said, and the next ones hold all there is.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_go_where_the_environment_says() {
    let receiver = Receiver::start("", &["503 Service Unavailable"]);
    let (nats, server) = (Nats::start().await, Postgres::start().await);
    let (_, url) = server.database().await;
    let mut shop = Shop::new(63, ShopOptions::default());
    let creds = nats.server_creds("o1", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("{}/{SECRET}", receiver.url))
        .env("OTEL_EXPORTER_OTLP_HEADERS", &format!("api-key={SECRET}"))
        .env("OTEL_METRIC_EXPORT_INTERVAL", "1000")
        .env("OTEL_SERVICE_NAME", "shop");
    eds.begin();
    publish(&nats, &mut shop, EVENTS).await;
    let running = eds.start(&[]);
    let received =
        |body: &Value| sum(&metric(body, "eds_events_received_total")["sum"], "asDouble");
    let (head, body) = eventually_ok(Duration::from_secs(90), async || {
        let last = receiver.posted().pop().ok_or_else(|| "nothing is posted".to_owned())?;
        // Those that are older than their row have no latency.
        let latency = sum(&metric(&last.1, "eds_event_latency_seconds")["histogram"], "count");
        let (received, events) = (received(&last.1), EVENTS as f64);
        let is_all = received >= events && latency > events / 2.0;
        is_all.then_some(last).ok_or(format!("{received} came, {latency} are written"))
    })
    .await;
    let path = format!("post /{}/v1/metrics ", SECRET.to_lowercase());
    assert!(head.starts_with(&path), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains(&format!("api-key: {}", SECRET.to_lowercase())), "{head}");
    let attributes = body["resourceMetrics"][0]["resource"]["attributes"].to_string();
    for (name, value) in [("service.name", "shop"), ("eds.consumer", "eds-o1")] {
        let attribute = format!("{{\"key\":\"{name}\",\"value\":{{\"stringValue\":\"{value}\"}}}}");
        assert!(attributes.contains(&attribute), "{attribute} is not in {attributes}");
    }
    let histogram = &metric(&body, "eds_event_latency_seconds")["histogram"]["dataPoints"][0];
    let counts = histogram["bucketCounts"].as_array().map_or(0, Vec::len);
    assert_eq!(counts, histogram["explicitBounds"].as_array().map_or(0, Vec::len) + 1);
    let log = running.log();
    for said in ["metrics are sent to http://127.0.0.1:", "it answered 503", " again"] {
        assert!(log.contains(said), "{said} is not in {log}");
    }
    assert!(!log.contains(SECRET) && !attributes.contains("s3cret"), "{log}");
    assert!(running.stop().status.success());
}

/// What EDS does not speak keeps a server from nothing, and its worker says nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_of_another_protocol_is_in_nobodys_way() {
    let site = Site::new("otlp", 89).await;
    site.enroll().await;
    let (url, nats) = (site.sqlite(), site.nats.url());
    let words = ["server", "--port", "0", "--server", &nats, "--url", &url];
    let mut command = site.command_of(Path::new(binary()), &words);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let server = Running::start(command, site.dir.path().join("server.log"));
    site.until_log("streaming eds-otlp", 1).await;
    site.publish(30).await;
    site.until_equal().await;
    assert_eq!(site.log().matches("not gRPC").count(), 1, "{}", site.log());
    assert!(server.stop().status.success());
}
