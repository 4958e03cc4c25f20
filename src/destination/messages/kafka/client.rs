//! How brokers are reached: what the URL says, in librdkafka's words, and what its errors mean.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use secrecy::ExposeSecret;

use super::token;
use crate::destination::{Failure, Settings};

/// How long one request may take.
pub const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a topic that a broker makes when it is asked for may take to be there.
pub const TOPIC_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long a broker is asked for the topic, before the client's errors tell whether to ask again.
pub const METADATA_WAIT_MAX: Duration = Duration::from_secs(1);
/// The longest wait before a broker is connected to again.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(5);
/// The most messages that wait to be sent or answered; more than a batch has.
const QUEUED_MESSAGES_MAX: usize = 20_000;
/// What these messages may occupy.
const QUEUED_KIB_MAX: usize = 64 << 10;
const COMPRESSIONS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Widely read, and fast.
const COMPRESSION: &str = "lz4";
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", BEARER];
/// A login by a token instead of a password.
const BEARER: &str = "OAUTHBEARER";
const PORT: u16 = 9092;

/// What a producer packs together.
#[derive(Clone, Copy)]
pub struct ProducerLimits {
    /// The largest request, and so the largest message.
    pub message_bytes: usize,
    /// Each message travels in a request of its own.
    pub alone: bool,
}

/// What a Kafka URL says.
#[derive(Clone)]
pub struct Cluster {
    /// The name of the topic.
    pub topic: String,
    /// `host:port`, separated by commas.
    brokers: String,
    config: ClientConfig,
    /// The file with the token by which it logs in.
    token_file: Option<Arc<Path>>,
}

impl Cluster {
    /// Reads the URL's brokers, topic, login and options; connects to nothing.
    pub fn read(settings: &Settings) -> Result<Cluster, Failure> {
        let topic = settings.path.trim_matches('/').to_owned();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if topic.is_empty()
            || topic.len() > 249
            || !topic.chars().all(is_name)
            || matches!(topic.as_str(), "." | "..")
        {
            let text = format!(
                "the Kafka URL {settings} names no topic: kafka://host:9092/topic; a topic has up \
                 to 249 letters, digits, dots, underscores and hyphens"
            );
            return Err(Failure::misconfigured(text));
        }
        let first = if settings.host.contains(':') {
            format!("[{}]", settings.host)
        } else {
            settings.host.clone()
        };
        let mut brokers = vec![format!("{first}:{}", settings.port.unwrap_or(PORT))];
        let has_port =
            |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        brokers.extend(
            settings
                .other_hosts
                .iter()
                .map(|host| if has_port(host) { host.clone() } else { format!("{host}:{PORT}") }),
        );
        let brokers = brokers.join(",");
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &brokers)
            .set("client.id", "eds")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.max.ms", RECONNECT_WAIT_MAX.as_millis().to_string())
            .set("allow.auto.create.topics", "true")
            .set_log_level(RDKafkaLogLevel::Warning);
        let token_file = secure(settings, &mut config)?;
        let compression = settings.one_of("compression", &COMPRESSIONS.map(|name| (name, name)))?;
        config.set("compression.type", compression.unwrap_or(COMPRESSION));
        Ok(Cluster { topic, brokers, config, token_file })
    }

    /// Whether the topic's limits can be asked for: the library's client for such questions has no
    /// way to get a token.
    pub fn tells_limits(&self) -> bool {
        self.token_file.is_none()
    }

    /// The configuration of a client that asks or reads.
    pub fn config(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config.remove("compression.type");
        config
    }

    /// The configuration of a producer: each message once and in order, as long as the producer
    /// lives, and no message given up by itself. Where one is refused, the client ends with it, so
    /// that no later one of its partition overtakes it.
    pub fn producer_config(&self, limits: ProducerLimits) -> ClientConfig {
        let mut config = self.config.clone();
        let bytes_max = limits.message_bytes.to_string();
        if limits.alone {
            config.set("batch.num.messages", "1");
        }
        config
            .set("enable.idempotence", "true")
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "0")
            .set("queue.buffering.max.messages", QUEUED_MESSAGES_MAX.to_string())
            .set("queue.buffering.max.kbytes", QUEUED_KIB_MAX.to_string())
            .set("message.max.bytes", &bytes_max)
            .set("batch.size", bytes_max);
        config
    }

    /// The failure that an error means. `errors`: what the client itself complained of, which tells
    /// more than a request's error.
    pub fn failure(&self, error: &KafkaError, errors: &ClientErrors) -> Failure {
        let code = error.rdkafka_error_code();
        let last = errors.last();
        let Cluster { topic, brokers, .. } = self;
        let login = |code: RDKafkaErrorCode| {
            matches!(
                code,
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed
            )
        };
        if code.is_some_and(login) || last.as_ref().is_some_and(|(code, _)| login(*code)) {
            let why = last.map(|(_, text)| text).unwrap_or_default();
            return Failure::misconfigured(format!(
                "Kafka at {brokers} refuses the login for topic {topic:?}: {why}. Check user, \
                 password and ?sasl=, or the token"
            ));
        }
        match code {
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed,
            ) => {
                let text = format!(
                    "Kafka at {brokers} does not allow to write to topic {topic:?}: the user needs \
                     WRITE and DESCRIBE on it, and READ to see what a crash left"
                );
                Failure::misconfigured(text)
            }
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::InvalidTopic,
            ) => Failure::misconfigured(format!(
                "Kafka at {brokers} has no topic {topic:?} and does not make it by itself: make \
                 it, or correct the URL"
            )),
            Some(RDKafkaErrorCode::InvalidRecord | RDKafkaErrorCode::PolicyViolation) => {
                Failure::misconfigured(format!(
                    "topic {topic:?} does not take messages as EDS writes them: {error}"
                ))
            }
            _ => {
                let why = last.map_or_else(|| error.to_string(), |(_, text)| text);
                Failure::unavailable(format!("Kafka at {brokers}, topic {topic:?}: {why}"))
            }
        }
    }
}

/// TLS and login; returns the file of the token, where the login has one. A password does not
/// travel in the open, except within this machine, unless the user says so.
fn secure(settings: &Settings, config: &mut ClientConfig) -> Result<Option<Arc<Path>>, Failure> {
    let mechanism = settings.one_of("sasl", &MECHANISMS.map(|name| (name, name)))?;
    let has_token = mechanism == Some(BEARER);
    let has_user = !settings.user.is_empty();
    let has_login = has_user || has_token;
    let tls = settings.one_of("tls", &[("true", true), ("false", false)])?;
    let files = ["ca", "cert", "key"].into_iter().find(|name| settings.parameter(name).is_some());
    let tls = tls.unwrap_or(files.is_some() || (has_login && !settings.is_local()));
    if let Some(name) = files.filter(|_| !tls) {
        return Err(Failure::misconfigured(format!(
            "{name}= is for TLS, and tls=false turns TLS off: choose one"
        )));
    }
    certificates(settings, config)?;
    let protocol = match (has_login, tls) {
        (true, true) => "SASL_SSL",
        (true, false) => "SASL_PLAINTEXT",
        (false, true) => "SSL",
        (false, false) => "PLAINTEXT",
    };
    config.set("security.protocol", protocol);
    if has_login {
        config.set("sasl.mechanism", mechanism.unwrap_or(MECHANISMS[0]));
    } else if mechanism.is_some() {
        return Err(Failure::misconfigured(
            "sasl= needs a login in the URL: kafka://user:password@host:9092/topic",
        ));
    }
    if has_user {
        let password = settings.password.as_ref().map_or("", |password| password.expose_secret());
        config.set("sasl.username", &settings.user).set("sasl.password", password);
    }
    match (settings.parameter("token-file"), has_token) {
        (Some(_), true) if has_user => Err(Failure::misconfigured(
            "sasl=OAUTHBEARER logs in by the token of token-file=, and the URL has a user beside \
             it: choose one",
        )),
        (Some(file), true) => Ok(Some(Path::new(file).into())),
        (None, false) => Ok(None),
        _ => Err(Failure::misconfigured(
            "sasl=OAUTHBEARER and token-file= (the file with the token) belong together",
        )),
    }
}

/// The certificates that are trusted, and the one that is shown.
fn certificates(settings: &Settings, config: &mut ClientConfig) -> Result<(), Failure> {
    let content = |name: &str| {
        let read = |path: &str| {
            std::fs::read_to_string(path).map_err(|e| {
                Failure::misconfigured(format!(
                    "the file {path:?} that {name}= names cannot be read: {e}"
                ))
            })
        };
        settings.parameter(name).map(read).transpose()
    };
    if let Some(ca) = content("ca")? {
        config.set("ssl.ca.pem", ca);
    } else if cfg!(unix) {
        // The places where systems keep the certificates that they trust; Windows is asked for its
        // own.
        config.set("ssl.ca.location", "probe");
    }
    match (content("cert")?, content("key")?) {
        (Some(certificate), Some(key)) => {
            config.set("ssl.certificate.pem", certificate).set("ssl.key.pem", key);
        }
        (None, None) => {}
        _ => {
            return Err(Failure::misconfigured(
                "cert= and key= belong together: the client's certificate and its key",
            ));
        }
    }
    if let Some(password) = settings.parameter("key-password") {
        config.set("ssl.key.password", password);
    }
    Ok(())
}

/// What a client complained of last, shared with its callbacks: the errors of requests tell less.
/// Beside it, what the callbacks need.
#[derive(Clone)]
pub struct ClientErrors {
    complaints: Arc<Mutex<Complaints>>,
    token_file: Option<Arc<Path>>,
}

#[derive(Default)]
struct Complaints {
    last: Option<(RDKafkaErrorCode, String)>,
    /// No broker could be connected to.
    all_down: bool,
}

impl ClientErrors {
    /// No complaints yet.
    pub fn of(cluster: &Cluster) -> ClientErrors {
        ClientErrors { complaints: Arc::default(), token_file: cluster.token_file.clone() }
    }

    fn complaints(&self) -> MutexGuard<'_, Complaints> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.complaints().last.clone()
    }

    /// Whether waiting longer will not help.
    pub fn are_final(&self) -> bool {
        let complaints = self.complaints();
        complaints.all_down
            || complaints.last.as_ref().is_some_and(|(code, _)| {
                matches!(code, RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)
            })
    }

    /// Forgets all: earlier complaints do not explain later errors.
    pub fn forget(&self) {
        *self.complaints() = Complaints::default();
    }
}

impl ConsumerContext for ClientErrors {}

impl ClientContext for ClientErrors {
    // Asked for only where the login is by token.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(
        &self,
        _config: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let file = self.token_file.as_deref().ok_or("no token-file= is named")?;
        Ok(token::read(file)?)
    }

    fn log(&self, _level: RDKafkaLogLevel, fac: &str, message: &str) {
        tracing::debug!("Kafka: {fac} {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        let mut complaints = self.complaints();
        // That no broker is left says less than why the last one is not.
        match code {
            RDKafkaErrorCode::AllBrokersDown => complaints.all_down = true,
            _ => complaints.last = Some((code, reason.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn cluster(url: &str) -> Result<ClientConfig, String> {
        let (settings, _) = Settings::parse(url, DRIVERS).map_err(|e| e.to_string())?;
        Cluster::read(&settings).map(|cluster| cluster.config).map_err(|e| e.text)
    }

    #[test]
    fn a_url_says_whom_to_ask_and_how() -> Result<(), String> {
        let of = |url: &str, key: &str| {
            cluster(url).map(|config| config.get(key).unwrap_or_default().to_owned())
        };
        assert_eq!(of("kafka://a/t", "bootstrap.servers")?, "a:9092");
        assert_eq!(
            of("kafka://a:1,b,[::1]:3/t?compression=zstd", "bootstrap.servers")?,
            "a:1,b:9092,[::1]:3"
        );
        assert_eq!(of("kafka://[::1]/t", "bootstrap.servers")?, "[::1]:9092");
        assert_eq!(of("kafka://a/t", "security.protocol")?, "PLAINTEXT");
        assert_eq!(of("kafka://a/t?ca=Cargo.toml", "security.protocol")?, "SSL");
        assert_eq!(
            of("kafka://me:p%40ss@a:1,b:2/t?sasl=SCRAM-SHA-512", "security.protocol")?,
            "SASL_SSL"
        );
        assert_eq!(of("kafka://me:p%40ss@a:1,b:2/t", "sasl.password")?, "p@ss");
        assert_eq!(of("kafka://me:p@localhost/t", "security.protocol")?, "SASL_PLAINTEXT");
        assert_eq!(of("kafka://a/t?cert=Cargo.toml&key=Cargo.toml", "security.protocol")?, "SSL");
        let by_token = "kafka://a/t?sasl=oauthbearer&token-file=f";
        assert_eq!(of(by_token, "security.protocol")?, "SASL_SSL");
        assert_eq!(of(by_token, "sasl.mechanism")?, "OAUTHBEARER");
        for wrong in [
            "kafka://a/",
            "kafka://a/t/u",
            "kafka://a/t%20",
            "kafka://a/t?sasl=PLAIN",
            "kafka://me:p@a/t?sasl=GSSAPI",
            "kafka://a/t?compression=best",
            "kafka://a/t?tls=false&ca=x",
            "kafka://a/t?cert=Cargo.toml",
            "kafka://a/t?key=Cargo.toml",
            "kafka://a/t?cert=Cargo.toml&key=/no/such/file",
            "kafka://a/t?sasl=OAUTHBEARER",
            "kafka://a/t?token-file=f",
            "kafka://me:p@a/t?sasl=OAUTHBEARER&token-file=f",
        ] {
            assert!(cluster(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
