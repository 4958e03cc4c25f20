//! `eds drivers`: the destinations of this build.

use clap::Args;
use serde_json::{Value, json};

use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use crate::destination::Driver;
use crate::destination::catalog::DRIVERS;
use crate::help::HelpCode;

#[derive(Args)]
pub struct Drivers {
    /// Describe this destination: its scheme or its title, such as "AWS S3"
    name: Option<String>,
    #[command(flatten)]
    output: JsonFlag,
}

impl Drivers {
    pub fn run(&self) -> Result<(), Exit> {
        let mut printer = self.output.printer("drivers");
        let done = match &self.name {
            None => {
                DRIVERS.iter().for_each(|d| printer.row(|| for_programs(d), || in_two_lines(d)));
                Ok(())
            }
            Some(name) => explain(name, &mut printer),
        };
        printer.end(done)
    }
}

fn in_two_lines(d: &Driver) -> String {
    format!("{:<17} {:<22} {}\n{:40} {}", d.scheme, d.title, d.description, "", d.example)
}

fn for_programs(driver: &Driver) -> Value {
    let options: Vec<Value> =
        driver.parameters.iter().map(|(name, what)| json!({"name": name, "what": what})).collect();
    json!({
        "scheme": driver.scheme, "title": driver.title, "description": driver.description,
        "example": driver.example, "help": driver.help, "options": options,
    })
}

fn explain(name: &str, printer: &mut Printer) -> Result<(), Exit> {
    let is_meant = |d: &&Driver| {
        let words = [d.scheme, d.title].into_iter().chain(d.aliases.iter().copied());
        words.into_iter().any(|word| word.eq_ignore_ascii_case(name.trim()))
    };
    let Some(driver) = DRIVERS.iter().find(is_meant) else {
        let known: Vec<&str> = DRIVERS.iter().map(|d| d.scheme).collect();
        return Err(Exit::usage(
            HelpCode::NotThere,
            format!(
                "there is no destination {name:?} in this build; there are: {}",
                known.join(", ")
            ),
        ));
    };
    printer.row(|| for_programs(driver), || page(driver));
    Ok(())
}

fn page(driver: &Driver) -> String {
    let mut page = format!(
        "{} ({})\n\n{}\n\n  {}\n\n{}",
        driver.title, driver.scheme, driver.description, driver.example, driver.help
    );
    if !driver.parameters.is_empty() {
        page += "\n\nOptions in the URL (?key=value&…):";
        driver.parameters.iter().for_each(|(key, what)| page += &format!("\n  {key:<18} {what}"));
    }
    if !driver.accepted.is_empty() {
        page += "\n\nAccepted for URLs of the Go program, without effect:";
        driver.accepted.iter().for_each(|(key, why)| page += &format!("\n  {key:<18} {why}"));
    }
    page
}
