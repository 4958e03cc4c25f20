//! HQ's form for a bucket, and the URL of it.

use crate::destination::form::{Answers, FieldError, FormField, encoded, encoded_path};

/// A bucket of S3, or of what speaks its protocol.
pub const BUCKET: [FormField; 6] = [
    FormField::text("Bucket", "The name of the bucket").required(),
    FormField::text("Prefix", "The folder in the bucket"),
    FormField::text("Region", "The region of the bucket"),
    FormField::text(
        "Access Key ID",
        "The name of the access key; without it the machine's own role is used",
    ),
    FormField::password("Secret Access Key", "The access key"),
    FormField::text("Endpoint", "The host of the service, if it is not Amazon's"),
];

/// Hosts of Google and this machine stand in front of the bucket, as they do with the predecessor;
/// others are an option.
pub fn url(scheme: &str, answers: &Answers) -> Result<String, FieldError> {
    let trimmed = |name: &str| answers.get(name).trim_matches('/');
    let (bucket, prefix, endpoint) = (trimmed("Bucket"), trimmed("Prefix"), trimmed("Endpoint"));
    let host = endpoint.trim_start_matches("https://").trim_start_matches("http://");
    let is_in_front = host.ends_with("googleapis.com")
        || ["localhost", "127.0.0.1"].contains(&host.split(':').next().unwrap_or_default());
    let mut place =
        if is_in_front { format!("{host}/{}", encoded(bucket)) } else { encoded(bucket) };
    if !prefix.is_empty() {
        place += &format!("/{}", encoded_path(prefix));
    }
    let options = [
        ("access-key-id", trimmed("Access Key ID")),
        ("endpoint", if is_in_front { "" } else { endpoint }),
        ("region", trimmed("Region")),
        ("secret-access-key", answers.get("Secret Access Key")),
    ];
    let options: Vec<String> = options
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| format!("{key}={}", encoded(value)))
        .collect();
    let separator = if options.is_empty() { "" } else { "?" };
    Ok(format!("{scheme}://{place}{separator}{}", options.join("&")))
}

#[cfg(test)]
mod tests {
    use super::super::DRIVER;
    use crate::destination::form::{Filled, url_of};
    use serde_json::{Value, json};

    fn filled(value: Value) -> Filled {
        value.as_object().cloned().unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn a_bucket_is_named_as_the_contract_shows() -> Result<(), String> {
        let url = |value: Value| url_of(&DRIVER, &filled(value)).map_err(|e| format!("{e:?}"));
        assert_eq!(
            url(json!({"Bucket": "b", "Prefix": "/p", "Endpoint": "storage.googleapis.com"}))?,
            "s3://storage.googleapis.com/b/p"
        );
        assert_eq!(
            url(json!({"Bucket": "b", "Endpoint": "http://localhost:4566"}))?,
            "s3://localhost:4566/b"
        );
        let whole = json!({
            "Bucket": "b", "Prefix": "a b/c", "Region": "eu-west-1", "Access Key ID": "K",
            "Secret Access Key": "s/+=", "Endpoint": "https://minio.example:9000"
        });
        assert_eq!(
            url(whole)?,
            "s3://b/a%20b/c?access-key-id=K&endpoint=https%3A%2F%2Fminio.example%3A9000&region=eu-west-1&secret-access-key=s%2F%2B%3D"
        );
        assert!(url(json!({"Prefix": "p"})).is_err());
        Ok(())
    }
}
