//! `eds verify`: whether the destination has what an export has.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::args::{ApiKey, DestinationArgs, HqAccess, named, schemas_of};
use super::columns::ColumnArgs;
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::change::filter::TableFilter;
use crate::config::Config;
use crate::help::HelpCode;
use crate::import::FilesFrom;
use crate::pipeline::Halt;
use crate::verify::{FoundDifference, TableVerdict, VerifyError, VerifyRequest, verify};

#[derive(Args)]
pub struct Verify {
    /// Only these tables [default: all of the export]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    #[command(flatten)]
    place: DestinationArgs,
    #[command(flatten)]
    api_key: ApiKey,
    /// HQ's address, for the export and the tables' schemas
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,
    /// Read the tables' schemas from this file or URL, in the form of HQ's /v3/schema [default: HQ]
    #[arg(long, value_name = "FILE|URL")]
    schema: Option<String>,
    /// Compare with the export files in this directory [default: order an export from HQ]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Compare with the files of this existing export job [default: order an export from HQ]
    #[arg(long, value_name = "ID", conflicts_with = "dir")]
    job_id: Option<String>,
    /// Export only rows of these companies [default: all]
    #[arg(long = "company-ids", alias = "companyIds", value_name = "A,B", value_delimiter = ',')]
    company_ids: Vec<String>,
    /// Whose stream it is, where several write to the destination
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Read at most so many rows of the destination in a second [default: no limit]
    #[arg(long, value_name = "ROWS_PER_S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Wait at most this long for the stream to pass the export's time, and with --repair for the
    /// running EDS to end
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = crate::duration::parse)]
    wait: Duration,
    /// Write the export's rows where they are missing or differ, in the place of the running EDS:
    /// stop it when the command says so
    #[arg(long)]
    repair: bool,
    /// With --repair: also delete the rows that the export does not have. The export has to hold
    /// all rows of its tables
    #[arg(long, requires = "repair", conflicts_with = "company_ids")]
    delete_extra: bool,
    /// Begin again, though a comparison was cut off that this one could go on with
    #[arg(long)]
    fresh: bool,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Also show the values that differ
    #[arg(long)]
    show_values: bool,
    #[command(flatten)]
    output: JsonFlag,
}

impl Verify {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = self.output.printer("verify");
        let done = Box::pin(self.compare(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn compare(&self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let request = self.request(global)?;
        let mut tell = |found: &FoundDifference| {
            printer.row(|| to_json(found, self.show_values), || line(found, self.show_values));
        };
        let verdicts = verify(request, &mut tell).await?;
        for verdict in &verdicts {
            printer.row(|| verdict.to_json(), || table_line(verdict));
        }
        concluded(&verdicts)
    }

    fn request(&self, global: &Global) -> Result<VerifyRequest, Exit> {
        if global.schema_validator.is_some() {
            return Err(Exit::Usage(
                "rows that --schema-validator leaves out would be taken for missing: name tables \
                 that it takes whole, without --schema-validator"
                    .into(),
            ));
        }
        let config = Config::read(&global.data_dir)?;
        let (destination, driver) = self.place.destination(config.url())?;
        let hq = HqAccess::of_command(&self.api_key, self.api_url.as_deref(), &config)?;
        let files = match (&self.dir, &self.job_id) {
            (Some(dir), _) => FilesFrom::Directory(dir.clone()),
            (None, Some(job)) => FilesFrom::Job(job.clone()),
            (None, None) => FilesFrom::NewJob,
        };
        Ok(VerifyRequest {
            destination,
            driver,
            data_dir: global.data_dir.clone(),
            hq: hq.client()?,
            schemas: self.schema.as_deref().map(schemas_of).transpose()?,
            files,
            tables: TableFilter::parse(&self.tables.join(",")),
            columns: self.columns.rules(global)?,
            company_ids: named(&self.company_ids),
            consumer: self.consumer.clone(),
            rows_per_s_max: self.rate,
            wait_max: self.wait,
            repairs: self.repair,
            deletes_extra: self.delete_extra,
            is_fresh: self.fresh,
        })
    }
}

/// The key as people write it: one value, or all of them.
fn key_text(key: &[String]) -> String {
    key.join(", ")
}

fn line(found: &FoundDifference, shows_values: bool) -> String {
    let mut line = format!("{}  {}  {}", found.table, key_text(&found.key), found.what.as_str());
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "NULL".into());
    let columns =
        found.columns.iter().zip(&found.values).map(
            |(column, (expected, there))| match shows_values {
                true => format!("{column} ({} instead of {})", shown(there), shown(expected)),
                false => column.clone(),
            },
        );
    let columns: Vec<String> = columns.collect();
    if !columns.is_empty() {
        line += &format!(": {}", columns.join(", "));
    }
    if let Some(doubt) = found.doubt {
        line += &format!(" (not confirmed: {doubt})");
    }
    line
}

fn to_json(found: &FoundDifference, shows_values: bool) -> serde_json::Value {
    let mut shown = json!({
        "type": "difference", "table": found.table, "key": found.key, "what": found.what.as_str(),
        "columns": found.columns, "confirmed": found.doubt.is_none(), "doubt": found.doubt,
    });
    if shows_values {
        let value = |(expected, there): &(Option<String>, Option<String>)| json!({"export": expected, "destination": there});
        shown["values"] = found.values.iter().map(value).collect();
    }
    shown
}

fn table_line(verdict: &TableVerdict) -> String {
    let mut parts = Vec::new();
    let counts = [
        (verdict.missing, "missing"),
        (verdict.extra, "extra"),
        (verdict.different, "different"),
        (verdict.doubtful, "not confirmed"),
        (verdict.repaired, "repaired"),
        (verdict.newer, "changed since the export"),
    ];
    parts.extend(counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")));
    let result = match &verdict.not_compared {
        Some(why) => format!("not compared: {why}"),
        None if parts.is_empty() => "equal".to_owned(),
        None if verdict.is_equal() => format!("equal ({})", parts.join(", ")),
        None => parts.join(", "),
    };
    format!("{:<24} {:>10} rows  {result}", verdict.table, verdict.rows)
}

/// Success only where nothing is wrong, in doubt, or not compared.
fn concluded(verdicts: &[TableVerdict]) -> Result<(), Exit> {
    let sum = |of: fn(&TableVerdict) -> u64| verdicts.iter().map(of).sum::<u64>();
    let wrong = sum(TableVerdict::wrong).saturating_sub(sum(|verdict| verdict.repaired));
    let skipped = verdicts.iter().filter(|verdict| verdict.not_compared.is_some()).count();
    let parts = [
        (wrong, "rows differ"),
        (sum(|verdict| verdict.doubtful), "differences are not confirmed"),
        (skipped as u64, "tables were not compared"),
    ];
    let text: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    match text.is_empty() {
        true => Ok(()),
        false => Err(Exit::failed(HelpCode::RowsDiffer, text.join(", "))),
    }
}

impl From<VerifyError> for Exit {
    fn from(error: VerifyError) -> Exit {
        match error {
            VerifyError::Refused(text) => Exit::Usage(text),
            VerifyError::Destination(failure) => Halt::from(failure).into(),
            VerifyError::DataDir(error) => error.into(),
            VerifyError::Failed(text) => Exit::Failed(text),
        }
    }
}
