//! Posts alerts as they fire and resolve. Whatever becomes of that, the stream does not wait.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, sleep};
use tracing::{info, warn};
use url::Url;

use super::StatusSource;
use super::alerts::{AlertBook, AlertLimits, AlertOrigin};
use crate::backoff::{Backoff, Waits};
use crate::clock::now_s;
use crate::http::{Http, Request};

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Events that wait to be posted; one more is dropped, and that is logged.
const EVENTS_MAX: usize = 256;
/// Tries to post an event; each takes up to a minute.
const TRIES_MAX: u32 = 6;
/// Between two tries.
const POST_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(2), longest: Duration::from_secs(60) };

/// Where alerts are posted to.
#[derive(Clone, Debug)]
pub struct Webhook {
    url: SecretString,
    limits: AlertLimits,
    host: String,
}

impl Webhook {
    /// `after`: something may last so long before it is an alert; `None`: as the shipped rules have
    /// it. An error says what is wrong with the URL, and nothing of it.
    pub fn new(
        url: SecretString,
        after: Option<Duration>,
        host: String,
    ) -> Result<Webhook, String> {
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        if !Url::parse(url.expose_secret()).is_ok_and(|url| is_http(&url)) {
            return Err("the webhook is not a URL that begins with https:// or http://".into());
        }
        let limits = after.map_or(AlertLimits::SHIPPED, |after| AlertLimits::of(after.as_secs()));
        Ok(Webhook { url, limits, host })
    }

    /// The URL as it may be shown: all but its host may be secret.
    pub fn place(&self) -> String {
        masked(self.url.expose_secret())
    }
}

/// A webhook's URL as it may be shown: who has its path may post to it.
pub fn masked(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{host}{port}/****", url.scheme())
        }
        Err(_) => "****".into(),
    }
}

/// Watches, and posts, without end.
pub async fn watch(source: Arc<dyn StatusSource>, hook: Webhook) {
    let http = match Http::without_redirects() {
        Ok(http) => http,
        Err(why) => return warn!("alerts are not posted: {why}"),
    };
    info!("alerts are posted to {}", hook.place());
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    tokio::join!(look(source, &hook, sender), post_all(&http, &hook, events));
}

/// Looks again and again, and passes on what there is to be told.
async fn look(source: Arc<dyn StatusSource>, hook: &Webhook, events: mpsc::Sender<String>) {
    let mut book = AlertBook::new(hook.limits);
    let mut turns = tokio::time::interval(LOOK_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let snapshot = source.snapshot();
        let told = book.look(&snapshot, &source.facts(), now_s());
        let origin = AlertOrigin {
            consumer: snapshot.consumer,
            destination: snapshot.destination,
            host: hook.host.clone(),
        };
        for event in told {
            let what = if event.is_resolved { "is over" } else { "fires" };
            info!("alert {} {what}", event.alert());
            if events.try_send(event.body(&origin).to_string()).is_err() {
                warn!("alert {} is not posted: {EVENTS_MAX} others wait", event.alert());
            }
        }
    }
}

/// Posts one after the other.
async fn post_all(http: &Http, hook: &Webhook, mut events: mpsc::Receiver<String>) {
    while let Some(body) = events.recv().await {
        let mut waits = Backoff::new(POST_WAITS);
        loop {
            let Err(refusal) = post(http, hook, body.clone()).await else { break };
            if refusal.is_final || waits.tries() + 1 >= TRIES_MAX {
                warn!("an alert could not be posted to {}: {}", hook.place(), refusal.why);
                break;
            }
            sleep(waits.next(&hook.host)).await;
        }
    }
}

/// Why an event was not taken.
struct PostRefusal {
    why: String,
    /// Another try would come to the same.
    is_final: bool,
}

async fn post(http: &Http, hook: &Webhook, body: String) -> Result<(), PostRefusal> {
    let url = hook.url.expose_secret();
    let request = Request { method: Method::POST, url, token: None, body: Some(body) };
    let reply = http.send(request).await.map_err(|why| PostRefusal { why, is_final: false })?;
    match reply.status.is_success() {
        true => Ok(()),
        // What it says may quote the address.
        false => Err(PostRefusal {
            why: format!("it answered {}", reply.status),
            is_final: reply.status.is_client_error() && !crate::http::comes_again(reply.status),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_url_but_its_host_is_shown() {
        for url in [
            "https://hooks.example.com/services/T0/B1/s3cret",
            "https://me:s3cret@hooks.example.com/a?token=s3cret",
            "http://hooks.example.com:8080/s3cret#s3cret",
        ] {
            let hook = Webhook::new(url.to_owned().into(), None, "host".into());
            let hook = hook.unwrap_or_else(|e| panic!("{e}"));
            let shown = format!("{} {hook:?}", hook.place());
            assert!(shown.contains("hooks.example.com") && !shown.contains("s3cret"), "{shown}");
        }
        for url in ["s3cret", "ftp://s3cret/a", "hooks.example.com/s3cret", "", "https://"] {
            let refused = Webhook::new(url.to_owned().into(), None, "host".into()).err();
            assert!(refused.is_some_and(|why| !why.contains("s3cret")), "{url}");
        }
    }
}
