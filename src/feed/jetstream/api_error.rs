//! Why a call of JetStream's management API failed, and what that means for a feed.

use serde::Deserialize;

use crate::feed::FeedError;

/// What JetStream answers instead.
#[derive(Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Why a call failed.
#[derive(Debug)]
pub enum ApiError {
    /// There is no such consumer (10014).
    NoConsumer,
    /// There is no such stream (10059).
    NoStream,
    /// Another error.
    Refused {
        /// JetStream's class of the error, after HTTP's: from 500 on the server cannot do now what
        /// it was asked for. 0 for an answer that cannot be read.
        code: u64,
        /// JetStream's number of the error.
        err_code: u64,
        /// JetStream's text.
        description: String,
    },
    /// NATS is unreachable, or the call is not allowed.
    NoAnswer(String),
}

/// No more consumers are allowed, by the stream or by the account.
const CONSUMER_LIMIT: u64 = 10026;

impl ApiError {
    pub(super) fn unreadable(why: String) -> ApiError {
        ApiError::Refused { code: 0, err_code: 0, description: why }
    }

    pub(super) fn refused(refusal: Refusal) -> ApiError {
        let Refusal { code, err_code, description } = refusal;
        match err_code {
            10014 => ApiError::NoConsumer,
            10059 => ApiError::NoStream,
            _ => ApiError::Refused { code, err_code, description },
        }
    }

    /// Whether no more consumers are allowed.
    pub fn is_limit(&self) -> bool {
        matches!(self, ApiError::Refused { err_code, .. } if *err_code == CONSUMER_LIMIT)
    }

    /// As an error of a feed that was never open; `what` names what was asked for.
    pub fn at_start(self, what: &str) -> FeedError {
        let is_limit = self.is_limit();
        match self {
            ApiError::NoStream => FeedError::Misconfigured(format!(
                "{what}: this NATS server has no such stream; is it the right server and account?"
            )),
            ApiError::Refused { code, err_code, description } if code < 500 => {
                let cure = match is_limit {
                    true => "; another consumer has the place: delete it, or allow one more",
                    false => "",
                };
                FeedError::Misconfigured(format!(
                    "{what}: JetStream says {description} ({err_code}){cure}"
                ))
            }
            other => other.once_open(what),
        }
    }

    /// As an error of a feed that was open before. What worked then may work again, whatever the
    /// server says now: a stream can be deleted and restored, a leader be away.
    pub fn once_open(self, what: &str) -> FeedError {
        FeedError::Unavailable(match self {
            ApiError::NoStream => format!("{what}: the stream is gone"),
            ApiError::NoConsumer => format!("{what}: the consumer is gone"),
            ApiError::Refused { err_code, description, .. } => {
                format!("{what}: JetStream says {description} ({err_code})")
            }
            ApiError::NoAnswer(why) => format!("{what}: {why}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jetstream_cannot_do_now_is_waited_for() {
        let refused =
            |code, err_code| ApiError::Refused { code, err_code, description: "x".into() };
        let is_waited_for = |e: FeedError| matches!(e, FeedError::Unavailable(_));
        for err_code in [10008, 10009, 10012, 10023, 10039, 10041, 10076, 10077, 10104, 10119] {
            assert!(is_waited_for(refused(503, err_code).at_start("it")), "{err_code}");
        }
        assert!(is_waited_for(refused(500, 10041).at_start("it")));
        assert!(!is_waited_for(refused(400, 10026).at_start("it")));
        assert!(!is_waited_for(ApiError::NoStream.at_start("it")));
        for e in [refused(400, 10026), ApiError::NoStream, ApiError::NoConsumer] {
            assert!(is_waited_for(e.once_open("it")));
        }
    }
}
