//! What an error of the service means: by its code and status, never by words that are for people.

use crate::destination::{Failure, FailureKind};

/// What an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreTrouble {
    /// There is no such bucket.
    NoBucket,
    /// The bucket is in another region.
    OtherRegion,
    /// The keys are none that the service knows.
    KeysUnknown,
    /// The keys were good, and are no longer.
    KeysExpired,
    /// This machine's clock is wrong.
    Clock,
    /// The keys do not allow it.
    Rights,
    /// The service has no such request.
    Unsupported,
    /// The service does not take this one object.
    OfObject,
    /// There are too many requests.
    Throttled,
    /// The service cannot be reached or does not work now.
    Away,
    /// Something that no list has: trying again at once will not help.
    Other,
}

/// The codes that S3, Google, MinIO, Ceph, R2 and SeaweedFS answer with.
const CODES: [(StoreTrouble, &[&str]); 9] = [
    (StoreTrouble::NoBucket, &["NoSuchBucket", "InvalidBucketName"]),
    (StoreTrouble::OtherRegion, &["PermanentRedirect", "IllegalLocationConstraintException"]),
    (
        StoreTrouble::KeysUnknown,
        &[
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "AuthorizationHeaderMalformed",
            "InvalidSecurity",
        ],
    ),
    (StoreTrouble::KeysExpired, &["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"]),
    (StoreTrouble::Clock, &["RequestTimeTooSkewed", "RequestExpired"]),
    (StoreTrouble::Rights, &["AccessDenied", "AllAccessDisabled", "AccountProblem"]),
    (StoreTrouble::Unsupported, &["NotImplemented"]),
    (
        StoreTrouble::OfObject,
        &[
            "KeyTooLongError",
            "KeyTooLong",
            "EntityTooLarge",
            "InvalidObjectName",
            "InvalidURI",
            "XMinioInvalidObjectName",
            "XMinioParentIsObject",
            "XMinioObjectExistsAsDirectory",
        ],
    ),
    (
        StoreTrouble::Throttled,
        &[
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "Throttling",
            "ThrottlingException",
            "TooManyRequests",
            "RequestLimitExceeded",
            "BandwidthLimitExceeded",
        ],
    ),
];

/// What `error` is about.
pub fn trouble(error: &object_store::Error) -> StoreTrouble {
    let text = whole(error);
    let code = between(&text, "<Code>", "<").unwrap_or_default();
    if let Some((trouble, _)) = CODES.iter().find(|(_, codes)| codes.contains(&code)) {
        return *trouble;
    }
    let is_refusal = matches!(
        error,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
    );
    match status(&text) {
        _ if is_refusal => StoreTrouble::Rights,
        Some(301 | 307) => StoreTrouble::OtherRegion,
        Some(413 | 414) => StoreTrouble::OfObject,
        Some(429) => StoreTrouble::Throttled,
        Some(501) => StoreTrouble::Unsupported,
        Some(408 | 500..) => StoreTrouble::Away,
        Some(_) => StoreTrouble::Other,
        // No answer at all.
        None => StoreTrouble::Away,
    }
}

/// The failure that an error means, without anything that is secret, nor any object's name, which
/// holds keys of rows.
pub fn failure(bucket: &str, error: &object_store::Error) -> Failure {
    match trouble(error) {
        StoreTrouble::NoBucket => Failure::misconfigured(format!(
            "there is no bucket {bucket:?}: make it, or correct the URL or ?region="
        )),
        StoreTrouble::OtherRegion => Failure::misconfigured(format!(
            "bucket {bucket:?} is in another region: name it with ?region="
        )),
        StoreTrouble::KeysUnknown => Failure::misconfigured(format!(
            "the keys for bucket {bucket:?} are not taken: access-key-id, secret-access-key and \
             session-token, or the file of keys, or the machine's role, and the region have to be \
             the bucket's"
        )),
        StoreTrouble::KeysExpired => Failure::unavailable(format!(
            "the keys for bucket {bucket:?} have expired: they are read again, where they come \
             from a file or the machine's role; those of the URL and of the environment have to \
             be replaced"
        )),
        StoreTrouble::Clock => Failure::misconfigured(format!(
            "this machine's clock is too far from that of bucket {bucket:?} (RequestTimeTooSkewed): \
             set it right, by NTP"
        )),
        StoreTrouble::Rights => Failure::misconfigured(format!(
            "the keys do not allow to read and write objects in bucket {bucket:?}: they need \
             s3:GetObject and s3:PutObject"
        )),
        StoreTrouble::Unsupported => Failure::misconfigured(format!(
            "the service of bucket {bucket:?} does not know requests with If-None-Match or If-Match \
             (501 NotImplemented): give each change an object of its own with ?names=position"
        )),
        StoreTrouble::OfObject => {
            let text = whole(error);
            let code = between(&text, "<Code>", "<").unwrap_or("too large");
            Failure::new(
                FailureKind::Rejected,
                format!(
                    "the service does not take the object ({code}): shorten or correct the path in \
                     the rules, the key or the folder"
                ),
            )
        }
        StoreTrouble::Throttled => Failure::unavailable(format!(
            "bucket {bucket:?} asks for fewer requests (SlowDown), and has for minutes"
        )),
        StoreTrouble::Away | StoreTrouble::Other => Failure::unavailable(format!(
            "objects cannot be written to bucket {bucket:?}: {}",
            innermost(error)
        )),
    }
}

/// The texts of an error and of all its causes.
fn whole(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text += " ";
        text += &inner.to_string();
        cause = inner.source();
    }
    text
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before).and_then(|(_, rest)| rest.split(after).next())
}

/// The HTTP status in the client's words.
fn status(text: &str) -> Option<u16> {
    if text.contains("redirect without LOCATION") {
        return Some(301);
    }
    between(text, "non-2xx status code: ", " ").and_then(|status| status.parse().ok())
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

    fn answered(status: &str, code: &str) -> object_store::Error {
        let text = format!(
            "Server returned non-2xx status code: {status}: <?xml?><Error><Code>{code}</Code>\
             <Key>k-of-row</Key></Error>"
        );
        object_store::Error::Generic { store: "S3", source: std::io::Error::other(text).into() }
    }

    #[test]
    fn an_error_is_known_by_its_code_and_else_by_its_status() {
        for (status, code, expected, kind) in [
            ("400 Bad Request", "KeyTooLongError", StoreTrouble::OfObject, FailureKind::Rejected),
            ("400 Bad Request", "EntityTooLarge", StoreTrouble::OfObject, FailureKind::Rejected),
            ("413 Payload Too Large", "", StoreTrouble::OfObject, FailureKind::Rejected),
            ("400 Bad Request", "InvalidRequest", StoreTrouble::Other, FailureKind::Unavailable),
            (
                "403 Forbidden",
                "RequestTimeTooSkewed",
                StoreTrouble::Clock,
                FailureKind::Misconfigured,
            ),
            (
                "400 Bad Request",
                "ExpiredToken",
                StoreTrouble::KeysExpired,
                FailureKind::Unavailable,
            ),
            ("501 Not Implemented", "", StoreTrouble::Unsupported, FailureKind::Misconfigured),
            ("503 Slow Down", "SlowDown", StoreTrouble::Throttled, FailureKind::Unavailable),
            ("429 Too Many Requests", "", StoreTrouble::Throttled, FailureKind::Unavailable),
            (
                "500 Internal Server Error",
                "InternalError",
                StoreTrouble::Away,
                FailureKind::Unavailable,
            ),
            ("301 Moved Permanently", "", StoreTrouble::OtherRegion, FailureKind::Misconfigured),
        ] {
            let error = answered(status, code);
            assert_eq!(trouble(&error), expected, "{status} {code}");
            let failure = failure("b", &error);
            assert_eq!(failure.kind, kind, "{status} {code}");
            assert!(!failure.text.contains("k-of-row"), "{}", failure.text);
        }
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
}
