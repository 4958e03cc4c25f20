//! The status page in a browser: each state, wide and narrow, by day and by night.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use eds::clock::now_s;
use eds::pipeline::progress::{HeldCounts, ImportStatus, Phase, Snapshot, StatusNotice};
use eds::status::desk::{Desk, PageAction, ShownLetter};
use eds::status::exposition::Exposition;
use eds::status::moment::{ServerFacts, WorkerCounts};
use eds::status::{StatusServer, StatusSource};
use secrecy::SecretString;
use serde_json::json;

use crate::services::browser::Browser;
use crate::services::eventually;

const WIDE: (u32, u32) = (1280, 1000);
const NARROW: (u32, u32) = (390, 844);

/// A source that tells what a test wants.
#[derive(Default)]
struct Scripted(Mutex<Snapshot>, Option<Arc<ScriptedDesk>>);

/// A desk that notes what it is to do.
struct ScriptedDesk {
    token: Option<SecretString>,
    done: Mutex<Vec<PageAction>>,
}

const TOKEN: &str = "a token of enough bytes";

impl ScriptedDesk {
    fn new(token: Option<&str>) -> Arc<ScriptedDesk> {
        let token = token.map(|token| SecretString::from(token.to_owned()));
        Arc::new(ScriptedDesk { token, done: Mutex::default() })
    }

    fn done(&self) -> Vec<PageAction> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Desk for ScriptedDesk {
    async fn letters(&self) -> Result<Vec<ShownLetter>, String> {
        let letter = |letter: u64, table: &str| ShownLetter {
            consumer: "eds-shop".into(),
            letter,
            table: table.into(),
            kind: "refused",
            reason: "value too long for type character varying(20) (22001): <b>name</b>".into(),
            since_unix: now_s() - 60 * letter,
        };
        Ok(vec![letter(1, "table_0005"), letter(2, "")])
    }

    fn actions(&self) -> &'static [&'static str] {
        &["retry", "pause", "import"]
    }

    async fn act(&self, action: PageAction) -> Result<String, String> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(action);
        Ok("it is done soon".into())
    }

    fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }
}

impl Scripted {
    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl StatusSource for Scripted {
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Something happens all the time.
        if snapshot.state.is_flowing() {
            snapshot.done += 40;
            snapshot.batches += 1;
            snapshot.batch_seconds += 0.004;
            snapshot.last_success_unix = now_s();
        }
        snapshot.clone()
    }

    fn metrics(&self) -> Exposition {
        Exposition::default()
    }

    fn facts(&self) -> ServerFacts {
        ServerFacts {
            credentials_expire_unix: Some(now_s() + 80_000),
            session_renewal_unix: Some(now_s() + 79_400),
            workers: Some(WorkerCounts { started: 2, failed: 1 }),
        }
    }

    fn hang(&self) -> Option<String> {
        None
    }

    fn desk(&self) -> Option<Arc<dyn Desk>> {
        self.1.clone().map(|desk| desk as Arc<dyn Desk>)
    }
}

async fn server(source: &Arc<Scripted>, port: u16) -> StatusServer {
    let bind = IpAddr::V4(Ipv4Addr::LOCALHOST);
    StatusServer::start(bind, port, source.clone()).await.unwrap_or_else(|e| panic!("{e}"))
}

fn scripted(tables: u64) -> Arc<Scripted> {
    scripted_with(tables, None)
}

fn scripted_with(tables: u64, desk: Option<Arc<ScriptedDesk>>) -> Arc<Scripted> {
    let source = Arc::new(Scripted(Mutex::default(), desk));
    source.change(|snapshot| {
        snapshot.state = Phase::CaughtUp;
        snapshot.consumer = "eds-shop".into();
        snapshot.destination = "postgres://ed*:****@db.example.com/sh**".into();
        snapshot.stream_sequence = 123_456;
        for i in 0..tables {
            let counts = snapshot.counts_of(&format!("table_{i:04}")).1;
            (counts.upserts, counts.deletes) = (i * 37 % 1_001, i % 7);
            counts.last_change_unix = now_s() - i;
            counts.schema_version = "7b1c9e".into();
        }
    });
    source
}

fn headline(text: &str) -> String {
    format!("document.getElementById('headline').textContent === {text:?}")
}

/// Well, an outage, its end, a pause, a server that is gone and one that is back: in words each
/// time, without a reload.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_each_state_and_its_end() {
    let source = scripted(12);
    let first = server(&source, 0).await;
    let port = first.address.port();
    let mut browser = Browser::open(&format!("http://127.0.0.1:{port}/ui"), WIDE);
    browser.until(&headline("All changes are delivered"));
    browser.until("document.querySelectorAll('#rows tr').length === 12");
    browser.until("document.querySelector('#rate-chart path')?.getAttribute('d')?.length > 5");
    browser.picture("well-wide");

    source.change(|snapshot| {
        let why = "PostgreSQL at db.example.com: connection refused\nand more";
        snapshot.state = Phase::Waiting(why.into());
        snapshot.fails(why);
        snapshot.warn("a table of the name \"x\" was not made by EDS");
        (snapshot.lag_events, snapshot.lag_seconds) = (4_711, 95.0);
        let reason = "table \"table_0003\": permission denied (42501)".into();
        let held = HeldCounts { reason, since_unix: now_s() - 600, changes: 17, bytes: 9_000 };
        snapshot.held.insert("table_0003".into(), held);
        snapshot.dead_letters_waiting = 2;
        snapshot.counts_of("table_0005").1.dead_letters = 2;
    });
    browser.until(&headline("Changes are not delivered"));
    browser.until("document.querySelectorAll('#problems li').length === 3");
    let first_problem = browser.value("document.querySelector('#problems li').innerText");
    let text = first_problem.as_str().unwrap_or_default().to_owned();
    assert!(text.contains("connection refused") && !text.contains("and more"), "{text}");
    browser.until("document.querySelectorAll('tr.held').length === 1");
    browser.picture("outage-wide");
    browser.colours("dark");
    browser.picture("outage-wide-dark");
    browser.resize(NARROW.0, NARROW.1);
    browser.picture("outage-narrow-dark");
    browser.colours("light");
    browser.until("document.documentElement.scrollWidth <= 390");
    browser.picture("outage-narrow");

    source.change(|snapshot| {
        snapshot.state = Phase::CaughtUp;
        snapshot.last_error = None;
        snapshot.held.clear();
        (snapshot.lag_events, snapshot.lag_seconds) = (0, 0.0);
    });
    browser.until("document.querySelectorAll('#problems li').length === 1");
    browser.until("document.querySelectorAll('tr.held').length === 0");
    source.change(|snapshot| snapshot.state = Phase::Paused);
    browser.until(&headline("Paused by somebody"));
    browser.picture("paused-narrow");

    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(first);
    browser.until("!document.getElementById('lost').hidden");
    browser.picture("lost-narrow");
    source.change(|snapshot| snapshot.state = Phase::Streaming);
    let _second = server(&source, port).await;
    browser.until("document.getElementById('lost').hidden");
    browser.until(&headline("Changes are being delivered"));
}

/// A thousand tables: they are found, sorted by the keyboard, and their names are only text.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tables_stay_usable() {
    const EVIL: &str = "<img src=x onerror=\"document.title='evil'\">";
    let source = scripted(1_000);
    source.change(|snapshot| {
        snapshot.counts_of(EVIL).1.upserts = 9_999;
        snapshot.warnings.push_back(StatusNotice::now(EVIL));
    });
    let server = server(&source, 0).await;
    let mut browser = Browser::open(&format!("http://{}/ui", server.address), WIDE);
    browser.until("document.querySelectorAll('#rows tr').length === 1001");
    // By the keyboard alone: the button that sorts by upserts, then the field.
    browser.value("document.querySelector('button[data-key=name]').focus()");
    browser.press("Tab", 9, "");
    let focused = browser.value("document.activeElement.dataset.key");
    assert_eq!(focused, "upserts");
    browser.press("Enter", 13, "\r");
    browser
        .until("document.activeElement.parentElement.getAttribute('aria-sort') === 'descending'");
    let name = "document.querySelector('#rows tr th').textContent";
    assert_eq!(browser.value(name), EVIL);
    browser.picture("thousand-wide");
    browser.value("document.getElementById('filter').focus()");
    for key in ["E", "_", "0", "7"] {
        browser.press(key, u32::from(key.as_bytes()[0]), key);
    }
    browser.until("document.querySelectorAll('#rows tr').length === 100");
    browser.until("document.getElementById('table-count').textContent === '(100 of 1001)'");
    // What changes is shown in its place.
    source.change(|snapshot| snapshot.counts_of("table_0777").1.deletes = 123_456);
    browser.until("document.getElementById('rows').innerText.includes('123,456')");
    assert_eq!(browser.value("document.querySelectorAll('img').length"), json!(0));
    assert_ne!(browser.value("document.title"), json!("evil"));
    let unnamed = "[...document.querySelectorAll('input,button,svg,[role=region]')].filter(e => \
                   !(e.textContent.trim() || e.labels?.length || e.ariaLabel || \
                   e.getAttribute('aria-labelledby'))).length";
    assert_eq!(browser.value(unnamed), json!(0), "everything that is reached has a name");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// A source with two dead letters, and an import under way.
fn importing(desk: Arc<ScriptedDesk>) -> Arc<Scripted> {
    let source = scripted_with(12, Some(desk));
    source.change(|snapshot| {
        snapshot.dead_letters_waiting = 2;
        snapshot.import = Some(ImportStatus {
            since_unix: now_s() - 100,
            tables: 12,
            tables_done: 4,
            rows: 1_234_567,
            fraction: 0.41,
            now: vec!["table_0003".into(), "table_0007".into()],
        });
    });
    source
}

/// Dead letters and an import are shown to everybody; what can be done about them only where there
/// is a token, and only who has it does it.
#[tokio::test(flavor = "multi_thread")]
async fn only_who_has_the_token_acts() {
    let source = importing(ScriptedDesk::new(None));
    let reads_only = server(&source, 0).await;
    let mut browser = Browser::open(&format!("http://{}/ui", reads_only.address), WIDE);
    browser.until("document.querySelectorAll('#letter-list li').length === 2");
    browser.until("document.getElementById('import-text').textContent.startsWith('41 %')");
    let hidden = "[...document.querySelectorAll('.do,#token')].every(e => e.offsetParent === null)";
    assert_eq!(browser.value(hidden), json!(true), "nothing is said of actions");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    let desk = ScriptedDesk::new(Some(TOKEN));
    let source = importing(desk.clone());
    let acts = server(&source, 0).await;
    let mut browser = Browser::open(&format!("http://{}/ui", acts.address), WIDE);
    browser.until("document.querySelectorAll('#letter-list button').length === 2");
    assert_eq!(browser.value("document.querySelectorAll('#letter-list b').length"), json!(0));
    let said =
        |text: &str| format!("document.getElementById('said').textContent.includes({text:?})");
    browser.value("document.querySelector('#letter-list button').click()");
    browser.until(&said("Give the token first"));
    browser.value("document.getElementById('token').value = 'another token of many bytes'");
    browser.value("document.getElementById('pause').click()");
    browser.until(&said("this is not the token"));
    assert_eq!(desk.done(), Vec::new());
    // The browser tells of the refusal, too.
    assert_eq!(browser.complaints().len(), 1);
    browser.value(&format!("document.getElementById('token').value = {TOKEN:?}"));
    for click in [
        "document.querySelector('#letter-list button').click()",
        "document.getElementById('pause').click()",
        "document.getElementById('import-table').value = 'table_0003', \
         document.getElementById('import-go').click()",
    ] {
        let before = desk.done().len();
        browser.value(click);
        eventually("it is done", Duration::from_secs(20), async || desk.done().len() > before)
            .await;
        browser.until(&said("Ordered: it is done soon"));
    }
    let retry = PageAction::Retry { consumer: "eds-shop".into(), letter: 1 };
    let import = PageAction::Import { table: "table_0003".into() };
    assert_eq!(desk.done(), [retry, PageAction::Pause, import]);
    browser.picture("actions-wide");
    browser.resize(NARROW.0, NARROW.1);
    browser.until("document.documentElement.scrollWidth <= 390");
    browser.value("document.getElementById('h-letters').scrollIntoView()");
    browser.picture("actions-narrow");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
