//! Requests to the service: the client, when a request is made again, and objects that are written
//! on condition.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig, UpdateVersion,
};
use tokio::time::{Instant, sleep};

use super::bucket::BucketPath;
use super::keys;
use super::pace::Pace;
use super::trouble::{StoreTrouble, failure, trouble};
use crate::backoff::{Backoff, Waits};
use crate::cause::chain;
use crate::destination::{Failure, FailureKind, Settings};

/// How often a request is repeated, unless the URL says otherwise.
const RETRIES: usize = 5;
/// How long one request may take, and how long it is repeated.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// Between two tries of a request.
const RETRY_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(100), longest: Duration::from_secs(15) };
/// How long requests are repeated, however often, where the service says that there are too many.
const THROTTLED_TIME_MAX: Duration = Duration::from_secs(240);
/// An object that shows that one may be written.
const PROBE: &str = ".eds-probe";
/// How often the probe is created: a service that takes conditions refuses the second at the
/// latest, unless somebody else deletes it meanwhile.
const PROBES: u32 = 3;

/// The objects below one folder of a bucket.
pub struct ObjectClient {
    store: AmazonS3,
    place: BucketPath,
    /// The media type of every object that is written.
    content_type: &'static str,
    /// How often a request is repeated.
    retries: usize,
    pace: Pace,
}

/// An object as it was found.
pub struct ExistingObject {
    /// Its content.
    pub content: Bytes,
    /// By which it is replaced only if nobody else has replaced it since.
    pub version: UpdateVersion,
}

fn client(settings: &Settings, place: &BucketPath) -> Result<AmazonS3, Failure> {
    let region = settings
        .parameter("region")
        .map(str::to_owned)
        .or_else(|| std::env::var("AWS_REGION").ok())
        .or_else(|| std::env::var("AWS_DEFAULT_REGION").ok());
    // Requests are made again here, each with the keys that then hold.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
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
        // The bucket is a part of the path, as in upstream's requests: a host with its dots would
        // not be one that Amazon's certificate is for.
        .with_virtual_hosted_style_request(false)
        .with_retry(retry);
    if let Some(endpoint) = &place.endpoint {
        // The URL's goes before both of the environment's.
        builder = builder
            .with_endpoint(endpoint)
            .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint.clone());
    }
    if let Some(keys) = keys::chosen(settings)? {
        builder = builder.with_credentials(keys);
    }
    builder
        .build()
        .map_err(|e| Failure::misconfigured(format!("the S3 client cannot be made: {}", chain(&e))))
}

impl ObjectClient {
    /// A client for the bucket that the URL names; sends nothing yet.
    pub fn new(settings: &Settings, content_type: &'static str) -> Result<ObjectClient, Failure> {
        let place = BucketPath::read(settings)?;
        Ok(ObjectClient {
            store: client(settings, &place)?,
            place,
            content_type,
            retries: settings.number("max-retries", 1..=100)?.unwrap_or(RETRIES),
            pace: Pace::default(),
        })
    }

    /// Where objects go.
    pub fn place(&self) -> &BucketPath {
        &self.place
    }

    /// The bucket's name, for messages.
    pub fn bucket(&self) -> &str {
        &self.place.bucket
    }

    /// Writes an empty object and deletes it again: shows whether bucket, keys and region are
    /// right; where objects are `created` on condition, whether the service obeys it.
    pub async fn probe(&self, created: bool) -> Result<(), Failure> {
        let probe = self.path(PROBE)?;
        if created && self.place.takes_conditions() {
            let mut is_refused = false;
            for _ in 0..PROBES {
                is_refused = !self.create(&probe, &Bytes::new()).await?;
                if is_refused {
                    break;
                }
            }
            if !is_refused {
                return Err(Failure::misconfigured(format!(
                    "the service of bucket {:?} ignores If-None-Match: it creates an object where \
                     there is one, so that one change would replace another. Give each change an \
                     object of its own with ?names=position",
                    self.place.bucket
                )));
            }
        } else {
            self.write(&probe, &Bytes::new(), PutMode::Overwrite).await?;
        }
        // Whoever may not delete leaves an empty object there.
        let _ = self.store.delete(&probe).await;
        Ok(())
    }

    /// Makes a request, and makes it again where that may help. Every request may be repeated: one
    /// that was carried out unseen finds its own object.
    async fn tried<'a, T>(
        &'a self,
        request: impl Fn() -> BoxFuture<'a, object_store::Result<T>> + Send + 'a,
    ) -> object_store::Result<T> {
        let (started, mut backoff) = (Instant::now(), Backoff::new(RETRY_WAITS));
        loop {
            self.pace.wait().await;
            let error = match request().await {
                Err(e) => e,
                done => {
                    self.pace.went_well();
                    return done;
                }
            };
            let passed = started.elapsed();
            match trouble(&error) {
                StoreTrouble::Throttled if passed < THROTTLED_TIME_MAX => self.pace.slow_down(),
                StoreTrouble::Away | StoreTrouble::KeysExpired
                    if passed < RETRY_TIME_MAX && (backoff.tries() as usize) < self.retries =>
                {
                    sleep(backoff.next(&self.place.bucket)).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// The path of the object `name` in the bucket.
    pub fn path(&self, name: &str) -> Result<Path, Failure> {
        let whole = match self.place.folder.as_str() {
            "" => name.to_owned(),
            folder => format!("{folder}/{name}"),
        };
        Path::parse(&whole).map_err(|_| {
            Failure::new(
                FailureKind::Rejected,
                "the name of an object would not be one that S3 takes",
            )
        })
    }

    /// How an object that was found is replaced: where the service takes conditions, only if it
    /// still is of this version.
    pub fn replacing(&self, version: UpdateVersion) -> PutMode {
        match self.place.takes_conditions() {
            true => PutMode::Update(version),
            false => PutMode::Overwrite,
        }
    }

    /// Stores an object where none of its name exists; `false` where one does.
    pub async fn create<'a>(&'a self, path: &'a Path, content: &'a Bytes) -> Result<bool, Failure> {
        if !self.place.takes_conditions() {
            // Looking first is as good as a condition as long as there is one writer, which the
            // documentation asks for.
            return match self.tried(|| self.store.head(path).boxed()).await {
                Ok(_) => Ok(false),
                Err(object_store::Error::NotFound { .. }) => {
                    self.write(path, content, PutMode::Overwrite).await
                }
                Err(e) => Err(failure(&self.place.bucket, &e)),
            };
        }
        self.write(path, content, PutMode::Create).await
    }

    /// Stores an object on the condition that `mode` names; `false` where it was not met.
    pub async fn write<'a>(
        &'a self,
        path: &'a Path,
        content: &'a Bytes,
        mode: PutMode,
    ) -> Result<bool, Failure> {
        let attributes = Attributes::from_iter([(Attribute::ContentType, self.content_type)]);
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let put = || self.store.put_opts(path, content.clone().into(), options.clone());
        match self.tried(put).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(e) => Err(failure(&self.place.bucket, &e)),
        }
    }

    /// The object of this name.
    pub async fn find<'a>(&'a self, path: &'a Path) -> Result<Option<ExistingObject>, Failure> {
        let get = || {
            let got = async {
                let got = self.store.get(path).await?;
                let e_tag = got.meta.e_tag.clone();
                let version = UpdateVersion { e_tag, version: got.meta.version.clone() };
                Ok(ExistingObject { content: got.bytes().await?, version })
            };
            got.boxed()
        };
        match self.tried(get).await {
            Ok(found) => Ok(Some(found)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failure(&self.place.bucket, &e)),
        }
    }
}
