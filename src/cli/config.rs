//! `eds config show`: the settings of a server, each with its value and where that is from.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::args::WEBHOOK_VARIABLE;
use super::environment::{self, READ_ELSEWHERE};
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::server::ServerSettings;
use super::{Global, logging};
use crate::config::{Config, FILE_NAME};
use crate::help::HelpCode;
use crate::hq::api_of;
use crate::secret::{has_login, kept_at, mask_url, mask_urls};
use crate::status::webhook;
use crate::worker::nats_login::servers;

/// Stands for a secret, however long it is.
const HIDDEN: &str = "****";

#[derive(Args)]
pub struct ConfigCommand {
    #[command(subcommand)]
    what: ConfigTask,
}

#[derive(Subcommand)]
enum ConfigTask {
    /// Show every setting of `eds server`, its value, and where that is from; secrets are masked
    Show(Box<Show>),
}

#[derive(Args)]
struct Show {
    #[command(flatten)]
    settings: ServerSettings,
    #[command(flatten)]
    output: JsonFlag,
}

/// Where the value of a setting is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
    Credential,
    File,
    Default,
}

impl Origin {
    fn as_str(self) -> &'static str {
        match self {
            Origin::Flag => "flag",
            Origin::Environment => "environment",
            Origin::Credential => "credential",
            Origin::File => "file",
            Origin::Default => "default",
        }
    }
}

/// A setting as it is shown.
struct Setting {
    name: String,
    value: String,
    origin: Origin,
    /// The flag, the variable or the file.
    from: String,
}

impl Setting {
    fn new(name: &str, value: impl Into<String>, origin: Origin, from: impl Into<String>) -> Self {
        Setting { name: name.to_owned(), value: value.into(), origin, from: from.into() }
    }
}

impl ConfigCommand {
    /// `matches` are those of this command.
    pub fn run(self, global: &Global, matches: &ArgMatches) -> Result<(), Exit> {
        logging::start(global, None)?;
        let ConfigTask::Show(show) = self.what;
        let mut printer = show.output.printer("config show");
        let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
        let done = show.tell(global, matches, &mut printer);
        printer.end(done)
    }
}

impl Show {
    fn tell(
        &self,
        global: &Global,
        matches: &ArgMatches,
        printer: &mut Printer,
    ) -> Result<(), Exit> {
        let config = Config::read(&global.data_dir)?;
        let file = global.data_dir.join(FILE_NAME).display().to_string();
        let mut settings = self.secrets(&config, &file)?;
        settings.extend(flags(matches));
        for setting in &mut settings {
            // What no flag and no variable says may be in the file.
            let in_file = match &*setting.name {
                _ if setting.origin != Origin::Default => None,
                "eds-id" => config.server_id.clone(),
                "update-strategy" => config.update_strategy.clone(),
                "keep-logs" => config.keep_logs.then(|| "true".to_owned()),
                "exclude" => joined(&config.exclude),
                "hash" => joined(&config.hash),
                "hash-key-file" => config.hash_key_file.as_ref().map(|f| f.display().to_string()),
                "types" => joined(&config.types),
                "deletes" => config.deletes.clone(),
                "add-columns" => joined(&config.add_columns),
                _ => None,
            };
            if let Some(value) = in_file {
                *setting = Setting::new(&setting.name, value, Origin::File, &file);
            }
        }
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        let width = settings.iter().map(|s| s.value.chars().count()).max().unwrap_or(0).min(60);
        printer.line(format!("{:<20}  {:<width$}  FROM", "SETTING", "VALUE"));
        for Setting { name, value, origin, from } in &settings {
            printer.row(
                || json!({"setting": name, "value": value, "origin": origin.as_str(), "from": from}),
                || format!("{name:<20}  {value:<width$}  {from}"),
            );
        }
        Ok(())
    }

    /// Those that hold secrets, and those that depend on them.
    fn secrets(&self, config: &Config, file: &str) -> Result<Vec<Setting>, Exit> {
        let place = &self.settings.streaming.to.place;
        let in_file = |secret: &Option<SecretString>| {
            secret.clone().map(|secret| (secret, Origin::File, file.to_owned()))
        };
        let flag = |value: String, flag: &str| (value.into(), Origin::Flag, flag.to_owned());
        let url = match (&place.url, &place.url_file) {
            (Some(url), _) => Some(flag(url.clone(), "--url")),
            (None, Some(named)) => {
                Some(flag(place.text(None)?, &format!("{} (--url-file)", named.display())))
            }
            (None, None) => kept("EDS_URL")?.or_else(|| in_file(&config.url)),
        };
        let key = match self.settings.api_key.argument() {
            Some(key) => Some(flag(key.to_owned(), "--api-key")),
            None => kept("EDS_API_KEY")?,
        };
        // Of the Go program's variable an enrolment goes first.
        let key = match key.or_else(|| in_file(&config.token)) {
            None => kept("SM_APIKEY")?,
            key => key,
        };
        let address = match &self.settings.streaming.to.api_url {
            Some(url) => Some(url.clone()),
            None => key.as_ref().and_then(|(key, ..)| api_of(key)),
        };
        let named = match &self.settings.streaming.server {
            Some(servers) => Some(flag(servers.clone(), "--server")),
            None => kept("EDS_SERVER")?,
        };
        let webhook = match &self.settings.streaming.webhook.webhook {
            Some(url) => Some(flag(url.clone(), "--webhook")),
            None => kept(WEBHOOK_VARIABLE)?.or_else(|| in_file(&config.webhook)),
        };
        let mut shown = vec![
            masked("url", url, |url| mask_url(url, |_| true)),
            masked("api-key", key, |_| HIDDEN.to_owned()),
            masked("webhook", webhook, webhook::masked),
        ];
        shown.push(match named {
            None => Setting::new(
                "server",
                servers(None, address.as_deref()),
                Origin::Default,
                "default",
            ),
            named => masked("server", named, mask_urls),
        });
        if self.settings.streaming.to.api_url.is_none()
            && let Some(address) = address
        {
            let from = format!("the token of {}", shown[1].from);
            let origin = shown[1].origin;
            shown.push(Setting::new("api-url", address, origin, from));
        }
        Ok(shown)
    }
}

/// A value, what kind of place it is from, and which.
type Found = (SecretString, Origin, String);

fn kept(variable: &str) -> Result<Option<Found>, Exit> {
    let found = kept_at(variable).map_err(|e| Exit::usage(HelpCode::SecretFile, e))?;
    Ok(found.map(|(secret, place)| {
        let is_file = place != variable && !place.ends_with("_FILE)");
        let origin = if is_file { Origin::Credential } else { Origin::Environment };
        (secret, origin, place)
    }))
}

fn masked(name: &str, found: Option<Found>, mask: impl Fn(&str) -> String) -> Setting {
    match found {
        None => Setting::new(name, "", Origin::Default, "not set"),
        Some((secret, origin, from)) => {
            Setting::new(name, mask(secret.expose_secret()), origin, from)
        }
    }
}

/// The settings of flags that are no secrets, read from the definition of the arguments.
fn flags(matches: &ArgMatches) -> Vec<Setting> {
    let command = Global::augment_args(ServerSettings::augment_args(Command::new("server")));
    command.get_arguments().filter_map(|argument| setting(argument, matches)).collect()
}

fn setting(argument: &Arg, matches: &ArgMatches) -> Option<Setting> {
    let flag = argument.get_long().filter(|flag| !READ_ELSEWHERE.contains(flag))?;
    let id = argument.get_id().as_str();
    let raw: Vec<String> = matches
        .get_raw(id)
        .into_iter()
        .flatten()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let value = raw.join(",");
    let has_secret = has_login(&value) || (value.contains("://") && value.contains('?'));
    let value = if has_secret { mask_urls(&value) } else { value };
    let (origin, from) = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => (Origin::Flag, format!("--{flag}")),
        Some(ValueSource::EnvVariable) => (Origin::Environment, variable_of(flag)),
        // A hidden flag that nobody uses says nothing.
        _ if argument.is_hide_set() && flag != "update-strategy" => return None,
        _ => (Origin::Default, "default".to_owned()),
    };
    // Where HQ is, the key says otherwise.
    if flag == "api-url" && origin == Origin::Default {
        return None;
    }
    Some(Setting::new(flag, value, origin, from))
}

/// The variable that a flag was read from: the port has the Go program's, too.
fn variable_of(flag: &str) -> String {
    let name = environment::variable("server", flag);
    match environment::is_set(&name) {
        true => name,
        false => flag.to_uppercase(),
    }
}

/// A list as a flag takes it; `None` where it names nothing.
fn joined(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| list.join(","))
}
