//! Which bucket, folder and service an S3 URL names.

use crate::destination::{Failure, Settings};

/// S3 takes keys of 1,024 bytes; the rest is for table and key.
const FOLDER_BYTES_MAX: usize = 400;

/// Where objects go, as the URL says.
#[derive(Debug, PartialEq, Eq)]
pub struct BucketPath {
    /// The bucket's name.
    pub bucket: String,
    /// The folder in it, without slashes at its ends; empty for the bucket itself.
    pub folder: String,
    /// `http://host:port` of the service; `None` for Amazon's own.
    pub endpoint: Option<String>,
}

impl BucketPath {
    /// Reads the URL: the host names the bucket, or a service whose buckets follow it.
    pub fn read(settings: &Settings) -> Result<BucketPath, Failure> {
        let path = settings.path.trim_matches('/');
        // An IPv6 address comes without its brackets.
        let name = match settings.host.contains(':') {
            true => format!("[{}]", settings.host),
            false => settings.host.clone(),
        };
        let host = settings.port.map_or(name.clone(), |port| format!("{name}:{port}"));
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
        if by_host.is_none() && settings.port.is_some() {
            return Err(Failure::misconfigured(format!(
                "{host} in the S3 URL is read as the bucket's name, which has no port: name the \
                 service by ?endpoint=https://{host}, and the bucket after s3://"
            )));
        }
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

    /// The same for each way to write the service's address. Amazon's own is one service, whichever
    /// of its addresses is named; two names of another service are two.
    pub fn canonical(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("https://amazonaws.com");
        let lower = endpoint.trim_end_matches('/').to_ascii_lowercase();
        let (scheme, host) = lower.split_once("://").unwrap_or(("https", &lower));
        let usual_port = if scheme == "http" { ":80" } else { ":443" };
        let host = host.strip_suffix(usual_port).unwrap_or(host);
        let is_amazon = |host: &str| host == "amazonaws.com" || host.ends_with(".amazonaws.com");
        let service = if is_amazon(host) { "aws" } else { host };
        format!("{service}/{}/{}", self.bucket, self.folder)
    }

    /// Whether the service understands `If-None-Match` and `If-Match` on a write. Google has such
    /// conditions in another form than S3.
    pub fn takes_conditions(&self) -> bool {
        !self.endpoint.as_deref().is_some_and(|e| e.contains("googleapis.com"))
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
    fn a_service_is_the_same_however_its_address_is_written() {
        let of = |endpoint: Option<&str>| {
            let endpoint = endpoint.map(str::to_owned);
            BucketPath { bucket: "b".into(), folder: "f".into(), endpoint }.canonical()
        };
        assert_eq!(of(None), "aws/b/f");
        assert_eq!(of(Some("https://s3.eu-west-1.amazonaws.com")), "aws/b/f");
        for same in ["https://Minio.example/", "https://minio.example:443", "minio.example"] {
            assert_eq!(of(Some(same)), "minio.example/b/f", "{same}");
        }
        assert_eq!(of(Some("http://minio.example:9000")), "minio.example:9000/b/f");
        assert_eq!(of(Some("https://amazonaws.com.example")), "amazonaws.com.example/b/f");
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
        assert_eq!(place("s3://my.bucket.name/p"), of("my.bucket.name", "p", None));
        assert_eq!(
            place("s3://[::1]:9000/my.bucket/p"),
            of("my.bucket", "p", Some("http://[::1]:9000"))
        );
        assert_eq!(place("s3://[::1]/b"), of("b", "", Some("http://[::1]")));
        assert!(place("s3://minio.example:9000/b/p").is_err_and(|why| why.contains("?endpoint=")));
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
