//! How brokers are reached: what the URL says, in librdkafka's words, and what its errors mean.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use secrecy::ExposeSecret;

use crate::destination::{Failure, Settings};

/// How long one request may take.
pub const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
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
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const PORT: u16 = 9092;

/// What a Kafka URL says.
#[derive(Clone)]
pub struct Cluster {
    /// The name of the topic.
    pub topic: String,
    /// `host:port`, separated by commas.
    brokers: String,
    config: ClientConfig,
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
        secure(settings, &mut config)?;
        let compression = settings.one_of("compression", &COMPRESSIONS.map(|name| (name, name)))?;
        config.set("compression.type", compression.unwrap_or(COMPRESSION));
        Ok(Cluster { topic, brokers, config })
    }

    /// The configuration of a client that asks or reads.
    pub fn config(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config.remove("compression.type");
        config
    }

    /// The configuration of a producer: each message once and in order, as long as the producer
    /// lives, and no message given up by itself.
    pub fn producer_config(&self, message_bytes_max: usize) -> ClientConfig {
        let mut config = self.config.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "0")
            .set("queue.buffering.max.messages", QUEUED_MESSAGES_MAX.to_string())
            .set("queue.buffering.max.kbytes", QUEUED_KIB_MAX.to_string())
            .set("message.max.bytes", message_bytes_max.to_string())
            .set("batch.size", message_bytes_max.to_string());
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
                "Kafka at {brokers} refuses the login: {why}. Check user, password and ?sasl="
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
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Failure::misconfigured(format!(
                "topic {topic:?} takes smaller requests than EDS was told: set ?max-message-bytes= \
                 to the topic's max.message.bytes, or allow DESCRIBE_CONFIGS on it"
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

/// TLS and login. A password does not travel in the open, except within this machine, unless the
/// user says so.
fn secure(settings: &Settings, config: &mut ClientConfig) -> Result<(), Failure> {
    let has_login = !settings.user.is_empty();
    let tls = settings.one_of("tls", &[("true", true), ("false", false)])?;
    let has_ca = settings.parameter("ca").is_some();
    let tls = tls.unwrap_or(has_ca || (has_login && !settings.is_local()));
    if let Some(ca) = settings.parameter("ca") {
        if !tls {
            return Err(Failure::misconfigured(
                "ca= is for TLS, and tls=false turns TLS off: choose one",
            ));
        }
        let unreadable = |e| {
            Failure::misconfigured(format!("the file {ca:?} that ca= names cannot be read: {e}"))
        };
        config.set("ssl.ca.pem", std::fs::read_to_string(ca).map_err(unreadable)?);
    } else if cfg!(unix) {
        // The places where systems keep the certificates that they trust; Windows is asked for its
        // own.
        config.set("ssl.ca.location", "probe");
    }
    let protocol = match (has_login, tls) {
        (true, true) => "SASL_SSL",
        (true, false) => "SASL_PLAINTEXT",
        (false, true) => "SSL",
        (false, false) => "PLAINTEXT",
    };
    config.set("security.protocol", protocol);
    let mechanism = settings.one_of("sasl", &MECHANISMS.map(|name| (name, name)))?;
    if has_login {
        let password = settings.password.as_ref().map_or("", |password| password.expose_secret());
        config
            .set("sasl.mechanism", mechanism.unwrap_or(MECHANISMS[0]))
            .set("sasl.username", &settings.user)
            .set("sasl.password", password);
    } else if mechanism.is_some() {
        return Err(Failure::misconfigured(
            "sasl= needs a login in the URL: kafka://user:password@host:9092/topic",
        ));
    }
    Ok(())
}

/// What a client complained of last, shared with its callbacks: the errors of requests tell less.
#[derive(Clone, Default)]
pub struct ClientErrors(Arc<Mutex<Complaints>>);

#[derive(Default)]
struct Complaints {
    last: Option<(RDKafkaErrorCode, String)>,
    /// No broker could be connected to.
    all_down: bool,
}

impl ClientErrors {
    fn complaints(&self) -> MutexGuard<'_, Complaints> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

impl ClientContext for ClientErrors {
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
        for wrong in [
            "kafka://a/",
            "kafka://a/t/u",
            "kafka://a/t%20",
            "kafka://a/t?sasl=PLAIN",
            "kafka://me:p@a/t?sasl=GSSAPI",
            "kafka://a/t?compression=best",
            "kafka://a/t?tls=false&ca=x",
        ] {
            assert!(cluster(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
