//! Uploads a file to Snowflake's stage: S3, Azure or Google storage, by credentials that Snowflake
//! hands out for it.

use std::time::Duration;

use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig, StaticCredentialProvider,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::cause::chain;
use crate::destination::{Failure, FailureKind};

/// How long an upload may take, retries included.
const PUT_TIME_MAX: Duration = Duration::from_secs(120);

/// Where a file is to be uploaded, as Snowflake answers PUT.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StageInfo {
    /// S3, AZURE or GCS.
    location_type: String,
    /// Bucket or container, and the path within.
    location: String,
    region: Option<String>,
    storage_account: Option<String>,
    end_point: Option<String>,
    presigned_url: Option<SecretString>,
    is_client_side_encrypted: bool,
    creds: Credentials,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
struct Credentials {
    aws_key_id: Option<SecretString>,
    aws_secret_key: Option<SecretString>,
    aws_token: Option<SecretString>,
    azure_sas_token: Option<SecretString>,
    gcs_access_token: Option<SecretString>,
}

fn unusable(error: &object_store::Error) -> Failure {
    Failure::unavailable(format!("the stage of Snowflake cannot be used: {}", chain(error)))
}

fn missing(what: &str) -> Failure {
    Failure::unavailable(format!("Snowflake did not say {what} of the stage"))
}

fn plain(secret: Option<&SecretString>, what: &str) -> Result<String, Failure> {
    secret
        .map(|s| s.expose_secret().to_owned())
        .filter(|s| !s.is_empty())
        .ok_or_else(|| missing(what))
}

impl StageInfo {
    /// Writes `content` under `name`; a file of that name is replaced.
    pub async fn put(&self, name: &str, content: Bytes) -> Result<(), Failure> {
        if self.is_client_side_encrypted {
            return Err(Failure::new(
                FailureKind::Misconfigured,
                "Snowflake wants files of the stage encrypted by the client, which EDS does not \
                 do: its stage was made by something else",
            ));
        }
        if let Some(url) = self.presigned_url.as_ref().filter(|url| !url.expose_secret().is_empty())
        {
            return put_presigned(url, content).await;
        }
        let (container, folder) = self.location.split_once('/').unwrap_or((&self.location, ""));
        let path =
            Path::parse(format!("{}/{name}", folder.trim_end_matches('/')).trim_start_matches('/'))
                .map_err(|_| missing("a usable place"))?;
        let store = self.store(container)?;
        match tokio::time::timeout(PUT_TIME_MAX, store.put(&path, content.into())).await {
            Ok(Ok(_)) => Ok(()),
            // With the answer come addresses that may be signed.
            Ok(Err(e)) => Err(Failure::unavailable(format!(
                "a file cannot be put onto the stage of Snowflake ({}): {}",
                self.location_type,
                reason(&e)
            ))),
            Err(_) => Err(Failure::unavailable(format!(
                "a file could not be put onto the stage of Snowflake within {PUT_TIME_MAX:?}"
            ))),
        }
    }

    fn store(&self, container: &str) -> Result<Box<dyn ObjectStore>, Failure> {
        let retry = RetryConfig { retry_timeout: PUT_TIME_MAX / 2, ..RetryConfig::default() };
        let options =
            ClientOptions::new().with_allow_http(self.is_local()).with_timeout(PUT_TIME_MAX);
        match self.location_type.as_str() {
            "S3" => self.s3(container, options, retry),
            "AZURE" => self.azure(container, options, retry),
            "GCS" => self.google(container, options, retry),
            other => Err(Failure::misconfigured(format!(
                "the stage of Snowflake is in {other:?}, which EDS does not know; S3, Azure and \
                 Google are known"
            ))),
        }
    }

    fn s3(
        &self,
        bucket: &str,
        options: ClientOptions,
        retry: RetryConfig,
    ) -> Result<Box<dyn ObjectStore>, Failure> {
        let creds = &self.creds;
        let mut s3 = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(self.region.as_deref().unwrap_or("us-west-2"))
            .with_access_key_id(plain(creds.aws_key_id.as_ref(), "the key")?)
            .with_secret_access_key(plain(creds.aws_secret_key.as_ref(), "the secret key")?)
            .with_token(plain(creds.aws_token.as_ref(), "the token")?)
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = self.endpoint() {
            s3 = s3.with_endpoint(endpoint);
        }
        Ok(Box::new(s3.build().map_err(|e| unusable(&e))?))
    }

    fn azure(
        &self,
        container: &str,
        options: ClientOptions,
        retry: RetryConfig,
    ) -> Result<Box<dyn ObjectStore>, Failure> {
        let account =
            self.storage_account.as_deref().ok_or_else(|| missing("the storage account"))?;
        let signature = plain(self.creds.azure_sas_token.as_ref(), "the signature")?;
        let pairs: Vec<(String, String)> =
            url::form_urlencoded::parse(signature.trim_start_matches('?').as_bytes())
                .into_owned()
                .collect();
        let endpoint = match self.endpoint() {
            Some(local) if self.is_local() => local,
            // `blob.core.windows.net`, or without its first word.
            Some(domain) => format!(
                "https://{account}.blob.{}",
                domain.trim_start_matches("https://").trim_start_matches("blob.")
            ),
            None => format!("https://{account}.blob.core.windows.net"),
        };
        let azure = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(container)
            .with_sas_authorization(pairs)
            .with_endpoint(endpoint)
            .with_client_options(options)
            .with_retry(retry);
        Ok(Box::new(azure.build().map_err(|e| unusable(&e))?))
    }

    fn google(
        &self,
        bucket: &str,
        options: ClientOptions,
        retry: RetryConfig,
    ) -> Result<Box<dyn ObjectStore>, Failure> {
        let bearer = plain(self.creds.gcs_access_token.as_ref(), "the token")?;
        let provider = std::sync::Arc::new(StaticCredentialProvider::new(GcpCredential { bearer }));
        let mut google = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_credentials(provider)
            .with_client_options(options)
            .with_retry(retry);
        if let Some(endpoint) = self.endpoint() {
            google = google.with_base_url(&endpoint);
        }
        Ok(Box::new(google.build().map_err(|e| unusable(&e))?))
    }

    /// The address that Snowflake names instead of the usual one.
    fn endpoint(&self) -> Option<String> {
        let named = self.end_point.as_deref().filter(|e| !e.is_empty())?;
        Some(if named.contains("://") { named.to_owned() } else { format!("https://{named}") })
    }

    /// Whether it is on this machine, where TLS may be off.
    fn is_local(&self) -> bool {
        self.end_point.as_deref().is_some_and(|e| {
            e.starts_with("http://127.0.0.1:") || e.starts_with("http://localhost:")
        })
    }
}

async fn put_presigned(url: &SecretString, content: Bytes) -> Result<(), Failure> {
    let http = crate::http::Http::new().map_err(Failure::unavailable)?;
    let put = http.put(url.expose_secret(), content, "").await;
    put.map_err(|why| {
        Failure::unavailable(format!(
            "a file cannot be put onto the stage of Snowflake (GCS): {why}"
        ))
    })
}

/// What went wrong, without addresses.
fn reason(error: &object_store::Error) -> &'static str {
    match error {
        object_store::Error::NotFound { .. } => "there is no such place",
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => {
            "the rights that Snowflake gave do not suffice, or have expired"
        }
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            "the storage does not do that"
        }
        _ => "the storage does not answer, or not as it should",
    }
}
