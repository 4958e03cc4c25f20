//! Who may act on the status page.

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::Exit;
use crate::help::HelpCode;
use crate::secret::{kept, secret_in};
use crate::status::desk::TOKEN_BYTES_MIN;

/// The variable of the environment with the token.
const TOKEN_VARIABLE: &str = "EDS_UI_TOKEN";

/// The token of the status page.
#[derive(Args, Clone)]
pub struct UiToken {
    /// Let the status page (/ui) retry dead letters, pause and import for whoever has the token in
    /// this file [default: EDS_UI_TOKEN; without one the page only shows]
    #[arg(long, value_name = "FILE")]
    ui_token_file: Option<PathBuf>,
}

impl UiToken {
    /// The token, if there is one.
    pub fn token(&self) -> Result<Option<SecretString>, Exit> {
        let wrong = |text: String| Exit::usage(HelpCode::SecretFile, text);
        let token = match &self.ui_token_file {
            Some(file) => Some(secret_in(file).map_err(|e| {
                let file = file.display();
                wrong(format!("the file {file} of --ui-token-file cannot be read: {e}"))
            })?),
            None => kept(TOKEN_VARIABLE).map_err(wrong)?,
        };
        match token {
            Some(token) if token.expose_secret().len() < TOKEN_BYTES_MIN => Err(wrong(format!(
                "the token of the status page has fewer than {TOKEN_BYTES_MIN} bytes, which can be \
                 guessed; `openssl rand -hex 16` makes a good one"
            ))),
            token => Ok(token),
        }
    }
}
