//! The answers of Snowflake's endpoints: envelopes, results and their pieces.

use std::collections::BTreeMap;
use std::io::Read;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::stage::StageInfo;
use crate::destination::Failure;

/// The result of a statement.
#[derive(Debug, Default)]
pub struct QueryAnswer {
    /// Names of the columns, as Snowflake writes them.
    pub columns: Vec<String>,
    /// The rows, each value as text.
    pub rows: Vec<Vec<Option<String>>>,
    /// Where a file is to be uploaded, if the statement was a PUT.
    pub stage: Option<StageInfo>,
}

impl QueryAnswer {
    /// The values of the column of this name, in any case.
    pub fn column(&self, name: &str) -> impl Iterator<Item = &str> {
        let at = self.columns.iter().position(|column| column.eq_ignore_ascii_case(name));
        self.rows.iter().filter_map(move |row| row.get(at?)?.as_deref())
    }
}

/// What every endpoint answers.
#[derive(Deserialize)]
pub struct QueryEnvelope {
    /// Whether the request succeeded; a statement that still runs has not yet.
    #[serde(default)]
    pub success: bool,
    /// A number with leading zeros as text, or a number.
    #[serde(default)]
    code: Value,
    /// Why the request failed; may quote values of rows.
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

impl QueryEnvelope {
    /// The answer's code; empty where there is none.
    pub fn code(&self) -> String {
        match &self.code {
            Value::String(code) => code.clone(),
            Value::Number(code) => format!("{code:0>6}"),
            _ => String::new(),
        }
    }

    /// What the answer contains.
    pub fn data<T: for<'d> Deserialize<'d>>(&self) -> Result<T, Failure> {
        let text = self.data.as_ref().map_or("{}", |data| data.get());
        // What serde says of it may quote rows.
        serde_json::from_str(text).map_err(|_| {
            Failure::unavailable("Snowflake answered in a form that EDS does not know")
        })
    }
}

/// The answer to a login.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedIn {
    /// The token of the session's requests.
    pub token: SecretString,
    /// The token that renews the other one.
    pub master_token: SecretString,
    /// How long the session is valid without renewal.
    #[serde(default)]
    pub master_validity_in_seconds: Option<u64>,
    /// What the session works with.
    #[serde(default)]
    pub session_info: SessionInfo,
}

/// What the session works with; `None` where it is missing or not granted to the user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionInfo {
    /// The database, as Snowflake writes its name.
    pub database_name: Option<String>,
    /// The schema, as Snowflake writes its name.
    pub schema_name: Option<String>,
    /// The warehouse that runs the statements.
    pub warehouse_name: Option<String>,
}

/// The answer to a renewal.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Renewed {
    /// The new token of the session's requests.
    pub session_token: SecretString,
    /// The new token that renews the other one.
    pub master_token: SecretString,
    /// How many seconds the session is valid without renewal.
    #[serde(rename = "validityInSecondsMT", default)]
    pub master_validity: Option<u64>,
}

/// The answer to a statement.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryData {
    /// The columns.
    pub rowtype: Option<Vec<RowType>>,
    /// The first rows; further ones are in `chunks`.
    pub rowset: Option<Vec<Vec<Option<String>>>>,
    /// Rows in the form of Arrow, which EDS does not read.
    pub rowset_base64: Option<String>,
    /// Where further rows are.
    pub chunks: Option<Vec<ResultChunk>>,
    /// Headers that the requests for chunks need.
    pub chunk_headers: Option<BTreeMap<String, String>>,
    /// The key of the chunks, for requests without such headers.
    pub qrmk: Option<String>,
    /// Where the result will be, of a statement that still runs.
    pub get_result_url: Option<String>,
    /// The answer to a PUT.
    pub stage_info: Option<StageInfo>,
}

/// A column of a result.
#[derive(Deserialize)]
pub struct RowType {
    /// The column's name.
    pub name: String,
}

/// A further piece of a result.
#[derive(Deserialize)]
pub struct ResultChunk {
    /// Where it is; signed, so a secret.
    pub url: String,
}

/// The rows of a piece of a result: JSON without the brackets around it, perhaps packed by gzip.
pub fn piece_rows(body: &[u8]) -> Option<Vec<Vec<Option<String>>>> {
    let mut text = Vec::with_capacity(body.len() + 2);
    text.push(b'[');
    if body.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(body).read_to_end(&mut text).ok()?;
    } else {
        text.extend_from_slice(body);
    }
    text.push(b']');
    serde_json::from_slice(&text).ok()
}
