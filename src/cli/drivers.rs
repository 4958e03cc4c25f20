//! `eds drivers`: the destinations of this build.

use clap::Args;

use super::exit::Exit;
use crate::destination::catalog::DRIVERS;

#[derive(Args)]
pub struct Drivers {
    /// Describe this destination
    name: Option<String>,
}

impl Drivers {
    pub fn run(&self) -> Result<(), Exit> {
        match &self.name {
            None => {
                DRIVERS.iter().for_each(|d| {
                    println!(
                        "{:<17} {:<22} {}\n{:40} {}",
                        d.scheme, d.title, d.description, "", d.example
                    );
                });
                Ok(())
            }
            Some(name) => explain(name),
        }
    }
}

fn explain(name: &str) -> Result<(), Exit> {
    let Some(driver) = DRIVERS.iter().find(|d| d.scheme == name || d.aliases.contains(&name))
    else {
        let known: Vec<&str> = DRIVERS.iter().map(|d| d.scheme).collect();
        return Err(Exit::Usage(format!(
            "there is no destination {name:?} in this build; there are: {}",
            known.join(", ")
        )));
    };
    println!(
        "{} ({})\n\n{}\n\n  {}\n\n{}",
        driver.title, driver.scheme, driver.description, driver.example, driver.help
    );
    if !driver.parameters.is_empty() {
        println!("\nOptions in the URL (?key=value&…):");
        driver.parameters.iter().for_each(|(key, what)| println!("  {key:<18} {what}"));
    }
    Ok(())
}
