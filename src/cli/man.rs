//! `eds man`: the manual page, made from the definition of the commands.

use clap::{Arg, ArgAction, Args, Command};

use super::exit::Exit;
use super::output::JsonFlag;

#[derive(Args)]
pub struct Man {}

impl Man {
    /// `command` is the whole program's.
    pub fn run(&self, mut command: Command) -> Result<(), Exit> {
        command.build();
        let mut printer = JsonFlag::default().printer("man");
        printer.line(page(&command).trim_end());
        printer.end(Ok(()))
    }
}

/// The page in the language of man(7).
fn page(command: &Command) -> String {
    let about = text_of(command);
    let mut out = format!(
        ".TH EDS 1 \"\" \"eds {}\" \"User Commands\"\n.SH NAME\neds \\- {}\n.SH SYNOPSIS\n.B eds\n\
         .RI [ OPTIONS ]\n.I COMMAND\n.RI [ ARGUMENTS ]\n.SH DESCRIPTION\n{}\n",
        env!("CARGO_PKG_VERSION"),
        escaped(&about),
        escaped(&about)
    );
    out += ".SH OPTIONS OF EVERY COMMAND\n";
    command.get_arguments().filter(|a| !a.is_hide_set()).for_each(|a| out += &argument(a));
    out += ".SH COMMANDS\n";
    for inner in shown(command) {
        section(inner, inner.get_name(), &mut out);
    }
    out += &format!(
        ".SH EXIT STATUS\n{EXIT_STATUS}.SH ENVIRONMENT\n{ENVIRONMENT}.SH FILES\n{FILES}.SH SEE \
         ALSO\n{SEE_ALSO}"
    );
    out
}

const EXIT_STATUS: &str = ".TP\n0\nSuccess.\n.TP\n1\nAn error, or an argument that is not \
known.\n.TP\n2\nA panic.\n.TP\n3\nArguments or a destination that cannot be used.\n.TP\n5\nNATS \
cannot be reached.\n";
const ENVIRONMENT: &str = "Every flag is a variable, too: \\fB\\-\\-nats\\-ca\\fR is \
\\fBEDS_NATS_CA\\fR. A flag goes before its variable, and a variable before the file.\n\
\\fBEDS_URL\\fR, \\fBEDS_API_KEY\\fR, \\fBEDS_SERVER\\fR and \\fBSM_APIKEY\\fR may be secret: \
with \\fB_FILE\\fR behind the name they name a file with the value.\n.br\n\\fBNO_COLOR\\fR \
switches colours off.\n";
const FILES: &str = ".TP\n.I ./data/config.toml\nThe server's enrolment and settings; \
\\fB\\-\\-data\\-dir\\fR names another directory.\n";
const SEE_ALSO: &str = "\\fBeds explain\\fR shows the page about the code that an error ends \
with, \\fBeds drivers\\fR the destinations.\n";

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help")
}

fn text_of(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// A command, and those below it.
fn section(command: &Command, path: &str, out: &mut String) {
    let positional: Vec<String> = command
        .get_positionals()
        .filter(|a| !a.is_hide_set())
        .map(|a| format!(" \\fI{}\\fR", escaped(a.get_id().as_str()).to_uppercase()))
        .collect();
    *out += &format!(
        ".SS \"eds {}\"\n.B eds {}{}\n.PP\n{}\n",
        escaped(path),
        escaped(path),
        positional.concat(),
        escaped(&text_of(command))
    );
    let own = |a: &&Arg| !a.is_hide_set() && !a.is_global_set() && a.get_id() != "help";
    command.get_arguments().filter(own).for_each(|a| *out += &argument(a));
    if let Some(examples) = command.get_after_help() {
        *out += &format!(".PP\n.nf\n{}\n.fi\n", escaped(examples.to_string().trim_end()));
    }
    for inner in shown(command) {
        section(inner, &format!("{path} {}", inner.get_name()), out);
    }
}

fn argument(argument: &Arg) -> String {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let name = match (argument.get_short(), argument.get_long()) {
        (Some(short), Some(long)) => format!("\\fB\\-{short}\\fR, \\fB\\-\\-{}\\fR", escaped(long)),
        (None, Some(long)) => format!("\\fB\\-\\-{}\\fR", escaped(long)),
        _ => format!("\\fI{}\\fR", escaped(argument.get_id().as_str()).to_uppercase()),
    };
    let takes = matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
        && argument.get_long().is_some();
    let value = match argument.get_value_names().and_then(|names| names.first()) {
        Some(value) if takes => format!(" \\fI{}\\fR", escaped(value)),
        _ => String::new(),
    };
    let default: Vec<String> =
        argument.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
    let default = match default.join(",") {
        none if none.is_empty() || !takes || argument.is_hide_default_value_set() => String::new(),
        some => format!(" Default: {}.", escaped(&some)),
    };
    format!(".TP\n{name}{value}\n{}.{default}\n", escaped(help.trim_end_matches('.')))
}

/// A text in which nothing is taken for a request, in characters that every troff reads.
fn escaped(text: &str) -> String {
    let plain = |c: char| match c {
        '\\' => "\\e".to_owned(),
        '-' => "\\-".to_owned(),
        c if c.is_ascii() => c.to_string(),
        c => format!("\\[u{:04X}]", u32::from(c)),
    };
    let text: String = text.chars().map(plain).collect();
    let lines = text.lines().map(|line| match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
