//! Apache Kafka: a broker of its own in KRaft mode, with a plain listener and one with TLS and
//! logins; read back by a plain consumer.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::Offset;
use rdkafka::util::Timeout;
use tempfile::TempDir;

use super::certs::{certificates, write};
use super::{Server, free_port, fresh, installed, plain, until_ok};

pub const PASSWORD: &str = "p@ss/w:rd";

pub struct Kafka {
    server: Option<Server>,
    pub port: u16,
    /// With TLS and a login: `eds` may do everything, `nobody` nothing.
    pub secure_port: u16,
    /// With TLS, for clients that show a certificate; the server's own is one.
    pub certified_port: u16,
    dir: TempDir,
}

/// A message as a consumer sees it.
#[derive(Clone, Debug)]
pub struct KafkaRecord {
    pub partition: i32,
    pub key: String,
    pub value: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Kafka {
    pub fn start() -> Kafka {
        Kafka::start_with("auto.create.topics.enable=true")
    }

    /// With further lines in its configuration.
    pub fn start_with(settings: &str) -> Kafka {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let [authority, certificate, key] = certificates().unwrap_or_else(|e| panic!("{e}"));
        write(dir.path(), "ca.pem", &authority);
        write(dir.path(), "server.pem", &format!("{key}{certificate}"));
        write(dir.path(), "cert.pem", &certificate);
        write(dir.path(), "key.pem", &key);
        let [port, secure_port, certified_port, controller] = [(); 4].map(|()| free_port());
        let data = dir.path().display();
        let properties = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure_port},SSL://127.0.0.1:{certified_port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secure_port},SSL://127.0.0.1:{certified_port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_eds=\"{PASSWORD}\" user_nobody=\"{PASSWORD}\";\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;\n\
             listener.name.ssl.ssl.client.auth=required\nlistener.name.ssl.ssl.truststore.type=PEM\nlistener.name.ssl.ssl.truststore.location={data}/ca.pem\n\
             ssl.keystore.type=PEM\nssl.keystore.location={data}/server.pem\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\nsuper.users=User:ANONYMOUS;User:eds;User:CN=rcgen self signed cert\n\
             log.dirs={data}/data\nnum.partitions=3\noffsets.topic.replication.factor=1\ntransaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n{settings}\nlog.flush.interval.messages=1000\n"
        );
        write(dir.path(), "server.properties", &properties);
        let scram = |mechanism: &str| {
            ["--add-scram".to_owned(), format!("{mechanism}=[name=eds,password=\"{PASSWORD}\"]")]
        };
        let config = [
            "-c".to_owned(),
            dir.path().join("server.properties").display().to_string(),
            "-t".to_owned(),
            "AAAAAAAAQACAAAAAAAAAAQ".to_owned(),
        ];
        let args =
            [&["format".to_owned()][..], &config, &scram("SCRAM-SHA-256"), &scram("SCRAM-SHA-512")]
                .concat();
        let formatted = plain()
            .args(["java", "-cp", &jars(), "kafka.tools.StorageTool"])
            .args(args)
            .output()
            .unwrap_or_else(|e| panic!("java: {e}"));
        assert!(
            formatted.status.success(),
            "{}{}",
            String::from_utf8_lossy(&formatted.stdout),
            String::from_utf8_lossy(&formatted.stderr)
        );
        let mut kafka = Kafka { server: None, port, secure_port, certified_port, dir };
        kafka.run();
        kafka
    }

    pub fn run(&mut self) {
        let args = [
            "-Xmx512m",
            "-cp",
            &jars(),
            "kafka.Kafka",
            &self.path().join("server.properties").display().to_string(),
        ]
        .map(str::to_owned);
        self.server = Some(Server::start(plain(), "java", &args, &self.path().join("log"), "KILL"));
        let reader = reader(&self.brokers());
        until_ok(Duration::from_secs(120), || {
            match reader.fetch_metadata(None, Duration::from_secs(2)) {
                Ok(metadata) if !metadata.brokers().is_empty() => Ok(()),
                _ => Err(std::fs::read_to_string(self.path().join("log")).unwrap_or_default()),
            }
        });
    }

    /// Its process, while there is one.
    pub fn process(&mut self) -> Option<&mut Server> {
        self.server.as_mut()
    }

    /// At once, as in a power cut.
    pub fn kill(&mut self) {
        self.server = None;
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The name of a fresh topic.
    pub fn topic(&self) -> String {
        fresh("changes-")
    }

    pub fn url(&self, topic: &str) -> String {
        format!("kafka://127.0.0.1:{}/{topic}", self.port)
    }
}

fn jars() -> String {
    installed("../kafka/lib").join("*").display().to_string()
}

fn reader(brokers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .set("log_level", "0");
    config.create().unwrap_or_else(|e| panic!("{e}"))
}

/// Makes a topic of one partition that takes no larger messages.
pub async fn make_topic(brokers: &str, topic: &str, message_bytes_max: usize) {
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", brokers).create().unwrap_or_else(|e| panic!("{e}"));
    let limit = message_bytes_max.to_string();
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", &limit);
    let made = admin.create_topics([&new], &AdminOptions::new()).await;
    let is_made = made.as_ref().is_ok_and(|made| made.iter().all(Result::is_ok));
    assert!(is_made, "{made:?}");
}

/// Deletes a topic.
pub async fn delete_topic(brokers: &str, topic: &str) {
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", brokers).create().unwrap_or_else(|e| panic!("{e}"));
    let deleted = admin.delete_topics(&[topic], &AdminOptions::new()).await;
    let is_gone = deleted.as_ref().is_ok_and(|deleted| deleted.iter().all(Result::is_ok));
    assert!(is_gone, "{deleted:?}");
}

/// Sends so many messages of somebody else's.
pub async fn send_foreign(brokers: &str, topic: &str, count: usize) {
    let mut config = ClientConfig::new();
    let producer: FutureProducer =
        config.set("bootstrap.servers", brokers).create().unwrap_or_else(|e| panic!("{e}"));
    let sent = (0..count).map(|_| {
        producer.send(FutureRecord::to(topic).key("theirs").payload("{}"), Timeout::Never)
    });
    for sent in futures::future::join_all(sent).await {
        sent.unwrap_or_else(|(e, _)| panic!("{e}"));
    }
}

/// Everything in the topic, partition by partition in its order.
pub fn messages(brokers: &str, topic: &str) -> Vec<KafkaRecord> {
    let reader = reader(brokers);
    let limit = Duration::from_secs(30);
    let metadata = reader.fetch_metadata(Some(topic), limit).unwrap_or_else(|e| panic!("{e}"));
    let mut ends = BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions())
        .map(|partition| partition.id())
    {
        let (low, high) =
            reader.fetch_watermarks(topic, partition, limit).unwrap_or_else(|e| panic!("{e}"));
        if low < high {
            ends.insert(partition, high);
            assignment
                .add_partition_offset(topic, partition, Offset::Offset(low))
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
    reader.assign(&assignment).unwrap_or_else(|e| panic!("{e}"));
    let mut found = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !ends.is_empty() {
        assert!(Instant::now() < deadline, "the topic is not read to its end");
        let Some(Ok(message)) = reader.poll(Duration::from_secs(1)) else { continue };
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message
            .headers()
            .map(|headers| {
                headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
            })
            .unwrap_or_default();
        found.push(KafkaRecord {
            partition: message.partition(),
            key: text(message.key()),
            value: message.payload().unwrap_or_default().to_vec(),
            headers,
        });
        if ends.get(&message.partition()).is_some_and(|high| message.offset() + 1 >= *high) {
            ends.remove(&message.partition());
        }
    }
    found.sort_by_key(|read| read.partition);
    found
}

/// The broker that tests share.
pub fn shared() -> &'static Kafka {
    static SHARED: OnceLock<Option<Kafka>> = OnceLock::new();
    super::shared(&SHARED, "Kafka", Kafka::start)
}
