//! Metrics to a collector of OpenTelemetry: OTLP over HTTP, as JSON, where the standard variables
//! of the environment ask for it. Whatever becomes of that, the stream does not wait.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{info, warn};
use url::Url;

use super::exposition::{Exposition, Family, FamilyKind, Series};
use super::webhook::masked;
use super::{StatusSource, all_metrics};
use crate::clock::now_ns;
use crate::http::Http;
use crate::pipeline::progress::Snapshot;

/// Between two exports, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const INTERVAL: Duration = Duration::from_secs(60);
/// What that variable may say.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));
/// What is behind a base address, by the specification.
const METRICS_PATH: &str = "v1/metrics";
const SERVICE_NAME: &str = "service.name";
/// Counts go on from the beginning of the process (`AGGREGATION_TEMPORALITY_CUMULATIVE`).
const CUMULATIVE: u32 = 2;

/// Where metrics are sent, and as whose.
#[derive(Clone, Debug)]
pub struct Otlp {
    endpoint: String,
    /// May hold a key.
    headers: Vec<(String, SecretString)>,
    interval: Duration,
    /// Attributes of the resource.
    resource: Vec<(String, String)>,
}

impl Otlp {
    /// What this process's environment asks for, as [`Otlp::asked`].
    pub fn of_environment() -> Result<Option<Otlp>, String> {
        Otlp::asked(|name| std::env::var(name).ok())
    }

    /// What the variables of the environment ask for; `None` where they name no address. An error
    /// says what EDS cannot do of it.
    pub fn asked(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Otlp>, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let of_metrics = |name: &str| {
            let own = variable(&format!("OTEL_EXPORTER_OTLP_METRICS_{name}"));
            own.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let is = |name: &str, value: &str| {
            variable(name).is_some_and(|found| found.trim().eq_ignore_ascii_case(value))
        };
        let endpoint = match variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") {
            Some(whole) => Some(whole),
            None => variable("OTEL_EXPORTER_OTLP_ENDPOINT")
                .map(|base| format!("{}/{METRICS_PATH}", base.trim().trim_end_matches('/'))),
        };
        let Some(endpoint) = endpoint else { return Ok(None) };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_METRICS_EXPORTER", "none") {
            return Ok(None);
        }
        let is_http = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        if !Url::parse(&endpoint).is_ok_and(is_http) {
            return Err("the address is no URL that begins with https:// or http://".into());
        }
        if of_metrics("PROTOCOL").is_some_and(|protocol| protocol.trim() == "grpc") {
            return Err("EDS speaks OTLP over HTTP, not gRPC: name the collector's HTTP port \
                        (4318) and OTEL_EXPORTER_OTLP_PROTOCOL=http/json"
                .into());
        }
        let headers = pairs(&of_metrics("HEADERS").unwrap_or_default());
        Ok(Some(Otlp {
            endpoint,
            headers: headers.into_iter().map(|(name, value)| (name, value.into())).collect(),
            interval: interval(variable("OTEL_METRIC_EXPORT_INTERVAL"))?,
            resource: resource(variable("OTEL_RESOURCE_ATTRIBUTES"), variable("OTEL_SERVICE_NAME")),
        }))
    }
}

/// `name=value` pairs, separated by commas, with percent signs as in URLs.
fn pairs(list: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((decoded(name), decoded(value))).filter(|(name, _)| !name.is_empty())
    };
    list.split(',').filter_map(pair).collect()
}

fn interval(milliseconds: Option<String>) -> Result<Duration, String> {
    let Some(text) = milliseconds else { return Ok(INTERVAL) };
    let interval = text.trim().parse().map(Duration::from_millis);
    let (min, max) = INTERVALS;
    interval.map(|found| found.clamp(min, max)).map_err(|_| {
        format!("OTEL_METRIC_EXPORT_INTERVAL is a number of milliseconds, and not {text:?}")
    })
}

fn resource(attributes: Option<String>, name: Option<String>) -> Vec<(String, String)> {
    let mut resource = pairs(&attributes.unwrap_or_default());
    let listed = resource.iter().find(|(key, _)| key == SERVICE_NAME);
    let name = name.or_else(|| listed.map(|(_, value)| value.clone()));
    resource.retain(|(key, _)| key != SERVICE_NAME);
    resource.push((SERVICE_NAME.into(), name.unwrap_or_else(|| "eds".into())));
    resource.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
    resource
}

/// Sends metrics where that is asked for. The variables may be meant for other programs, too: what
/// EDS cannot do of them is said, and keeps nothing from going on.
pub async fn export_if_asked(source: Arc<dyn StatusSource>, asked: Result<Option<Otlp>, String>) {
    match asked {
        Ok(None) => {}
        Ok(Some(otlp)) => export(source, otlp).await,
        Err(why) => warn!("metrics are not sent by OTLP: {why}"),
    }
}

/// Sends the metrics again and again, without end.
async fn export(source: Arc<dyn StatusSource>, otlp: Otlp) {
    let http = match Http::without_redirects() {
        Ok(http) => http,
        Err(why) => return warn!("metrics are not sent: {why}"),
    };
    let (place, began_ns) = (masked(&otlp.endpoint), now_ns());
    info!("metrics are sent to {place}");
    let mut turns = interval_at(Instant::now() + otlp.interval, otlp.interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        turns.tick().await;
        let resource = otlp.resource(&source.snapshot());
        let body = body(&resource, &all_metrics(&*source), (began_ns, now_ns())).to_string();
        let refused = match http.post_once(&otlp.endpoint, &otlp.headers, body).await {
            Ok(status) if status.is_success() => None,
            Ok(status) => Some(format!("it answered {status}")),
            Err(why) => Some(why),
        };
        match (&refused, is_failing) {
            (Some(why), false) => warn!("metrics could not be sent to {place}: {why}"),
            (None, true) => info!("metrics are sent to {place} again"),
            _ => {}
        }
        is_failing = refused.is_some();
    }
}

impl Otlp {
    /// Whose metrics they are, with what is streamed at the moment.
    fn resource(&self, snapshot: &Snapshot) -> Vec<Value> {
        let own =
            [("eds.consumer", &*snapshot.consumer), ("eds.destination", &*snapshot.destination)];
        let given = self.resource.iter().map(|(name, value)| (&**name, &**value));
        let known = own.into_iter().filter(|(_, value)| !value.is_empty());
        given.chain(known).map(|(name, value)| attribute(name, value)).collect()
    }
}

fn attribute(name: &str, value: &str) -> Value {
    json!({"key": name, "value": {"stringValue": value}})
}

/// What is posted: `ExportMetricsServiceRequest` as JSON.
fn body(resource: &[Value], all: &Exposition, times_ns: (i64, i64)) -> Value {
    let metrics: Vec<Value> =
        all.families().iter().map(|family| metric(family, times_ns)).collect();
    let scope = json!({"name": "eds", "version": env!("CARGO_PKG_VERSION")});
    json!({"resourceMetrics": [{
        "resource": {"attributes": resource},
        "scopeMetrics": [{"scope": scope, "metrics": metrics}],
    }]})
}

fn metric(family: &Family, times_ns: (i64, i64)) -> Value {
    let (kind, mut data) = match family.kind() {
        FamilyKind::Counter => ("sum", json!({"isMonotonic": true})),
        FamilyKind::Gauge => ("gauge", json!({})),
        FamilyKind::Histogram => ("histogram", json!({})),
    };
    data["dataPoints"] = match family.kind() {
        FamilyKind::Histogram => histogram_points(family, times_ns),
        FamilyKind::Counter | FamilyKind::Gauge => {
            let point = |series: Series| {
                let mut point = point(&series.labels, times_ns);
                point["asDouble"] = json!(series.value);
                point
            };
            family.series().map(point).collect()
        }
    };
    if family.kind() != FamilyKind::Gauge {
        data["aggregationTemporality"] = json!(CUMULATIVE);
    }
    json!({"name": family.name(), "description": family.help(), kind: data})
}

/// A point without its value. Numbers of 64 bits are texts in OTLP's JSON.
fn point(labels: &[(String, String)], (began_ns, now_ns): (i64, i64)) -> Value {
    let attributes: Vec<Value> =
        labels.iter().map(|(name, value)| attribute(name, value)).collect();
    json!({
        "attributes": attributes,
        "startTimeUnixNano": began_ns.to_string(),
        "timeUnixNano": now_ns.to_string(),
    })
}

/// A histogram as Prometheus has it: counts up to each bound.
#[derive(Default)]
struct Cumulative {
    labels: Vec<(String, String)>,
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

/// OTLP counts what is between two bounds, and names those that are finite.
fn histogram_points(family: &Family, times_ns: (i64, i64)) -> Value {
    let mut all: Vec<Cumulative> = Vec::new();
    for mut series in family.series() {
        let le = series.labels.iter().position(|(name, _)| name == "le");
        let bound = le.map(|at| series.labels.remove(at).1);
        let at = all.iter().position(|known| known.labels == series.labels);
        let at = at.unwrap_or_else(|| {
            all.push(Cumulative { labels: series.labels.clone(), ..Cumulative::default() });
            all.len() - 1
        });
        let histogram = &mut all[at];
        match (bound, series.name.strip_prefix(family.name())) {
            (Some(bound), _) => {
                histogram.bounds.extend(bound.parse::<f64>().ok().filter(|b| b.is_finite()));
                histogram.counts.push(series.value as u64);
            }
            (None, Some("_sum")) => histogram.sum = series.value,
            (None, _) => histogram.count = series.value as u64,
        }
    }
    let told = |histogram: Cumulative| {
        let before = std::iter::once(0).chain(histogram.counts.iter().copied());
        let between = histogram.counts.iter().zip(before).map(|(n, before)| n - before.min(*n));
        let counts: Vec<String> = between.map(|n| n.to_string()).collect();
        let mut point = point(&histogram.labels, times_ns);
        point["count"] = json!(histogram.count.to_string());
        point["sum"] = json!(histogram.sum);
        point["bucketCounts"] = json!(counts);
        point["explicitBounds"] = json!(histogram.bounds);
        point
    };
    all.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(variables: &[(&str, &str)]) -> Result<Option<Otlp>, String> {
        Otlp::asked(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
        })
    }

    #[test]
    fn the_standard_variables_ask_for_it() -> Result<(), String> {
        assert!(asked(&[])?.is_none());
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let found = asked(&[base])?.ok_or("nothing")?;
        assert_eq!(found.endpoint, "http://collector:4318/v1/metrics");
        assert_eq!(found.interval, INTERVAL);
        assert_eq!(found.resource[0], (SERVICE_NAME.to_owned(), "eds".to_owned()));
        let whole = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://collector/mine");
        let found = asked(&[
            base,
            whole,
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b, x=y"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=one,site=oslo"),
            ("OTEL_SERVICE_NAME", "two"),
        ])?
        .ok_or("nothing")?;
        assert_eq!((&*found.endpoint, found.interval), (whole.1, Duration::from_secs(1)));
        let names: Vec<&str> = found.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["api-key", "x"]);
        assert!(!format!("{found:?}").contains("a b"), "{found:?}");
        let expected = [("site", "oslo"), (SERVICE_NAME, "two")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found.resource[..2], expected);
        for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_METRICS_EXPORTER", "none")] {
            assert!(asked(&[base, off])?.is_none(), "{off:?}");
        }
        for wrong in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "collector:4317"),
        ] {
            assert!(asked(&[base, wrong]).is_err(), "{wrong:?}");
        }
        Ok(())
    }

    #[test]
    fn counts_between_bounds_are_told() {
        let text = "# TYPE eds_h histogram\neds_h_bucket{t=\"a\",le=\"0.5\"} 1\n\
            eds_h_bucket{t=\"a\",le=\"2\"} 4\neds_h_bucket{t=\"a\",le=\"+Inf\"} 5\n\
            eds_h_sum{t=\"a\"} 9.5\neds_h_count{t=\"a\"} 5\n\
            # HELP eds_c C\n# TYPE eds_c counter\neds_c{x=\"q\\\"\\\\,\",y=\"\"} 7\n";
        let told = body(&[], &Exposition::parse(text), (1, 2));
        let metrics = &told["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        let point = &metrics[0]["histogram"]["dataPoints"][0];
        assert_eq!(point["bucketCounts"], json!(["1", "3", "1"]));
        assert_eq!(point["explicitBounds"], json!([0.5, 2.0]));
        assert_eq!((&point["count"], &point["sum"]), (&json!("5"), &json!(9.5)));
        assert_eq!(point["attributes"], json!([attribute("t", "a")]));
        assert_eq!(metrics[0]["histogram"]["aggregationTemporality"], 2);
        let point = &metrics[1]["sum"]["dataPoints"][0];
        assert_eq!((&point["asDouble"], &point["timeUnixNano"]), (&json!(7.0), &json!("2")));
        assert_eq!(point["attributes"], json!([attribute("x", "q\"\\,"), attribute("y", "")]));
        assert_eq!(metrics[1]["description"], "C");
    }
}
