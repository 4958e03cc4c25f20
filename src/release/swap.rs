//! A new program in the place of this one, and back.

use std::path::{Path, PathBuf};

/// Two programs, of which the new one is in place; the old one is kept beside it until the new one
/// has shown itself.
#[derive(Debug)]
pub struct Swap {
    program: PathBuf,
    previous: PathBuf,
}

/// `eds` → `eds.previous`
fn beside(program: &Path, word: &str) -> PathBuf {
    let mut name = program.file_name().unwrap_or_default().to_owned();
    name.push(word);
    program.with_file_name(name)
}

impl Swap {
    /// Where the new program is to be written: in the same directory, so that it takes its place in
    /// one step.
    pub fn staging(program: &Path) -> PathBuf {
        beside(program, ".next")
    }

    /// Puts what is at `staging` in the program's place. There is a program there at any moment.
    pub fn make(program: &Path) -> std::io::Result<Swap> {
        let swap = Swap { program: program.to_owned(), previous: beside(program, ".previous") };
        let _ = std::fs::remove_file(&swap.previous);
        // Windows lets a running program be renamed and not be replaced.
        if cfg!(windows) {
            std::fs::rename(program, &swap.previous)?;
        } else {
            std::fs::hard_link(program, &swap.previous)
                .or_else(|_| std::fs::copy(program, &swap.previous).map(drop))?;
        }
        let swapped = std::fs::rename(Swap::staging(program), program);
        if swapped.is_err() && cfg!(windows) {
            std::fs::rename(&swap.previous, program)?;
        }
        swapped.map(|()| swap)
    }

    /// The old program is in its place again.
    pub fn roll_back(self) -> std::io::Result<()> {
        if cfg!(windows) {
            let failed = beside(&self.program, ".failed");
            let _ = std::fs::remove_file(&failed);
            std::fs::rename(&self.program, failed)?;
        }
        std::fs::rename(&self.previous, &self.program)
    }

    /// The new program stays. The old one is kept beside it, for a person who wants it back.
    pub fn keep(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let program = dir.path().join("eds");
        std::fs::write(&program, "old")?;
        std::fs::write(Swap::staging(&program), "new")?;
        let swap = Swap::make(&program)?;
        assert_eq!(std::fs::read_to_string(&program)?, "new");
        swap.roll_back()?;
        assert_eq!(std::fs::read_to_string(&program)?, "old");
        assert!(Swap::make(&program).is_err() && program.exists());
        Ok(())
    }
}
