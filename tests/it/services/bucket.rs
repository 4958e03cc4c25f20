//! A bucket as services in the wild have it: it checks keys and rights, and ignores, refuses or
//! throttles what a test says. It does not check signatures: SeaweedFS does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use percent_encoding::percent_decode_str;

/// The key that is good at first.
pub const KEY_ID: &str = "first-key";

/// What a service is like.
#[derive(Clone, Default)]
pub struct BucketHabits {
    /// `If-None-Match` is read past: a second creation replaces the first.
    pub ignores_conditions: bool,
    /// `If-None-Match` is answered by 501.
    pub lacks_conditions: bool,
    /// These requests, in the order in which they come, are answered by SlowDown.
    pub throttled: Range<usize>,
    /// The error that answers every request.
    pub fails: Option<(u16, &'static str)>,
    /// Longer keys, and larger objects, are refused.
    pub key_bytes_max: Option<usize>,
    pub object_bytes_max: Option<usize>,
    /// The session token that belongs to the key.
    pub token: Option<&'static str>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub is_conditional: bool,
    pub content_type: String,
}

struct BucketState {
    habits: BucketHabits,
    key_id: String,
    expired: Vec<String>,
    objects: BTreeMap<String, Vec<u8>>,
    asked: Vec<Asked>,
}

/// The service; it ends with the test's runtime. Its keys have exactly the rights that the
/// documentation asks for: s3:PutObject and s3:GetObject.
pub struct WildBucket {
    pub port: u16,
    state: Arc<Mutex<BucketState>>,
}

impl WildBucket {
    pub async fn start(habits: BucketHabits) -> WildBucket {
        let state = Arc::new(Mutex::new(BucketState {
            habits,
            key_id: KEY_ID.into(),
            expired: Vec::new(),
            objects: BTreeMap::new(),
            asked: Vec::new(),
        }));
        let listener =
            tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
        let port = listener.local_addr().map(|a| a.port()).unwrap_or_default();
        let router = Router::new().fallback(answer).with_state(state.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        WildBucket { port, state }
    }

    fn state(&self) -> MutexGuard<'_, BucketState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder of a bucket whose name has dots; `more` follows as options.
    pub fn url(&self, more: &str) -> String {
        let key = format!("access-key-id={KEY_ID}&secret-access-key=s");
        format!("s3://127.0.0.1:{}/my.shop.bucket/wild?{key}{more}", self.port)
    }

    /// The same without keys.
    pub fn url_without_keys(&self) -> String {
        format!("s3://127.0.0.1:{}/my.shop.bucket/wild", self.port)
    }

    /// From now on only this key is good; the one before has expired.
    pub fn expect_key(&self, key_id: &str) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.key_id, key_id.into());
        state.expired.push(before);
    }

    /// What is stored, but for the probe: names below the folder.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let events = state.objects.iter().filter(|(name, _)| !name.ends_with(".eds-probe"));
        events
            .map(|(name, content)| {
                let name = name.trim_start_matches("/my.shop.bucket/wild/").to_owned();
                (name, content.clone())
            })
            .collect()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }
}

/// What a request is answered with: status, code of the error, content.
struct BucketAnswer {
    status: u16,
    code: &'static str,
    content: Vec<u8>,
}

const fn error(status: u16, code: &'static str) -> BucketAnswer {
    BucketAnswer { status, code, content: Vec::new() }
}

fn etag(content: &[u8]) -> String {
    format!("\"{:032x}\"", xxhash_rust::xxh3::xxh3_128(content))
}

async fn answer(State(state): State<Arc<Mutex<BucketState>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let name = percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default().to_vec();
    let BucketAnswer { status, code, content } = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let content_type = head.headers.get(header::CONTENT_TYPE);
        state.asked.push(Asked {
            content_type: content_type
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            method: head.method.to_string(),
            is_conditional: head.headers.contains_key(header::IF_NONE_MATCH),
        });
        state.refusal(&head.headers).unwrap_or_else(|| match head.method {
            Method::PUT => state.put(name, body, &head.headers),
            Method::GET => state.get(&name),
            _ => error(403, "AccessDenied"),
        })
    };
    let content = match code {
        "" => content,
        code => format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>").into_bytes(),
    };
    Response::builder()
        .status(status)
        .header(header::ETAG, etag(&content))
        .header(header::LAST_MODIFIED, "Mon, 23 Nov 2026 16:00:00 GMT")
        .body(Body::from(content))
        .unwrap_or_default()
}

impl BucketState {
    /// Why a request is refused, whatever it asks for.
    fn refusal(&mut self, headers: &HeaderMap) -> Option<BucketAnswer> {
        let text = |name: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let signed = text("authorization");
        let is_of = |key_id: &String| signed.contains(&format!("Credential={key_id}/"));
        if let Some((status, code)) = self.habits.fails {
            return Some(error(status, code));
        }
        if self.expired.iter().any(is_of) {
            return Some(error(403, "ExpiredToken"));
        }
        if !is_of(&self.key_id)
            || text("x-amz-security-token") != self.habits.token.unwrap_or_default()
        {
            return Some(error(403, "InvalidAccessKeyId"));
        }
        if self.habits.throttled.contains(&self.asked.len()) {
            return Some(error(503, "SlowDown"));
        }
        None
    }

    fn put(&mut self, name: String, content: Vec<u8>, headers: &HeaderMap) -> BucketAnswer {
        let BucketHabits { key_bytes_max, object_bytes_max, .. } = self.habits;
        let is_conditional = headers.contains_key(header::IF_NONE_MATCH);
        let existing = self.objects.get(&name).map(|content| etag(content));
        let expected = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
        if is_conditional && self.habits.lacks_conditions {
            return error(501, "NotImplemented");
        }
        if name.len() > key_bytes_max.unwrap_or(1_024) {
            return error(400, "KeyTooLongError");
        }
        if content.len() > object_bytes_max.unwrap_or(usize::MAX) {
            return error(400, "EntityTooLarge");
        }
        let is_taken = is_conditional && !self.habits.ignores_conditions && existing.is_some();
        if is_taken || (expected.is_some() && expected != existing.as_deref()) {
            return error(412, "PreconditionFailed");
        }
        self.objects.insert(name, content);
        BucketAnswer { status: 200, code: "", content: Vec::new() }
    }

    /// Without the right to list, what is not there is answered like what is not allowed.
    fn get(&self, name: &str) -> BucketAnswer {
        match self.objects.get(name) {
            Some(content) => BucketAnswer { status: 200, code: "", content: content.clone() },
            None => error(403, "AccessDenied"),
        }
    }
}
