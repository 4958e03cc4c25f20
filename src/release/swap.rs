//! Puts a new program in the place of this one, and puts the old one back.

use std::path::{Path, PathBuf};

/// A new program that is in place, and the old one beside it under the name `<program>.previous`.
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
    /// Where to write the new program: beside the old one, so that one rename puts it in place.
    pub fn staging(program: &Path) -> PathBuf {
        beside(program, ".next")
    }

    /// Puts the program at [`Swap::staging`] in the place of `program`. At every moment there is a
    /// program in that place, except on Windows.
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

    /// Puts the old program back. On Windows the new one stays beside it as `<program>.failed`,
    /// because it may be running.
    pub fn roll_back(self) -> std::io::Result<()> {
        if cfg!(windows) {
            let failed = beside(&self.program, ".failed");
            let _ = std::fs::remove_file(&failed);
            std::fs::rename(&self.program, failed)?;
        }
        std::fs::rename(&self.previous, &self.program)
    }

    /// The new program stays. The old one stays beside it, so that a person can put it back.
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
