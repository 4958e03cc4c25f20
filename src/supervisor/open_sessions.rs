//! The sessions that this server has begun at HQ and not ended: HQ allows one at a time, so that a
//! session whose end HQ never heard of stands in the way of the next. They are kept in a file,
//! because a server may be killed.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::hq::Hq;
use crate::hq::session::{self as hq, Uploads};
use crate::private;

/// The file in the data directory.
const FILE_NAME: &str = "sessions.json";
/// Of more sessions than these the oldest are forgotten.
const OPEN_MAX: usize = 16;

/// A session that HQ takes for open.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct OpenSession {
    id: String,
    /// Its worker ended in an unexpected way, or its supervisor did.
    errored: bool,
}

/// What the file holds.
#[derive(Default, Serialize, Deserialize)]
struct SessionsFile {
    /// Of which server the sessions are.
    server_id: String,
    open: Vec<OpenSession>,
}

#[derive(Default)]
struct OpenBook {
    file: SessionsFile,
    /// HQ has opened a session for this server at some time.
    had_one: bool,
    /// Of sessions that HQ has ended, where it wants their files.
    uploads: HashMap<String, Uploads>,
}

/// The sessions that HQ takes for open. Clones mean the same.
#[derive(Clone)]
pub struct OpenSessions {
    path: PathBuf,
    book: Arc<Mutex<OpenBook>>,
}

impl OpenSessions {
    /// Reads what an earlier run of this server has left open; a file of another server, or one
    /// that cannot be read, says nothing.
    pub fn read(data_dir: &Path, server_id: &str) -> OpenSessions {
        let path = data_dir.join(FILE_NAME);
        let text = std::fs::read(&path).unwrap_or_default();
        let known = serde_json::from_slice::<SessionsFile>(&text)
            .ok()
            .filter(|file| file.server_id == server_id);
        let had_one = known.is_some();
        let mut file = known.unwrap_or_default();
        file.server_id = server_id.to_owned();
        // Their supervisor did not come to end them.
        file.open.iter_mut().for_each(|session| session.errored = true);
        let book = OpenBook { file, had_one, uploads: HashMap::new() };
        OpenSessions { path, book: Arc::new(Mutex::new(book)) }
    }

    fn book(&self) -> MutexGuard<'_, OpenBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether HQ has ever opened a session for this server.
    pub fn had_one(&self) -> bool {
        self.book().had_one
    }

    /// The ids of all, oldest first.
    pub fn ids(&self) -> Vec<String> {
        self.book().file.open.iter().map(|session| session.id.clone()).collect()
    }

    /// HQ has opened session `id` for server `server_id`. Those of another identity, which this
    /// server had before, are none that stand in this one's way.
    pub fn begun(&self, server_id: &str, id: &str) {
        let mut book = self.book();
        book.had_one = true;
        if book.file.server_id != server_id {
            book.file = SessionsFile { server_id: server_id.to_owned(), open: Vec::new() };
        }
        book.file.open.push(OpenSession { id: id.to_owned(), errored: false });
        let over = book.file.open.len().saturating_sub(OPEN_MAX);
        book.file.open.drain(..over);
        self.write(&book.file);
    }

    /// The end of session `id` will be one in error.
    pub fn errored(&self, id: &str) {
        let mut book = self.book();
        book.file.open.iter_mut().filter(|open| open.id == id).for_each(|open| open.errored = true);
    }

    /// Ends session `id` at HQ, once; where HQ wants its files. An error if HQ did not hear of it.
    pub async fn end(&self, hq: &Hq, id: &str) -> Result<Uploads, String> {
        let (errored, done) = {
            let book = self.book();
            let errored = book.file.open.iter().any(|open| open.id == id && open.errored);
            (errored, book.uploads.get(id).cloned())
        };
        if let Some(uploads) = done {
            return Ok(uploads);
        }
        let uploads = match hq::end(hq, id, errored).await {
            Ok(uploads) => uploads,
            Err(e) if e.means_no_session() => Uploads::default(),
            Err(e) => return Err(e.to_string()),
        };
        let mut book = self.book();
        book.file.open.retain(|open| open.id != id);
        book.uploads.insert(id.to_owned(), uploads.clone());
        self.write(&book.file);
        Ok(uploads)
    }

    /// Ends all at HQ. Returns how many that were.
    pub async fn end_all(&self, hq: &Hq) -> usize {
        let mut ended = 0;
        for id in self.ids() {
            match self.end(hq, &id).await {
                Ok(_) => ended += 1,
                Err(why) => warn!("session {id} could not be ended: {why}"),
            }
        }
        ended
    }

    /// Session `id` is done with: its files are where they belong.
    pub fn forget(&self, id: &str) {
        self.book().uploads.remove(id);
    }

    /// A full disk must not keep a server from streaming; the file is only a help.
    fn write(&self, file: &SessionsFile) {
        let unfinished = self.path.with_extension("json.new");
        let _ = std::fs::remove_file(&unfinished);
        let written = serde_json::to_vec(file).map_err(std::io::Error::other).and_then(|text| {
            private::create_new(&unfinished)?.write_all(&text)?;
            std::fs::rename(&unfinished, &self.path)
        });
        if let Err(e) = written {
            debug!("{} cannot be written: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_open_is_known_to_the_next_run_of_the_same_server() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let sessions = OpenSessions::read(dir.path(), "s");
        assert!(!sessions.had_one());
        sessions.begun("s", "one");
        sessions.begun("s", "two");
        let again = OpenSessions::read(dir.path(), "s");
        assert!(again.had_one() && again.ids() == ["one", "two"]);
        assert!(again.book().file.open.iter().all(|session| session.errored));
        let other = OpenSessions::read(dir.path(), "t");
        assert!(!other.had_one() && other.ids().is_empty());
        (0..OPEN_MAX).for_each(|n| sessions.begun("s", &format!("more{n}")));
        assert!(sessions.ids().len() == OPEN_MAX && !sessions.ids().contains(&"two".to_owned()));
        sessions.begun("t", "of another identity");
        let enrolled_again = OpenSessions::read(dir.path(), "t");
        assert!(enrolled_again.had_one() && enrolled_again.ids() == ["of another identity"]);
        std::fs::write(dir.path().join(FILE_NAME), "{")?;
        assert!(!OpenSessions::read(dir.path(), "s").had_one());
        Ok(())
    }
}
