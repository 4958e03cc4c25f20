//! What the status page shows beside the status, and what it does for whoever has the token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::StatusState;

/// Dead letters that are shown, the latest ones.
pub const LETTERS_SHOWN_MAX: usize = 100;
/// What was read of the dead letters is shown for so long before it is read again.
const LETTERS_AGE_MAX: Duration = Duration::from_secs(5);
/// Before a wrong token is answered, one at a time: it cannot be found by trying.
const WRONG_TOKEN_WAIT: Duration = Duration::from_secs(1);
/// The shortest token.
pub const TOKEN_BYTES_MIN: usize = 16;

/// A dead letter, as the page shows it: nothing of its row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ShownLetter {
    /// Whose it is.
    pub consumer: String,
    /// Its number.
    pub letter: u64,
    /// The table; empty where the message does not tell.
    pub table: String,
    /// What kind of refusal it was.
    pub kind: &'static str,
    /// Why, for people.
    pub reason: String,
    /// Since when it is one, Unix seconds.
    pub since_unix: u64,
}

/// What somebody may want from the page.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum PageAction {
    /// Try a dead letter once more.
    Retry {
        /// Whose it is.
        consumer: String,
        /// Its number.
        letter: u64,
    },
    /// Fetch nothing until somebody says so.
    Pause,
    /// Go on.
    Unpause,
    /// Load a table anew.
    Import {
        /// Its name, as the source spells it.
        table: String,
    },
}

/// What the page has to do with.
#[async_trait]
pub trait Desk: Send + Sync + 'static {
    /// The dead letters that no later change has superseded, the latest first, at most
    /// [`LETTERS_SHOWN_MAX`]. The error is shown.
    async fn letters(&self) -> Result<Vec<ShownLetter>, String>;

    /// The names of what can be done here.
    fn actions(&self) -> &'static [&'static str];

    /// Has it done; what is to be said of it. It waits for no end.
    async fn act(&self, action: PageAction) -> Result<String, String>;

    /// Who has it may act; without one nobody may.
    fn token(&self) -> Option<&SecretString>;
}

/// What a reading of the dead letters came to.
type LettersRead = Result<Vec<ShownLetter>, String>;

/// What was read of the dead letters, and when.
#[derive(Default)]
pub struct ReadLetters(Mutex<Option<(Instant, LettersRead)>>);

impl ReadLetters {
    /// Reads them, unless that was done just now: whoever looks shares one reading.
    async fn of(&self, desk: &dyn Desk) -> LettersRead {
        let mut read = self.0.lock().await;
        if let Some((at, letters)) = &*read
            && at.elapsed() < LETTERS_AGE_MAX
        {
            return letters.clone();
        }
        let letters = desk.letters().await;
        *read = Some((Instant::now(), letters.clone()));
        letters
    }
}

/// What may be done by whoever has the token: nothing is said of it where there is none.
pub fn actions(desk: Option<&dyn Desk>) -> Vec<&'static str> {
    let open = desk.filter(|desk| desk.token().is_some());
    open.map_or_else(Vec::new, |desk| desk.actions().to_vec())
}

/// The routes.
pub(super) fn routes() -> Router<Arc<StatusState>> {
    Router::new().route("/ui/letters", get(letters)).route("/ui/actions", post(act))
}

async fn letters(State(shared): State<Arc<StatusState>>) -> Response {
    let read = match shared.source.desk() {
        Some(desk) => shared.letters.of(&*desk).await,
        None => Ok(Vec::new()),
    };
    let body = match read {
        Ok(letters) => json!({"letters": letters, "error": null}),
        Err(why) => json!({"letters": [], "error": why}),
    };
    answer(StatusCode::OK, &body)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.to_string()).into_response()
}

/// The token comes in a header that no form of another page can send, and the body is JSON.
async fn act(State(shared): State<Arc<StatusState>>, headers: HeaderMap, body: String) -> Response {
    let refused =
        |status: StatusCode, why: &str| answer(status, &json!({"said": null, "error": why}));
    let desk = shared.source.desk().filter(|desk| desk.token().is_some());
    let Some(desk) = desk else { return refused(StatusCode::NOT_FOUND, "there is no such page") };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if !desk.token().is_some_and(|token| is_same(token.expose_secret(), given)) {
        let _one_at_a_time = shared.wrong_tokens.lock().await;
        sleep(WRONG_TOKEN_WAIT).await;
        return refused(StatusCode::UNAUTHORIZED, "this is not the token");
    }
    let Ok(action) = serde_json::from_str::<PageAction>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "there is no such action");
    };
    match desk.act(action).await {
        Ok(said) => answer(StatusCode::OK, &json!({"said": said, "error": null})),
        Err(why) => refused(StatusCode::CONFLICT, &why),
    }
}

/// Whether two texts are the same; how long it takes says nothing about where they differ.
fn is_same(one: &str, other: &str) -> bool {
    Sha256::digest(one.as_bytes()) == Sha256::digest(other.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_have_their_form() {
        let read = |text: &str| serde_json::from_str::<PageAction>(text).ok();
        let retry = PageAction::Retry { consumer: "eds-a".into(), letter: 7 };
        assert_eq!(read(r#"{"action":"retry","consumer":"eds-a","letter":7}"#), Some(retry));
        assert_eq!(read(r#"{"action":"pause"}"#), Some(PageAction::Pause));
        assert_eq!(read(r#"{"action":"import"}"#), None, "it names no table");
        assert_eq!(read(r#"{"action":"drop"}"#), None);
        assert!(is_same("a", "a") && !is_same("a", "b") && !is_same("a", ""));
    }
}
