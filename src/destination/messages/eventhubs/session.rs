//! A session with the service: connection, token, the hub's partitions, a link to each.

use std::sync::Arc;
use std::time::Duration;

use fe2o3_amqp::connection::ConnectionHandle;
use fe2o3_amqp::session::SessionHandle;
use fe2o3_amqp::{Connection, Receiver, Sender, Session as AmqpSession};
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message, Properties};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use futures::FutureExt;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::namespace::HubNamespace;
use crate::cause::chain;
use crate::destination::Failure;

/// How long opening a session may take.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(14);
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// An unused session is replaced by a new one, because the service closes idle connections.
const IDLE_TIME_MAX: Duration = Duration::from_secs(240);
/// The most of one message that the protocol carries at once; the service's own limit.
const FRAME_BYTES_MAX: u32 = 64 << 10;
/// The largest message of a hub whose links name no limit.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// A connection that brings nothing for so long counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An open session, with a sender for each partition.
pub struct HubSession {
    /// Tells when the connection ends.
    pub connection: ConnectionHandle<()>,
    session: SessionHandle<()>,
    /// The link to each partition, by its index.
    pub senders: Vec<Sender>,
    /// The largest message that the hub takes, in bytes.
    pub message_bytes_max: u64,
    /// When it is replaced by a new one, because its token ends soon.
    replaced_at: Instant,
    used: Instant,
}

impl HubSession {
    /// Connects, shows the token, and attaches a sender to each partition.
    pub async fn open(namespace: &HubNamespace) -> Result<HubSession, Failure> {
        let place = format!("{}:{}", namespace.host, namespace.port);
        let opened = timeout(OPEN_WAIT_MAX, Self::begin(namespace, &place)).await;
        opened.unwrap_or_else(|_| {
            Err(Failure::unavailable(format!(
                "Event Hubs at {place} gave no answer within {OPEN_WAIT_MAX:?}"
            )))
        })
    }

    async fn begin(namespace: &HubNamespace, place: &str) -> Result<HubSession, Failure> {
        let unreachable = |why: String| {
            Failure::unavailable(format!("Event Hubs at {place} cannot be reached: {why}"))
        };
        let tcp = timeout(
            CONNECT_WAIT_MAX,
            TcpStream::connect((namespace.host.as_str(), namespace.port)),
        )
        .await;
        let tcp = tcp
            .map_err(|_| unreachable("no answer".into()))?
            .map_err(|e| unreachable(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let mut connection = if namespace.tls {
            let name = ServerName::try_from(namespace.host.clone()).map_err(|e| {
                Failure::misconfigured(format!("{:?} is no host's name: {e}", namespace.host))
            })?;
            let tls = tokio_rustls::TlsConnector::from(tls()?).connect(name, tcp).await;
            connect(namespace, tls.map_err(|e| unreachable(format!("TLS: {e}")))?).await
        } else {
            connect(namespace, tcp).await
        }
        .map_err(|e| failure(namespace, "the connection", &chain(&e)))?;
        let mut session = AmqpSession::begin(&mut connection)
            .await
            .map_err(|e| failure(namespace, "the session", &chain(&e)))?;
        let valid_for = put_token(namespace, &mut session).await?;
        let partitions = partitions(namespace, &mut session).await?;
        let mut senders = Vec::with_capacity(partitions.len());
        for id in &partitions {
            let attached = Sender::attach(
                &mut session,
                format!("eds-{}", Uuid::new_v4()),
                format!("{}/Partitions/{id}", namespace.hub),
            )
            .await;
            senders.push(attached.map_err(|e| {
                failure(namespace, &format!("the link to partition {id}"), &format!("{e} {e:?}"))
            })?);
        }
        let message_bytes_max = senders
            .iter()
            .filter_map(Sender::max_message_size)
            .filter(|n| *n > 0)
            .min()
            .unwrap_or(MESSAGE_BYTES_MAX);
        let now = Instant::now();
        let replaced_at = now + valid_for * 3 / 4;
        Ok(HubSession { connection, session, senders, message_bytes_max, replaced_at, used: now })
    }

    /// Whether it may be used: it is not old, and neither the connection nor a link has ended
    /// since, as the service lets them where nothing is sent for long.
    pub fn is_usable(&mut self) -> bool {
        let is_old = Instant::now() > self.replaced_at || self.used.elapsed() > IDLE_TIME_MAX;
        !is_old
            && !self.connection.is_closed()
            && !self.session.is_ended()
            && self.senders.iter_mut().all(|sender| sender.on_detach().now_or_never().is_none())
    }

    /// Notes that it was used just now.
    pub fn used(&mut self) {
        self.used = Instant::now();
    }

    /// Ends it; if the service does not answer within two seconds, without its consent.
    pub async fn close(mut self) {
        let ending = async {
            let _ = self.session.end().await;
            let _ = self.connection.close().await;
        };
        let _ = timeout(Duration::from_secs(2), ending).await;
    }
}

async fn connect<S>(
    namespace: &HubNamespace,
    stream: S,
) -> Result<ConnectionHandle<()>, fe2o3_amqp::connection::OpenError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug + 'static,
{
    Connection::builder()
        .container_id(format!("eds-{}", Uuid::new_v4()))
        .hostname(namespace.host.as_str())
        .scheme("amqp")
        .max_frame_size(FRAME_BYTES_MAX)
        .idle_time_out(SILENCE_MAX.as_millis() as u32)
        .sasl_profile(fe2o3_amqp::sasl_profile::SaslProfile::Anonymous)
        .open_with_stream(stream)
        .await
}

fn tls() -> Result<Arc<rustls::ClientConfig>, Failure> {
    let wrong = |e: rustls::Error| Failure::misconfigured(format!("TLS cannot be used: {e}"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Shows a token, which opens the hub to this session; for how long.
async fn put_token(
    namespace: &HubNamespace,
    session: &mut SessionHandle<()>,
) -> Result<Duration, Failure> {
    let token = namespace.token().await?;
    let properties = ApplicationProperties::builder()
        .insert("operation", "put-token")
        .insert("type", token.kind)
        .insert("name", namespace.audience())
        .build();
    let text = token.text.expose_secret().into();
    let response = request(namespace, session, "$cbs", properties, text).await?;
    response.check(namespace, "the token").map(|_| token.valid_for)
}

/// The names of the hub's partitions.
async fn partitions(
    namespace: &HubNamespace,
    session: &mut SessionHandle<()>,
) -> Result<Vec<String>, Failure> {
    let properties = ApplicationProperties::builder()
        .insert("operation", "READ")
        .insert("type", "com.microsoft:eventhub")
        .insert("name", namespace.hub.as_str())
        .build();
    let body = request(namespace, session, "$management", properties, String::new())
        .await?
        .check(namespace, "the question for the hub's partitions")?;
    let Value::Map(map) = body else {
        return Err(Failure::unavailable("Event Hubs answered in a form that EDS does not know"));
    };
    let text =
        |value: &Value| if let Value::String(text) = value { Some(text.clone()) } else { None };
    let ids: Option<Vec<String>> = match map.get(&Value::String("partition_ids".into())) {
        Some(Value::Array(ids)) => ids.0.iter().map(text).collect(),
        Some(Value::List(ids)) => ids.iter().map(text).collect(),
        _ => None,
    };
    ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
        Failure::unavailable(format!("Event Hubs names no partitions of hub {:?}", namespace.hub))
    })
}

struct HubResponse {
    status: i64,
    description: String,
    body: Value,
}

impl HubResponse {
    fn check(self, namespace: &HubNamespace, what: &str) -> Result<Value, Failure> {
        match self.status {
            200..=299 => Ok(self.body),
            401 => Err(failure(
                namespace,
                what,
                &format!("unauthorized-access (401) {}", self.description),
            )),
            404 => Err(failure(namespace, what, &format!("not-found (404) {}", self.description))),
            status => Err(failure(namespace, what, &format!("{status} {}", self.description))),
        }
    }
}

/// One request and its response, over links of their own.
async fn request(
    namespace: &HubNamespace,
    session: &mut SessionHandle<()>,
    node: &str,
    properties: ApplicationProperties,
    body: String,
) -> Result<HubResponse, Failure> {
    let failed = |e: &dyn std::fmt::Debug| failure(namespace, node, &format!("{e:?}"));
    let id = Uuid::new_v4().to_string();
    let reply_to = format!("eds-{id}");
    let mut sender =
        Sender::attach(session, format!("eds-ask-{id}"), node).await.map_err(|e| failed(&e))?;
    let receiver = Receiver::builder()
        .name(format!("eds-answer-{id}"))
        .source(node)
        .target(reply_to.as_str())
        .attach(session)
        .await;
    let mut receiver = receiver.map_err(|e| failed(&e))?;
    let header = Properties::builder().message_id(id).reply_to(reply_to).build();
    let message = Message::builder()
        .properties(header)
        .application_properties(properties)
        .value(body)
        .build();
    let outcome = sender.send(message).await.map_err(|e| failed(&e))?;
    outcome.accepted_or_else(|outcome| failed(&outcome))?;
    let delivery = receiver.recv::<Body<Value>>().await.map_err(|e| failed(&e))?;
    receiver.accept(&delivery).await.map_err(|e| failed(&e))?;
    let message = delivery.into_message();
    let found = message.application_properties.unwrap_or_default();
    let status = match found.get("status-code") {
        Some(SimpleValue::Int(status)) => i64::from(*status),
        Some(SimpleValue::Long(status)) => *status,
        _ => 0,
    };
    let description = if let Some(SimpleValue::String(text)) = found.get("status-description") {
        text.clone()
    } else {
        String::new()
    };
    let _ = sender.close().await;
    let _ = receiver.close().await;
    Ok(HubResponse {
        status,
        description,
        body: if let Body::Value(AmqpValue(value)) = message.body { value } else { Value::Null },
    })
}

/// The failure that the service's words mean; they hold nothing of what events contain. `what`:
/// what was being done. It is an outage or the user's to cure, and never says of an event that it
/// is bad: only the outcome of a message does.
pub fn failure(namespace: &HubNamespace, what: &str, text: &str) -> Failure {
    let HubNamespace { host, hub, .. } = namespace;
    // Conditions are written in several ways: amqp:not-found, NotFound.
    let plain: String = text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let has = |words: &[&str]| words.iter().any(|word| plain.contains(word));
    match () {
        () if has(&["unauthorized", "invalidsignature", "putauthorizationfailed"]) => {
            Failure::misconfigured(format!(
                "Event Hubs at {host} refuses the key for hub {hub:?}: {text}. SharedAccessKeyName \
                 and SharedAccessKey have to be of a policy with the right Send (an identity needs \
                 the role Azure Event Hubs Data Sender), and this machine's clock right"
            ))
        }
        () if has(&["notfound", "entitydisabled"]) => Failure::misconfigured(format!(
            "Event Hubs at {host} has no hub {hub:?} to send to: {text}. Make it, or \
             correct EntityPath"
        )),
        () => Failure::unavailable(format!("Event Hubs at {host}, hub {hub:?}, {what}: {text}")),
    }
}
