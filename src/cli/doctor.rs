//! `eds doctor`: what would keep a start from going well.

use std::path::PathBuf;

use clap::Args;

#[cfg(feature = "server")]
use super::args::Releases;
#[cfg(feature = "http")]
use super::args::{ApiKey, HqAccess};
use super::args::{Streaming, named_servers};
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
#[cfg(feature = "http")]
use crate::config::Config;
use crate::doctor::{Doctor, DoctorCheck, DoctorRequest, Finding, Outcome};
use crate::help::HelpCode;
use crate::worker::nats_login::servers;

#[derive(Args)]
pub struct DoctorCommand {
    #[command(flatten)]
    streaming: Streaming,
    /// NATS credentials file [default: those of the server that runs with the data directory]
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    #[cfg(feature = "http")]
    #[command(flatten)]
    api_key: ApiKey,
    #[cfg(feature = "server")]
    #[command(flatten)]
    releases: Releases,
    /// Make only this check; for several, again: config, data-dir, state, disk, hq, credentials,
    /// nats, consumer, clock, schemas, destination, tables, retention, letters, releases
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = named)]
    check: Vec<DoctorCheck>,
    /// Also look where that takes writing for a moment: a consumer at the stream, an empty object
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    output: JsonFlag,
}

fn named(name: &str) -> Result<DoctorCheck, String> {
    DoctorCheck::named(name).ok_or_else(|| {
        let names: Vec<&str> = DoctorCheck::ALL.iter().map(|check| check.as_str()).collect();
        format!("there is no such check; there are: {}", names.join(", "))
    })
}

impl DoctorCommand {
    /// Ends with 1 where there is a problem.
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = self.output.printer("doctor");
        let done = Box::pin(self.tell(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn tell(&self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let mut doctor = Doctor::new(self.request(global)?);
        let wanted = |check: &&DoctorCheck| self.check.is_empty() || self.check.contains(check);
        let mut problems = 0;
        for check in DoctorCheck::ALL.iter().filter(wanted) {
            for found in Box::pin(doctor.check(*check)).await {
                problems += u32::from(found.outcome == Outcome::Problem);
                printer.row(|| found.to_json(), || lines(&found).join("\n"));
            }
        }
        doctor.close().await;
        match problems {
            0 => Ok(()),
            1 => Err(Exit::failed(
                HelpCode::DoctorProblems,
                "1 check has found a problem; its cure stands below it",
            )),
            n => Err(Exit::failed(
                HelpCode::DoctorProblems,
                format!("there are {n} problems; their cures stand below them"),
            )),
        }
    }

    #[cfg(feature = "http")]
    fn request(&self, global: &Global) -> Result<DoctorRequest, Exit> {
        let read = Config::read(&global.data_dir);
        let said = match &read {
            Ok(config) => Ok(described(config)),
            Err(e) => Err(e.to_string()),
        };
        let config = read.unwrap_or_default();
        let mut streaming = self.streaming.clone();
        let api_url = streaming.to.api_url.as_deref();
        #[cfg(feature = "server")]
        let hq = HqAccess::of_server(&self.api_key, api_url, &config)?;
        #[cfg(not(feature = "server"))]
        let hq = HqAccess::of_command(&self.api_key, api_url, &config)?;
        let (token, address) = (hq.token.clone(), hq.address.clone());
        if streaming.to.schema.is_none() {
            // As a server's worker gets it.
            streaming.to.api_url = address.clone();
        }
        Ok(DoctorRequest {
            config: said,
            is_enrolled: token.is_some(),
            servers: servers(
                named_servers(streaming.server.as_deref())?.as_deref(),
                address.as_deref(),
            ),
            hq: hq.client()?,
            token,
            ..self.plain(global, &streaming, config.url())?
        })
    }

    #[cfg(not(feature = "http"))]
    fn request(&self, global: &Global) -> Result<DoctorRequest, Exit> {
        self.plain(global, &self.streaming, None)
    }

    /// Without a configuration file, and without HQ.
    fn plain(
        &self,
        global: &Global,
        streaming: &Streaming,
        url: Option<&str>,
    ) -> Result<DoctorRequest, Exit> {
        #[cfg(feature = "server")]
        let running_creds = crate::supervisor::consumer::of_running(&global.data_dir);
        #[cfg(not(feature = "server"))]
        let running_creds = None;
        let apply = streaming.request(global, url).map(|request| request.apply);
        let named = named_servers(streaming.server.as_deref())?;
        Ok(DoctorRequest {
            data_dir: global.data_dir.clone(),
            config: Ok("this build reads none".into()),
            is_enrolled: false,
            servers: servers(named.as_deref(), None),
            creds: self.creds.clone(),
            running_creds,
            nats_ca: streaming.nats_ca.clone(),
            consumer_suffix: streaming.consumer_suffix.clone(),
            apply: apply.map_err(|exit| exit.text()),
            #[cfg(feature = "http")]
            hq: None,
            #[cfg(feature = "http")]
            token: None,
            #[cfg(feature = "server")]
            releases: self.releases.source(),
            deep: self.deep,
        })
    }
}

/// What the configuration file says.
#[cfg(feature = "http")]
fn described(config: &Config) -> String {
    let server = match (&config.server_id, &config.token) {
        (Some(id), Some(_)) => format!("enrolled as server {id}"),
        (_, Some(_)) => "it has a token of HQ".to_owned(),
        (_, None) => "not enrolled".to_owned(),
    };
    let destination = match config.url() {
        Some(_) => "it names a destination",
        None => "it names no destination",
    };
    format!("{server}; {destination}")
}

/// The finding for people: result, check, what was found; below it what to do.
fn lines(found: &Finding) -> Vec<String> {
    let cause = found.help.map_or_else(|| found.cause.clone(), |help| help.tag(&found.cause));
    let mut lines =
        vec![format!("{:<12} {:<12} {cause}", found.outcome.as_str(), found.check.as_str())];
    lines.extend(found.cure.iter().map(|cure| format!("{:<12} {:<12} cure: {cure}", "", "")));
    lines
}
