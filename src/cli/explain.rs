//! `eds explain`: the page about the code that an error ends with.

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use crate::help::HelpCode;

#[derive(Args)]
pub struct Explain {
    /// The code: EDS-303, or 303 [default: list all codes]
    code: Option<String>,
    #[command(flatten)]
    output: JsonFlag,
}

impl Explain {
    pub fn run(&self) -> Result<(), Exit> {
        let mut printer = self.output.printer("explain");
        let done = self.tell(&mut printer);
        printer.end(done)
    }

    fn tell(&self, printer: &mut Printer) -> Result<(), Exit> {
        let codes = match &self.code {
            None => HelpCode::ALL.to_vec(),
            Some(name) => vec![HelpCode::named(name).ok_or_else(|| unknown(name))?],
        };
        for code in codes {
            let (name, title) = (code.as_str(), code.title());
            printer.row(
                || json!({"code": name, "title": title, "page": code.page()}),
                || match &self.code {
                    None => format!("{name}  {title}"),
                    Some(_) => code.page().trim_end().to_owned(),
                },
            );
        }
        Ok(())
    }
}

fn unknown(name: &str) -> Exit {
    let text = format!("there is no error code {name:?}; `eds explain` lists all");
    Exit::usage(HelpCode::NotThere, text)
}
