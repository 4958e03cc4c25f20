//! S3 and what speaks its protocol: one object per change, or of many changes, nothing overwritten
//! unseen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig, UpdateVersion,
};

use super::ABILITIES;
use super::name::{Name, older};
use super::parts::{Format, Part, parts};
use crate::cause::chain;
use crate::change::{Batch, Change};
use crate::destination::{Destination, Driver, Failure, FailureKind, Settings, Target, form};
use crate::validator::Validator;

pub const DRIVER: Driver = Driver {
    scheme: "s3",
    aliases: &[],
    title: "AWS S3",
    description: "Writes each change into an object of its own, in S3, Google Cloud Storage, MinIO \
                  and the like.",
    example: "s3://bucket/folder?region=us-west-2&access-key-id=…&secret-access-key=…",
    help: "Objects are named <folder>/<table>/<unix seconds>-<primary key>.json and hold the \
           event. Where two changes of a row fall\n\
           into one second, the older one is kept as <unix seconds>-<primary key>-<its \
           mvccTimestamp>.json.\n\
           Without keys in the URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN \
           count, then the machine's role.\n\
           Another service is named by ?endpoint=https://host:port, or by its host in front: \
           s3://localhost:9000/bucket/folder,\n\
           s3://storage.googleapis.com/bucket/folder (with HMAC keys). The keys need s3:GetObject \
           and s3:PutObject.\n\
           After a crash a change may be written again, under the same name. Two processes must \
           not write to one folder.",
    fields: &form::BUCKET,
    parameters: &[
        ("region", "the bucket's region; else AWS_REGION, AWS_DEFAULT_REGION, us-west-2"),
        ("access-key-id", "the key's name"),
        ("secret-access-key", "the key"),
        ("endpoint", "where the service answers, if it is not Amazon's"),
        ("max-retries", "how often a request is repeated before the batch is (5)"),
        ("uploadTasks", "objects on their way at the same time (16)"),
        (
            "format",
            "json: an object per change (default); ndjson, parquet: objects of many changes",
        ),
        (
            "freshness",
            "how long changes are collected before they are written (ndjson, parquet: 60s)",
        ),
        ("maxBatchSize", "accepted for URLs of the Go program; a batch has up to 1000 changes"),
    ],
    abilities: ABILITIES,
    open: |target| Box::pin(open(target)),
};

/// Objects on their way at the same time, unless the URL says otherwise.
const UPLOADS: usize = 16;
const UPLOADS_MAX: usize = 64;
const RETRIES: usize = 5;
/// How long one request may take, and how long it is repeated.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// An object that shows that one may be written.
const PROBE: &str = ".eds-probe";
/// How often an object that somebody else changes meanwhile is looked at.
const LOOKS_MAX: u32 = 5;
/// S3 takes keys of 1,024 bytes; the rest is for table and key.
const FOLDER_BYTES_MAX: usize = 400;

/// Where objects go, as the URL says.
#[derive(Debug, PartialEq, Eq)]
struct BucketPath {
    bucket: String,
    folder: String,
    endpoint: Option<String>,
}

impl BucketPath {
    fn read(settings: &Settings) -> Result<BucketPath, Failure> {
        let path = settings.path.trim_matches('/');
        let host =
            settings.port.map_or(settings.host.clone(), |port| format!("{}:{port}", settings.host));
        let by_host = match (
            settings.is_local(),
            settings.host.ends_with(".googleapis.com") || settings.host == "googleapis.com",
        ) {
            (true, _) => Some(format!("http://{host}")),
            (_, true) => Some(format!("https://{host}")),
            _ => None,
        };
        let (bucket, folder) = match by_host {
            Some(_) => path.split_once('/').unwrap_or((path, "")),
            None => (settings.host.as_str(), path),
        };
        if bucket.is_empty() {
            return Err(Failure::misconfigured(format!(
                "the S3 URL {settings} names no bucket: it follows the host"
            )));
        }
        let wrong = folder.len() > FOLDER_BYTES_MAX
            || folder.chars().any(char::is_control)
            || folder.split('/').any(|part| matches!(part, "." | ".."));
        if wrong {
            return Err(Failure::misconfigured(format!(
                "the folder in the S3 URL must not climb (..), nor be longer than \
                 {FOLDER_BYTES_MAX} bytes"
            )));
        }
        let named = settings
            .parameter("endpoint")
            .filter(|e| !e.is_empty())
            .map(|e| if e.contains("://") { e.to_owned() } else { format!("https://{e}") });
        Ok(BucketPath {
            bucket: bucket.to_owned(),
            folder: folder.to_owned(),
            endpoint: named.or(by_host),
        })
    }

    /// Whether the service takes a write on condition that nothing is there yet. Google does in
    /// another way than S3.
    fn takes_conditions(&self) -> bool {
        !self.endpoint.as_deref().is_some_and(|e| e.contains("googleapis.com"))
    }
}

fn number(settings: &Settings, key: &str, usual: usize, max: usize) -> Result<usize, Failure> {
    let Some(text) = settings.parameter(key) else { return Ok(usual) };
    let number = text.parse::<usize>().ok().filter(|n| (1..=max).contains(n));
    number.ok_or_else(|| {
        Failure::misconfigured(format!("{key}={text:?} is not a number from 1 to {max}"))
    })
}

fn store(settings: &Settings, place: &BucketPath) -> Result<AmazonS3, Failure> {
    let region = settings
        .parameter("region")
        .map(str::to_owned)
        .or_else(|| std::env::var("AWS_REGION").ok())
        .or_else(|| std::env::var("AWS_DEFAULT_REGION").ok());
    let retry = RetryConfig {
        max_retries: number(settings, "max-retries", RETRIES, 100)?,
        retry_timeout: RETRY_TIME_MAX,
        ..RetryConfig::default()
    };
    let is_open = place.endpoint.as_deref().is_some_and(|e| e.starts_with("http://"));
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&place.bucket)
        .with_region(region.filter(|r| !r.is_empty()).unwrap_or_else(|| "us-west-2".into()))
        .with_client_options(
            ClientOptions::new().with_allow_http(is_open).with_timeout(REQUEST_WAIT_MAX),
        )
        .with_conditional_put(if place.takes_conditions() {
            S3ConditionalPut::ETagMatch
        } else {
            S3ConditionalPut::Disabled
        })
        .with_retry(retry);
    if let Some(endpoint) = &place.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(key) = settings.parameter("access-key-id").filter(|k| !k.is_empty()) {
        builder = builder
            .with_access_key_id(key)
            .with_secret_access_key(settings.parameter("secret-access-key").unwrap_or_default());
    }
    builder
        .build()
        .map_err(|e| Failure::misconfigured(format!("the S3 client cannot be made: {}", chain(&e))))
}

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let settings = &target.settings;
    let place = BucketPath::read(settings)?;
    let format = Format::read(settings)?;
    let objects = Objects {
        consumer: target.consumer.clone(),
        format,
        store: store(settings, &place)?,
        uploads: number(settings, "uploadTasks", UPLOADS, UPLOADS_MAX)?,
        rules: target.rules.clone(),
        place,
    };
    let probe = objects.path(PROBE)?;
    objects.store.put(&probe, Bytes::new().into()).await.map_err(|e| objects.failure(&e))?;
    // Whoever may not delete leaves an empty object there.
    let _ = objects.store.delete(&probe).await;
    Ok(Box::new(objects))
}

/// What an error began with: what is around it names objects, and so keys of rows. A service's
/// answer names them too.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let said = cause.to_string();
    let plain = said.split('<').next().unwrap_or_default().trim_end_matches([':', ' ']);
    if plain.contains("://") {
        "the service does not answer as it should".to_owned()
    } else {
        plain.to_owned()
    }
}

struct Objects {
    consumer: String,
    format: Format,
    store: AmazonS3,
    place: BucketPath,
    uploads: usize,
    /// They may say where a change goes.
    rules: Option<Arc<Validator>>,
}

/// What is there under a name.
struct ExistingObject {
    content: Bytes,
    version: UpdateVersion,
}

impl Objects {
    fn path(&self, name: &str) -> Result<Path, Failure> {
        let whole = if self.place.folder.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.place.folder)
        };
        Path::parse(&whole).map_err(|_| {
            Failure::new(
                FailureKind::Rejected,
                "the name of an object would not be one that S3 takes",
            )
        })
    }

    /// What to do about an error, without anything that is secret.
    fn failure(&self, error: &object_store::Error) -> Failure {
        let said = chain(error);
        let bucket = &self.place.bucket;
        // The rest of what is said names objects, whose names are data.
        let code = said
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split('<').next())
            .unwrap_or_default();
        let says = |codes: &[&str]| codes.contains(&code);
        if says(&["NoSuchBucket"]) {
            return Failure::misconfigured(format!(
                "there is no bucket {bucket:?}: make it, or correct the URL or ?region="
            ));
        }
        if says(&[
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "ExpiredToken",
            "AuthorizationHeaderMalformed",
        ]) {
            return Failure::misconfigured(format!(
                "the keys for bucket {bucket:?} are not taken: access-key-id and \
                 secret-access-key, or the machine's role, and the region have to be the bucket's"
            ));
        }
        if says(&["AccessDenied", "AllAccessDisabled"])
            || matches!(
                error,
                object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
            )
        {
            return Failure::misconfigured(format!(
                "the keys do not allow to read and write objects in bucket {bucket:?}: they need \
                 s3:GetObject and s3:PutObject"
            ));
        }
        if says(&["PermanentRedirect", "IllegalLocationConstraint"])
            || innermost(error).contains("301 Moved")
        {
            return Failure::misconfigured(format!(
                "bucket {bucket:?} is in another region: name it with ?region="
            ));
        }
        Failure::unavailable(format!(
            "objects cannot be written to bucket {bucket:?}: {}",
            innermost(error)
        ))
    }

    async fn create(&self, path: &Path, content: &Bytes) -> Result<bool, Failure> {
        if !self.place.takes_conditions() {
            // One writer at a time is what the documentation asks for.
            return match self.store.head(path).await {
                Ok(_) => Ok(false),
                Err(object_store::Error::NotFound { .. }) => {
                    self.write(path, content, PutMode::Overwrite).await
                }
                Err(e) => Err(self.failure(&e)),
            };
        }
        self.write(path, content, PutMode::Create).await
    }

    /// Whether the condition was met.
    async fn write(&self, path: &Path, content: &Bytes, mode: PutMode) -> Result<bool, Failure> {
        let attributes =
            Attributes::from_iter([(Attribute::ContentType, self.format.content_type())]);
        match self
            .store
            .put_opts(
                path,
                content.clone().into(),
                PutOptions { mode, attributes, ..PutOptions::default() },
            )
            .await
        {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(e) => Err(self.failure(&e)),
        }
    }

    async fn find(&self, path: &Path) -> Result<Option<ExistingObject>, Failure> {
        let got = async {
            let got = self.store.get(path).await?;
            let version =
                UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
            Ok(ExistingObject { content: got.bytes().await?, version })
        };
        match got.await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failure(&e)),
        }
    }

    /// Stores a file of many changes: what an earlier try left under its name is replaced, what
    /// others left is kept.
    async fn place_part(&self, part: Part, is_repeat: bool) -> Result<(), Failure> {
        let (folder, content) = (&part.name.folder, Bytes::from(part.content));
        let wanted = self.path(&format!("{folder}/{}", part.name.file()))?;
        if self.create(&wanted, &content).await?
            || self.find(&wanted).await?.is_some_and(|found| found.content == content)
        {
            return Ok(());
        }
        if is_repeat {
            return self.write(&wanted, &content, PutMode::Overwrite).await.map(drop);
        }
        let other = self.path(&format!("{folder}/{}", part.name.of_content(&content)))?;
        self.create(&other, &content).await.map(drop)
    }

    async fn apply_parts(&self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let (whole, format, consumer) = (batch.clone(), self.format, self.consumer.clone());
        let packed = tokio::task::spawn_blocking(move || parts(&whole, format, &consumer))
            .await
            .map_err(|e| Failure::unavailable(e.to_string()))??;
        let placed: Vec<_> = packed
            .into_iter()
            .map(|part| self.place_part(part, batch.unconfirmed_through.is_some()))
            .collect();
        futures::stream::iter(placed).buffer_unordered(self.uploads).try_collect::<()>().await
    }

    async fn place_in_order(&self, batch: &Batch, lane: Vec<(Name, u32)>) -> Result<(), Failure> {
        for (name, index) in &lane {
            self.place(name, batch.change(*index)).await?;
        }
        Ok(())
    }

    /// Stores a change under its name; of two under one name the older gets a name of its own.
    async fn place(&self, name: &Name, change: &Change) -> Result<(), Failure> {
        let named = |file: String| {
            self.path(&if name.folder.is_empty() {
                file
            } else {
                format!("{}/{file}", name.folder)
            })
        };
        let (wanted, content) = (named(name.file())?, Bytes::from(change.event.stored()));
        for _ in 0..LOOKS_MAX {
            if self.create(&wanted, &content).await? {
                return Ok(());
            }
            let Some(there) = self.find(&wanted).await? else { continue };
            if there.content == content {
                return Ok(());
            }
            let (older_is_there, version) = older(&there.content, &change.event);
            let older = if older_is_there { &there.content } else { &content };
            let kept = named(name.of_older(&version))?;
            if !self.create(&kept, older).await?
                && self.find(&kept).await?.is_some_and(|found| found.content != *older)
            {
                self.create(&named(name.of_another_older(&version, older))?, older).await?;
            }
            let mode = if self.place.takes_conditions() {
                PutMode::Update(there.version)
            } else {
                PutMode::Overwrite
            };
            if !older_is_there || self.write(&wanted, &content, mode).await? {
                return Ok(());
            }
        }
        Err(Failure::unavailable(format!(
            "an object in bucket {:?} is changed by somebody else all the time; two processes must \
             not write to one folder",
            self.place.bucket
        )))
    }
}

#[async_trait]
impl Destination for Objects {
    /// Changes of one name go one after the other, all others at the same time.
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        if self.format != Format::Json {
            return self.apply_parts(batch).await;
        }
        let mut lanes: Vec<Vec<(Name, u32)>> = Vec::new();
        let mut lane_of: HashMap<(String, String), usize> = HashMap::new();
        for (index, change) in batch.ordered() {
            let name = Name::of(change, self.rules.as_deref());
            let lane = *lane_of.entry((name.folder.clone(), name.file())).or_insert(lanes.len());
            if lane == lanes.len() {
                lanes.push(Vec::new());
            }
            lanes[lane].push((name, index));
        }
        let placed: Vec<_> =
            lanes.into_iter().map(|lane| self.place_in_order(batch, lane)).collect();
        futures::stream::iter(placed).buffer_unordered(self.uploads).try_collect::<()>().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn place(url: &str) -> Result<(String, String, Option<String>), String> {
        let (settings, _) = Settings::parse(url, DRIVERS).map_err(|e| e.to_string())?;
        BucketPath::read(&settings).map(|p| (p.bucket, p.folder, p.endpoint)).map_err(|e| e.text)
    }

    #[test]
    fn an_outage_names_no_row() {
        let of = |text: &str| {
            innermost(&object_store::Error::NotFound {
                path: "shop/k-of-row".into(),
                source: std::io::Error::other(text).into(),
            })
        };
        assert_eq!(
            of("Server returned non-2xx status code: 503 Service Unavailable: \
                 <?xml?><Key>k-of-row</Key>"),
            "Server returned non-2xx status code: 503 Service Unavailable"
        );
        assert_eq!(
            of("tcp connect error: Connection refused"),
            "tcp connect error: Connection refused"
        );
        assert_eq!(
            of("error sending request for url (http://h/shop/k-of-row)"),
            "the service does not answer as it should"
        );
    }

    #[test]
    fn a_bucket_is_found_in_its_url() {
        let of = |bucket: &str, folder: &str, endpoint: Option<&str>| {
            Ok((bucket.to_owned(), folder.to_owned(), endpoint.map(str::to_owned)))
        };
        assert_eq!(place("s3://bucket/folder/sub/"), of("bucket", "folder/sub", None));
        assert_eq!(place("s3://bucket"), of("bucket", "", None));
        assert_eq!(
            place("s3://localhost:4566/bucket/prefix"),
            of("bucket", "prefix", Some("http://localhost:4566"))
        );
        assert_eq!(
            place("s3://storage.googleapis.com/b/p"),
            of("b", "p", Some("https://storage.googleapis.com"))
        );
        assert_eq!(
            place("s3://bucket/p?endpoint=https%3A%2F%2Fminio.example%3A9000"),
            of("bucket", "p", Some("https://minio.example:9000"))
        );
        assert!(place("s3://localhost:4566/").is_err());
        assert!(place("s3://bucket/a%2F..%2F..").is_err());
    }
}
