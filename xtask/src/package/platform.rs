//! The platforms that releases are made for, by the names that each tool has for them.

use std::path::Path;
use std::process::Command;

use crate::output;

/// A system and a processor that EDS runs on.
#[derive(Debug)]
pub struct Platform {
    /// What Rust calls it.
    pub target: &'static str,
    /// What `uname` calls the system.
    system: &'static str,
    /// What releases call the processor.
    processor: &'static str,
    /// What Debian calls the processor.
    debian: Option<&'static str>,
    /// The C compiler for it on a machine of another kind.
    compiler: &'static str,
}

/// All of them.
pub const PLATFORMS: &[Platform] = &[
    Platform {
        target: "x86_64-unknown-linux-gnu",
        system: "Linux",
        processor: "x86_64",
        debian: Some("amd64"),
        compiler: "x86_64-linux-gnu-gcc",
    },
    Platform {
        target: "aarch64-unknown-linux-gnu",
        system: "Linux",
        processor: "arm64",
        debian: Some("arm64"),
        compiler: "aarch64-linux-gnu-gcc",
    },
    Platform {
        target: "x86_64-pc-windows-gnu",
        system: "Windows",
        processor: "x86_64",
        debian: None,
        compiler: "x86_64-w64-mingw32-gcc",
    },
    Platform {
        target: "x86_64-apple-darwin",
        system: "Darwin",
        processor: "x86_64",
        debian: None,
        compiler: "clang",
    },
    Platform {
        target: "aarch64-apple-darwin",
        system: "Darwin",
        processor: "arm64",
        debian: None,
        compiler: "clang",
    },
];

impl Platform {
    /// The platform that Rust calls `target`.
    pub fn of(target: &str) -> Result<&'static Platform, String> {
        PLATFORMS.iter().find(|platform| platform.target == target).ok_or_else(|| {
            let known: Vec<_> = PLATFORMS.iter().map(|platform| platform.target).collect();
            format!("{target} is no platform of EDS; there are: {}", known.join(", "))
        })
    }

    /// The name that its files begin with: `eds_Linux_x86_64`.
    pub fn name(&self) -> String {
        format!("eds_{}_{}", self.system, self.processor)
    }

    /// The archive that `eds download` and updates on it fetch.
    pub fn archive_name(&self) -> String {
        format!("{}.tar.gz", self.name())
    }

    /// The program in that archive.
    pub fn program_name(&self) -> &'static str {
        if self.system == "Windows" { "eds.exe" } else { "eds" }
    }

    /// What Debian calls it, where it is one of Debian's.
    pub fn debian_architecture(&self) -> Option<&'static str> {
        self.debian
    }

    /// Whether this machine can build for it; an error says what is missing.
    pub fn can_be_built(&self) -> Result<(), String> {
        let mut rustc = Command::new("rustc");
        rustc.args(["--print", "target-libdir", "--target", self.target]);
        let libraries = output(&mut rustc)?;
        if !Path::new(libraries.trim()).exists() {
            return Err(format!(
                "Rust's standard library for it is missing: rustup target add {}",
                self.target
            ));
        }
        if self.is_here() || works(self.compiler) {
            return Ok(());
        }
        Err(format!("the C compiler {} is missing", self.compiler))
    }

    /// Whether this machine is one.
    pub fn is_here(&self) -> bool {
        let system = match self.system {
            "Linux" => "linux",
            "Darwin" => "macos",
            _ => "windows",
        };
        let processor = if self.processor == "arm64" { "aarch64" } else { self.processor };
        (system, processor) == (std::env::consts::OS, std::env::consts::ARCH)
    }

    /// What Cargo has to be told to build for it here.
    pub fn build_environment(&self) -> Vec<(String, &'static str)> {
        if self.is_here() {
            return Vec::new();
        }
        let name = self.target.replace('-', "_");
        vec![
            (format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()), self.compiler),
            (format!("CC_{name}"), self.compiler),
        ]
    }
}

fn works(program: &str) -> bool {
    output(Command::new(program).arg("--version")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_uname() {
        let names: Vec<_> = PLATFORMS.iter().map(Platform::archive_name).collect();
        assert_eq!(
            names,
            [
                "eds_Linux_x86_64.tar.gz",
                "eds_Linux_arm64.tar.gz",
                "eds_Windows_x86_64.tar.gz",
                "eds_Darwin_x86_64.tar.gz",
                "eds_Darwin_arm64.tar.gz",
            ]
        );
        assert!(PLATFORMS.iter().filter(|platform| platform.is_here()).count() <= 1);
        assert!(Platform::of("sparc-sun-solaris").is_err_and(|e| e.contains("aarch64-apple")));
    }
}
