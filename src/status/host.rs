//! Which names a request may ask for: a page of the internet must not read what only this machine
//! is told, under a name of its own that suddenly stands for 127.0.0.1 (DNS rebinding).

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Why a request is refused, and what to do.
const REFUSED: &str = "this port answers requests for 127.0.0.1 and localhost only, so that no web \
                       page can read it under a name of its own: ask http://localhost, and let a \
                       proxy send Host: localhost\n";

/// Whether a `Host` is an address, or the name that every machine has for itself: nobody else can
/// make those lead here.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// Refuses requests for foreign names.
pub async fn of_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    // A URL in the request line goes before the header.
    let host = request.uri().authority().map(|authority| authority.as_str()).or(host);
    match host.is_none_or(is_this_machine) {
        true => next.run(request).await,
        false => (StatusCode::MISDIRECTED_REQUEST, REFUSED).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_this_machine() {
        for host in
            ["127.0.0.1:8080", "127.0.0.1", "[::1]:8080", "[::1]", "localhost:80", "LocalHost"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "?",
            "[evil]",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
