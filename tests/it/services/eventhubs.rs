//! A peer that speaks AMQP as Event Hubs does: it checks signatures, names the hub's partitions,
//! keeps what it accepts, and is busy, forgetful or gone where a test says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use fe2o3_amqp::acceptor::{
    ConnectionAcceptor, LinkAcceptor, LinkEndpoint, ListenerSessionHandle, SaslAnonymousMechanism,
    SessionAcceptor,
};
use fe2o3_amqp::link::delivery::Delivery;
use fe2o3_amqp::{Receiver, Sender};
use fe2o3_amqp_types::definitions::{AmqpError, Error, ErrorCondition, LinkError};
use fe2o3_amqp_types::messaging::message::__private::Deserializable;
use fe2o3_amqp_types::messaging::{
    AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties,
};
use fe2o3_amqp_types::primitives::{Array, OrderedMap, SimpleValue, Symbol, Value};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, Notify};

pub const KEY: &str = "c2VjcmV0/key+of=the+tests=";
/// What Entra gives to whom it knows.
pub const ENTRA_TOKEN: &str = "entra-token-of-the-tests";
pub const PARTITIONS: usize = 4;
/// The largest message that the hub takes.
pub const MESSAGE_BYTES_MAX: u64 = 256 << 10;

/// Begins the ids of events that the hub refuses.
pub const POISON: &str = "poison";

/// An event as a consumer sees it.
#[derive(Clone, Debug)]
pub struct Received {
    pub partition: usize,
    pub partition_key: String,
    pub message_id: String,
    pub content_type: String,
    pub object_id: String,
    pub body: Vec<u8>,
}

/// How often, of a thousand batches, something goes wrong.
#[derive(Clone, Copy, Default)]
pub struct PeerHabits {
    pub busy: u32,
    pub release: u32,
    /// The link ends before the batch is stored.
    pub detach: u32,
    /// The batch is stored, and the connection breaks before that is said.
    pub lose: u32,
    /// A link that brings nothing for so long ends, as the service's do after ten minutes.
    pub idle: Option<Duration>,
}

#[derive(Default)]
struct PeerHub {
    received: Vec<Received>,
    habits: PeerHabits,
    /// Batches that came, whatever became of them.
    batches: usize,
    connections: usize,
    rng: Option<fastrand::Rng>,
    is_down: bool,
}

/// What happens to a batch.
enum Fate {
    Accept,
    Busy,
    Release,
    Detach,
    Lose,
}

impl PeerHub {
    fn fate(&mut self) -> Fate {
        let PeerHabits { busy, release, detach, lose, idle: _ } = self.habits;
        let dice = self.rng.get_or_insert_with(|| fastrand::Rng::with_seed(7)).u32(0..1_000);
        let mut limit = 0;
        for (share, fate) in [
            (busy, Fate::Busy),
            (release, Fate::Release),
            (detach, Fate::Detach),
            (lose, Fate::Lose),
        ] {
            limit += share;
            if dice < limit {
                return fate;
            }
        }
        Fate::Accept
    }
}

/// The peer; it ends with the test's runtime.
pub struct EventHubs {
    pub port: u16,
    hub: Arc<Mutex<PeerHub>>,
    /// Every connection ends.
    ended: Arc<Notify>,
}

fn locked(hub: &Mutex<PeerHub>) -> MutexGuard<'_, PeerHub> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EventHubs {
    /// With TLS where a certificate and its key are given.
    pub async fn start(tls: Option<Arc<rustls::ServerConfig>>) -> EventHubs {
        let hub = Arc::new(Mutex::new(PeerHub::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
        let port = listener.local_addr().map(|a| a.port()).unwrap_or_default();
        let ended = Arc::new(Notify::new());
        let (accepting, ending) = (hub.clone(), ended.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if locked(&accepting).is_down {
                    continue;
                }
                locked(&accepting).connections += 1;
                let (hub, tls, ended) = (accepting.clone(), tls.clone(), ending.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = ended.notified() => {}
                        () = greeted(stream, tls, hub) => {}
                    }
                });
            }
        });
        EventHubs { port, hub, ended }
    }

    /// Every connection ends, and no other is taken until it is up again; what was accepted stays.
    pub fn set_down(&self, down: bool) {
        locked(&self.hub).is_down = down;
        if down {
            self.ended.notify_waiters();
        }
    }

    pub fn disturb(&self, habits: PeerHabits) {
        locked(&self.hub).habits = habits;
    }

    pub fn received(&self) -> Vec<Received> {
        locked(&self.hub).received.clone()
    }

    pub fn batches(&self) -> usize {
        locked(&self.hub).batches
    }

    pub fn connections(&self) -> usize {
        locked(&self.hub).connections
    }

    pub fn url(&self) -> String {
        self.url_of("127.0.0.1", "hub", KEY, ";UseDevelopmentEmulator=true")
    }

    pub fn url_of(&self, host: &str, hub: &str, key: &str, more: &str) -> String {
        format!(
            "eventhub://{host}:{}/;SharedAccessKeyName=Root;SharedAccessKey={key};EntityPath={hub}{more}",
            self.port
        )
    }
}

/// Serves a connection, after TLS's greetings where there are some.
async fn greeted(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    hub: Arc<Mutex<PeerHub>>,
) {
    let Some(config) = tls else { return connected(stream, hub).await };
    if let Ok(stream) = tokio_rustls::TlsAcceptor::from(config).accept(stream).await {
        connected(stream, hub).await;
    }
}

/// Serves over a pipe, so that the connection can break in mid-sentence.
async fn connected<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, hub: Arc<Mutex<PeerHub>>) {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let lost = Arc::new(Notify::new());
    tokio::select! {
        () = lost.notified() => {}
        _ = tokio::io::copy_bidirectional(&mut stream, &mut near) => {}
        () = serve(far, hub, lost.clone()) => {}
    }
}

async fn serve(stream: tokio::io::DuplexStream, hub: Arc<Mutex<PeerHub>>, lost: Arc<Notify>) {
    let acceptor = ConnectionAcceptor::builder()
        .container_id("hub")
        .max_frame_size(65_536u32)
        .channel_max(255)
        .sasl_acceptor(SaslAnonymousMechanism {})
        .build();
    let Ok(mut connection) = acceptor.accept(stream).await else { return };
    let sessions = SessionAcceptor::new();
    while let Ok(session) = sessions.accept(&mut connection).await {
        tokio::spawn(links(session, hub.clone(), lost.clone()));
    }
}

/// What the links of one connection share.
struct PeerState {
    hub: Arc<Mutex<PeerHub>>,
    /// The hub that the token was for.
    allowed: Mutex<Option<String>>,
    /// Where answers go, by address.
    replies: AsyncMutex<HashMap<String, Sender>>,
    lost: Arc<Notify>,
}

async fn links(mut session: ListenerSessionHandle, hub: Arc<Mutex<PeerHub>>, lost: Arc<Notify>) {
    let shared = Arc::new(PeerState {
        hub,
        allowed: Mutex::new(None),
        replies: AsyncMutex::default(),
        lost,
    });
    let acceptor = LinkAcceptor::builder().max_message_size(MESSAGE_BYTES_MAX).build();
    loop {
        match acceptor.accept(&mut session).await {
            Ok(LinkEndpoint::Receiver(receiver)) => {
                drop(tokio::spawn(listen(receiver, shared.clone())));
            }
            Ok(LinkEndpoint::Sender(sender)) => {
                let address = sender
                    .target()
                    .as_ref()
                    .and_then(|target| target.address.clone())
                    .unwrap_or_default();
                shared.replies.lock().await.insert(address, sender);
            }
            Err(_) => return,
        }
    }
}

async fn listen(mut receiver: Receiver, shared: Arc<PeerState>) {
    let address =
        receiver.target().as_ref().and_then(|target| target.address.clone()).unwrap_or_default();
    let refuse =
        |condition: AmqpError, why: &str| Error::new(condition, Some(why.to_owned()), None);
    match address.split_once("/Partitions/") {
        Some((name, partition)) => {
            let allowed = shared.allowed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match partition.parse() {
                Ok(partition) if allowed.as_deref() == Some(name) && partition < PARTITIONS => {
                    events(receiver, partition, &shared).await;
                }
                _ => drop(
                    receiver
                        .close_with_error(refuse(
                            AmqpError::UnauthorizedAccess,
                            "no claim for this hub",
                        ))
                        .await,
                ),
            }
        }
        None => {
            receiver.set_auto_accept(true);
            while let Ok(delivery) = receiver.recv::<Body<Value>>().await {
                answer(&address, delivery.into_message(), &shared).await;
            }
        }
    }
}

/// Answers a request to `$cbs` or `$management`.
async fn answer(node: &str, request: Message<Body<Value>>, shared: &PeerState) {
    let asked = request.application_properties.unwrap_or_default();
    let text = |name: &str| {
        if let Some(SimpleValue::String(text)) = asked.get(name) {
            text.clone()
        } else {
            String::new()
        }
    };
    let header = request.properties.unwrap_or_default();
    let allowed =
        |hub: Option<String>| *shared.allowed.lock().unwrap_or_else(PoisonError::into_inner) = hub;
    let (status, body) = match (node, text("operation").as_str()) {
        ("$cbs", "put-token") => {
            let token = if let Body::Value(AmqpValue(Value::String(token))) = request.body {
                token
            } else {
                String::new()
            };
            match checked(&text("type"), &token, &text("name")) {
                Ok(hub) => {
                    allowed(Some(hub));
                    (202, Value::Null)
                }
                Err(status) => (status, Value::Null),
            }
        }
        ("$management", "READ") if text("name") == "hub" => (200, description()),
        ("$management", "READ") => (404, Value::Null),
        _ => (400, Value::Null),
    };
    let header = Properties {
        correlation_id: header.message_id,
        to: header.reply_to.clone(),
        ..Properties::default()
    };
    let said = match status {
        401 => "InvalidSignature: The token has an invalid signature.",
        404 => "The messaging entity could not be found. TrackingId:4014",
        _ => "OK",
    };
    let properties = ApplicationProperties::builder()
        .insert("status-code", status)
        .insert("status-description", said)
        .build();
    let message = Message::builder()
        .properties(header.clone())
        .application_properties(properties)
        .body(AmqpValue(body))
        .build();
    let address = header.to.unwrap_or_default();
    // A request may be faster than the link for its answer.
    for _ in 0..500 {
        if let Some(sender) = shared.replies.lock().await.get_mut(&address) {
            let _ = sender.send(message).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The hub that a token is for, or the status with which it is refused.
fn checked(kind: &str, token: &str, audience: &str) -> Result<String, i32> {
    let hub = audience.rsplit('/').next().unwrap_or_default().to_owned();
    if kind == "jwt" {
        return if token == ENTRA_TOKEN { Ok(hub) } else { Err(401) };
    }
    let fields: HashMap<&str, &str> = token
        .strip_prefix("SharedAccessSignature ")
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    let field = |name: &str| fields.get(name).copied().unwrap_or_default();
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let expected = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()),
        format!("{}\n{}", field("sr"), field("se")).as_bytes(),
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let holds = decoded(field("sig")) == BASE64.encode(expected.as_ref())
        && field("se").parse::<u64>().is_ok_and(|expiry| expiry > now)
        && field("skn") == "Root";
    match (holds, decoded(field("sr")) == audience) {
        (true, true) => Ok(hub),
        _ => Err(401),
    }
}

fn description() -> Value {
    let mut map: OrderedMap<Value, Value> = OrderedMap::new();
    let text = |text: &str| Value::String(text.into());
    map.insert(text("name"), text("hub"));
    map.insert(text("partition_count"), Value::Int(PARTITIONS as i32));
    map.insert(
        text("partition_ids"),
        Value::Array(Array((0..PARTITIONS).map(|n| Value::String(n.to_string())).collect())),
    );
    Value::Map(map)
}

/// The next message; `None` where the link has ended, or ends because nothing comes.
async fn next(receiver: &mut Receiver, shared: &PeerState) -> Option<Delivery<Body<Value>>> {
    let Some(idle) = locked(&shared.hub).habits.idle else {
        return receiver.recv().await.ok();
    };
    tokio::time::timeout(idle, receiver.recv()).await.ok()?.ok()
}

/// What the service ends a link with: neither says that an event is bad.
fn end_of_link(batches: usize) -> Error {
    match batches % 2 {
        0 => Error::new(LinkError::DetachForced, Some("the link is moved".into()), None),
        _ => Error::new(AmqpError::NotAllowed, Some("not while it is moved".into()), None),
    }
}

async fn events(mut receiver: Receiver, partition: usize, shared: &PeerState) {
    loop {
        let Some(delivery) = next(&mut receiver, shared).await else {
            let _ = receiver.close_with_error(end_of_link(0)).await;
            return;
        };
        let fate = {
            let mut hub = locked(&shared.hub);
            hub.batches += 1;
            hub.fate()
        };
        let found = || match delivery.body() {
            Body::Data(sections) => sections
                .iter()
                .map(|section| event(partition, &section.0))
                .collect::<Vec<Received>>(),
            _ => Vec::new(),
        };
        assert_eq!(*delivery.message_format(), Some(0x8001_3700), "a batch says that it is one");
        let done = match fate {
            // Whatever else would happen to it: it is refused for what it holds.
            _ if found().iter().any(|event| event.message_id.starts_with(POISON)) => {
                let why = Error::new(AmqpError::NotAllowed, Some("poison".into()), None);
                receiver.reject(&delivery, why).await
            }
            Fate::Accept => {
                locked(&shared.hub).received.extend(found());
                receiver.accept(&delivery).await
            }
            Fate::Busy => {
                let busy = ErrorCondition::Custom(Symbol::from("com.microsoft:server-busy"));
                let why = Some("The namespace is being throttled.".to_owned());
                receiver.reject(&delivery, Error::new(busy, why, None)).await
            }
            Fate::Release => receiver.release(&delivery).await,
            Fate::Detach => {
                let error = end_of_link(locked(&shared.hub).batches);
                let _ = receiver.close_with_error(error).await;
                return;
            }
            Fate::Lose => {
                locked(&shared.hub).received.extend(found());
                shared.lost.notify_one();
                return;
            }
        };
        if done.is_err() {
            return;
        }
    }
}

fn event(partition: usize, bytes: &[u8]) -> Received {
    let message: Deserializable<Message<Body<Value>>> = serde_amqp::from_slice(bytes)
        .unwrap_or_else(|e| panic!("an event in a batch is no message: {e}"));
    let message = message.0;
    let text = |value: Option<&Value>| {
        if let Some(Value::String(text)) = value { text.clone() } else { String::new() }
    };
    let properties = message.properties.unwrap_or_default();
    let key = message.message_annotations.as_ref().and_then(|annotations| {
        annotations
            .0
            .iter()
            .find(|(name, _)| format!("{name:?}").contains("x-opt-partition-key"))
            .map(|(_, value)| value.clone())
    });
    let object = message.application_properties.and_then(|found| {
        if let Some(SimpleValue::String(text)) = found.get("objectId") {
            Some(text.clone())
        } else {
            None
        }
    });
    Received {
        partition,
        partition_key: text(key.as_ref()),
        message_id: if let Some(MessageId::String(id)) = properties.message_id {
            id
        } else {
            String::new()
        },
        content_type: properties
            .content_type
            .map(|symbol| symbol.as_str().to_owned())
            .unwrap_or_default(),
        object_id: object.unwrap_or_default(),
        body: if let Body::Data(sections) = message.body {
            sections.iter().flat_map(|section| section.0.to_vec()).collect()
        } else {
            Vec::new()
        },
    }
}
