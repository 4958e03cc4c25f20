//! Requests to the service: the client, what its errors mean, and objects that are written on
//! condition.

use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig, UpdateVersion,
};

use super::bucket::BucketPath;
use crate::cause::chain;
use crate::destination::{Failure, FailureKind, Settings};

/// How often a request is repeated, unless the URL says otherwise.
const RETRIES: usize = 5;
/// How long one request may take, and how long it is repeated.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// An object that shows that one may be written.
const PROBE: &str = ".eds-probe";

/// The objects below one folder of a bucket.
pub struct ObjectClient {
    store: AmazonS3,
    place: BucketPath,
    /// The media type of every object that is written.
    content_type: &'static str,
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
    let retry = RetryConfig {
        max_retries: settings.number("max-retries", 1..=100)?.unwrap_or(RETRIES),
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

impl ObjectClient {
    /// A client for the bucket that the URL names; sends nothing yet.
    pub fn new(settings: &Settings, content_type: &'static str) -> Result<ObjectClient, Failure> {
        let place = BucketPath::read(settings)?;
        Ok(ObjectClient { store: client(settings, &place)?, place, content_type })
    }

    /// The bucket's name, for messages.
    pub fn bucket(&self) -> &str {
        &self.place.bucket
    }

    /// Writes an empty object and deletes it again: shows whether bucket, keys and region are
    /// right.
    pub async fn probe(&self) -> Result<(), Failure> {
        let probe = self.path(PROBE)?;
        self.store.put(&probe, Bytes::new().into()).await.map_err(|e| self.failure(&e))?;
        // Whoever may not delete leaves an empty object there.
        let _ = self.store.delete(&probe).await;
        Ok(())
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
    pub async fn create(&self, path: &Path, content: &Bytes) -> Result<bool, Failure> {
        if !self.place.takes_conditions() {
            // Looking first is as good as a condition as long as there is one writer, which the
            // documentation asks for.
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

    /// Stores an object on the condition that `mode` names; `false` where it was not met.
    pub async fn write(
        &self,
        path: &Path,
        content: &Bytes,
        mode: PutMode,
    ) -> Result<bool, Failure> {
        let attributes = Attributes::from_iter([(Attribute::ContentType, self.content_type)]);
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

    /// The object of this name.
    pub async fn find(&self, path: &Path) -> Result<Option<ExistingObject>, Failure> {
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

    /// The failure that an error of the service means, without anything that is secret.
    pub fn failure(&self, error: &object_store::Error) -> Failure {
        let text = chain(error);
        let bucket = &self.place.bucket;
        // The rest of the text names objects, whose names are data.
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split('<').next())
            .unwrap_or_default();
        let is_code = |codes: &[&str]| codes.contains(&code);
        if is_code(&["NoSuchBucket"]) {
            return Failure::misconfigured(format!(
                "there is no bucket {bucket:?}: make it, or correct the URL or ?region="
            ));
        }
        if is_code(&[
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
        if is_code(&["AccessDenied", "AllAccessDisabled"])
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
        if is_code(&["PermanentRedirect", "IllegalLocationConstraint"])
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
}

/// What an error began with: what is around it names objects, and so keys of rows. A service's
/// answer names them too.
fn innermost(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    let plain = text.split('<').next().unwrap_or_default().trim_end_matches([':', ' ']);
    if plain.contains("://") {
        "the service does not answer as it should".to_owned()
    } else {
        plain.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
