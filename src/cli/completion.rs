//! `eds completion SHELL`: a script by which the shell completes the words of `eds`, made from the
//! definition of its commands.

use clap::{Args, Command, ValueEnum};

use super::exit::Exit;
use super::output::JsonFlag;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Args)]
pub struct Completion {
    /// Shell that the script is for
    shell: Shell,
}

/// A command with the words that may follow it.
struct CommandWords {
    /// `eds consumer show`
    path: String,
    commands: Vec<String>,
    flags: Vec<String>,
}

fn collect(command: &Command, path: &str, into: &mut Vec<CommandWords>) {
    let shown: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    let flags = command.get_arguments().filter(|argument| !argument.is_hide_set());
    into.push(CommandWords {
        path: path.to_owned(),
        commands: shown.iter().map(|command| command.get_name().to_owned()).collect(),
        flags: flags.filter_map(|flag| flag.get_long().map(str::to_owned)).collect(),
    });
    for inner in shown {
        collect(inner, &format!("{path} {}", inner.get_name()), into);
    }
}

impl Completion {
    /// `command` is the whole program's.
    pub fn run(&self, mut command: Command) -> Result<(), Exit> {
        command.build();
        let mut all = Vec::new();
        collect(&command, command.get_name(), &mut all);
        let script = match self.shell {
            Shell::Bash => bash(&all),
            Shell::Zsh => {
                format!("#compdef eds\nautoload -U +X bashcompinit\nbashcompinit\n{}", bash(&all))
            }
            Shell::Fish => fish(&all),
        };
        let mut printer = JsonFlag::default().printer("completion");
        printer.line(script.trim_end());
        printer.end(Ok(()))
    }
}

/// Follows the words on the line from command to command, and offers what may come next.
fn bash(all: &[CommandWords]) -> String {
    let mut paths: Vec<String> =
        all.iter().skip(1).map(|words| format!("\"{}\"", words.path)).collect();
    paths.sort();
    let mut out = String::from("_eds() {\n  local cur=${COMP_WORDS[COMP_CWORD]} path=eds word\n");
    out += "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n";
    out +=
        &format!("    case \"$path $word\" in {}) path=\"$path $word\";; esac\n", paths.join("|"));
    out += "  done\n  case \"$path\" in\n";
    for CommandWords { path, commands, flags } in all {
        let flags = flags.iter().map(|flag| format!("--{flag}"));
        let words: Vec<String> = commands.iter().cloned().chain(flags).collect();
        let words = words.join(" ");
        out += &format!("    \"{path}\") COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\"));;\n");
    }
    out + "  esac\n}\ncomplete -o default -F _eds eds\n"
}

fn fish(all: &[CommandWords]) -> String {
    let mut out = String::from("complete -c eds -f\n");
    for CommandWords { path, commands, flags } in all {
        let seen: Vec<String> = path
            .split(' ')
            .skip(1)
            .map(|word| format!("__fish_seen_subcommand_from {word}"))
            .collect();
        let at = match (seen.is_empty(), commands.is_empty()) {
            (true, _) => "__fish_use_subcommand".to_owned(),
            (_, true) => seen.join("; and "),
            (..) => {
                let inner = commands.join(" ");
                format!("{}; and not __fish_seen_subcommand_from {inner}", seen.join("; and "))
            }
        };
        for command in commands {
            out += &format!("complete -c eds -n '{at}' -a {command}\n");
        }
        for flag in flags {
            out += &format!("complete -c eds -n '{at}' -l {flag}\n");
        }
    }
    out
}
