//! The status page: three files that are part of the program, and the events that keep it live.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::Stream;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Interval, MissedTickBehavior};

use super::StatusState;
use super::listener::Lease;

/// Pages that may be open at a time.
pub const PAGES_MAX: usize = 32;
/// Between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// The page has nothing but these files, and talks to nobody but this server.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The routes of the page.
pub fn routes() -> Router<Arc<StatusState>> {
    let file =
        |kind: &'static str, text: &'static str| get(move || async move { (headers(kind), text) });
    Router::new()
        .route("/ui", file("text/html; charset=utf-8", include_str!("ui/index.html")))
        .route("/ui/style.css", file("text/css; charset=utf-8", include_str!("ui/style.css")))
        .route(
            "/ui/script.js",
            file("text/javascript; charset=utf-8", include_str!("ui/script.js")),
        )
        .route("/ui/events", get(events))
}

fn headers(kind: &'static str) -> HeaderMap {
    let all = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    all.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}

/// What one page has been told.
struct PageStream {
    shared: Arc<StatusState>,
    turns: Interval,
    tables: Map<String, Value>,
    /// The time of its last point of the last hour.
    point_unix: u64,
    _permit: OwnedSemaphorePermit,
}

/// The status again and again, with the tables that have changed since.
async fn events(
    State(shared): State<Arc<StatusState>>,
    ConnectInfo(lease): ConnectInfo<Lease>,
) -> Response {
    let Ok(permit) = shared.pages.clone().try_acquire_owned() else {
        let text = "too many status pages are open";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    lease.prolong();
    let mut turns = tokio::time::interval(EVENT_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stream = PageStream { shared, turns, tables: Map::new(), point_unix: 0, _permit: permit };
    Sse::new(stream.events()).into_response()
}

impl PageStream {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut page| async move {
            page.turns.tick().await;
            let event = Event::default().data(page.next().to_string());
            Some((Ok(event), page))
        })
    }

    fn next(&mut self) -> Value {
        let mut status = serde_json::to_value(self.shared.status()).unwrap_or_default();
        let points = self.shared.history().points_after(self.point_unix);
        self.point_unix = points.last().map_or(self.point_unix, |point| point.at_unix);
        if let Some(tables) = status.get_mut("tables").and_then(Value::as_object_mut) {
            let now = std::mem::take(tables);
            *tables = changed(&self.tables, &now);
            self.tables = now;
        }
        if let Some(status) = status.as_object_mut() {
            status.insert("points".into(), serde_json::to_value(points).unwrap_or_default());
        }
        status
    }
}

/// The entries of `now` that are not the same in `before`.
fn changed(before: &Map<String, Value>, now: &Map<String, Value>) -> Map<String, Value> {
    let is_new = |(name, value): &(&String, &Value)| before.get(*name) != Some(value);
    now.iter().filter(is_new).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and errors reach the page as text: nothing in it makes elements of them, and nothing in
    /// it is of another place.
    #[test]
    fn the_page_makes_no_markup_of_data_and_loads_nothing() {
        let (html, css, js) = (
            include_str!("ui/index.html"),
            include_str!("ui/style.css"),
            include_str!("ui/script.js"),
        );
        for word in
            ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function("]
        {
            assert!(!js.contains(word), "{word}");
        }
        for word in ["<style", "style=", "onclick", "onload", "<script>"] {
            assert!(!html.contains(word), "{word} is against the page's own policy");
        }
        for text in [html, css, js] {
            let places = text.replace("http://www.w3.org/2000/svg", "");
            assert!(
                !places.contains("http:")
                    && !places.contains("https:")
                    && !places.contains("//cdn")
            );
        }
    }

    #[test]
    fn only_tables_that_changed_are_told_again() {
        let tables =
            |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
        let before = tables(r#"{"a":{"upserts":1},"b":{"upserts":1}}"#);
        let now = tables(r#"{"a":{"upserts":1},"b":{"upserts":2},"c":{"upserts":1}}"#);
        let names: Vec<String> = changed(&before, &now).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "c"]);
        assert!(changed(&now, &now).is_empty());
    }
}
