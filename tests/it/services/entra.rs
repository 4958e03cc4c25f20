//! Microsoft Entra and a machine's service for identities, as far as a login asks them.

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};

use super::eventhubs::ENTRA_TOKEN;

/// The secret of the application.
pub const CLIENT_SECRET: &str = "s3cret~of/an+application=";

/// Starts the service on this machine; returns its URL. It ends with the test's runtime.
pub async fn start() -> String {
    let listener =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
    let port = listener.local_addr().map(|a| a.port()).unwrap_or_default();
    let router = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://127.0.0.1:{port}")
}

async fn answer(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 10).await.unwrap_or_default();
    let pairs = |text: &[u8]| -> Vec<(String, String)> {
        url::form_urlencoded::parse(text).into_owned().collect()
    };
    let has = |pairs: &[(String, String)], name: &str, value: &str| {
        pairs.contains(&(name.to_owned(), value.to_owned()))
    };
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let query = pairs(head.uri.query().unwrap_or_default().as_bytes());
    let is_for_hubs = has(&query, "resource", "https://eventhubs.azure.net/");
    let given = |expires_in: &str| {
        format!(
            r#"{{"access_token":"{ENTRA_TOKEN}","expires_in":{expires_in},"token_type":"Bearer"}}"#
        )
        .into_response()
    };
    match (&head.method, head.uri.path()) {
        (&Method::POST, "/a-tenant/oauth2/v2.0/token") => {
            let form = pairs(&body);
            let is_known = has(&form, "grant_type", "client_credentials")
                && has(&form, "client_id", "an-app")
                && has(&form, "client_secret", CLIENT_SECRET)
                && has(&form, "scope", "https://eventhubs.azure.net/.default");
            if is_known {
                return given("3599");
            }
            let why = r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided for app an-app."}"#;
            (StatusCode::UNAUTHORIZED, why).into_response()
        }
        (&Method::GET, "/metadata/identity/oauth2/token")
            if header("Metadata") == Some("true") && is_for_hubs =>
        {
            given("\"86400\"")
        }
        (&Method::GET, "/msi/token")
            if header("X-IDENTITY-HEADER") == Some("of-this-container") && is_for_hubs =>
        {
            given("\"86400\"")
        }
        _ => (StatusCode::BAD_REQUEST, r#"{"error":"invalid_request"}"#).into_response(),
    }
}
