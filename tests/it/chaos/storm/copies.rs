//! Copies of a destination's data, which are made and put back: those of a database, and those of
//! folders of files, of which EDS has the position in its data directory.

use std::path::{Path, PathBuf};

use eds::sandbox::export::{self, Choice};
use tempfile::TempDir;

use super::{ChaosScene, TOLD};
use crate::services::disks::within;

/// The data of one moment.
pub struct StormCopy {
    data: TempDir,
    /// EDS's own data directory, where that has the position.
    state: TempDir,
}

/// What of a copy is put back.
#[derive(Clone, Copy, PartialEq)]
enum PutBack {
    Data,
    DataAndState,
}

impl ChaosScene {
    /// The destination has the data of a copy again. The first time, and every third, a copy is
    /// made instead.
    pub(super) async fn restore(&mut self) -> bool {
        let Some(data) = self.target.data() else { return false };
        // Who has files open goes on writing those.
        if self.target.files().is_some() || self.rng.bool() {
            self.kill();
        }
        let copy = self.copy.take().filter(|_| self.rng.u32(..3) > 0);
        let is_put_back = copy.is_some();
        match copy {
            Some(copy) => self.put_back(copy, &data).await,
            None => self.make_copy(&data).await,
        }
        is_put_back
    }

    async fn make_copy(&mut self, data: &Path) {
        let [to_data, to_state] =
            [(); 2].map(|()| TempDir::new().unwrap_or_else(|e| panic!("{e}")));
        self.target.crash();
        self.copy_all(data, to_data.path());
        if let Some(state) = self.state() {
            self.copy_all(&state, to_state.path());
        }
        self.copy = Some(StormCopy { data: to_data, state: to_state });
        self.target.start_again().await;
    }

    /// Whoever puts back the position with the files gets everything again. Without it EDS goes on
    /// where it was, and the files that the copy lacks are gone.
    async fn put_back(&mut self, copy: StormCopy, data: &Path) {
        let what = match self.target.ids(&self.place()) {
            Some(_) if self.rng.bool() => PutBack::Data,
            _ => PutBack::DataAndState,
        };
        let before = self.target.ids(&self.place()).unwrap_or_default();
        self.target.crash();
        self.copy_all(copy.data.path(), data);
        match self.state() {
            Some(state) if what == PutBack::DataAndState => {
                self.copy_all(copy.state.path(), &state);
            }
            Some(_) => {
                let after = self.target.ids(&self.place()).unwrap_or_default();
                for (id, times) in before {
                    let gone = times.saturating_sub(after.get(&id).copied().unwrap_or(0));
                    *self.published.taken_away.entry(id).or_default() += gone;
                }
            }
            None => {}
        }
        self.copy = Some(copy);
        self.target.start_again().await;
    }

    /// EDS's data directory, where it has the position.
    fn state(&self) -> Option<PathBuf> {
        self.target.keeps_changes().then(|| self.eds.data_dir())
    }

    /// What is in `from` is all that is in `to`.
    fn copy_all(&mut self, from: &Path, to: &Path) {
        let disks = match self.target.files() {
            Some(_) => self.eds.disks.as_ref(),
            None => self.target.disks().map(|disks| &*disks),
        };
        let copy = "find \"$1\" -mindepth 1 -delete && cp -a \"$0\"/. \"$1\"";
        let copied = within(disks).args(["sh", "-c", copy]).args([from, to]).status();
        assert!(copied.is_ok_and(|status| status.success()), "{from:?} to {to:?}");
    }

    /// A copy is put back that is older than anything that the stream still has: users are told
    /// that an import is needed, and with one everything is there.
    pub async fn outlive_the_stream(&mut self) {
        let data = self.target.data().unwrap_or_else(|| panic!("nothing can be put back"));
        self.make_copy(&data).await;
        self.publish().await;
        self.calm();
        assert!(self.source.purge(&self.consumer).await, "nothing was acknowledged");
        let copy = self.copy.take().unwrap_or_else(|| panic!("no copy was made"));
        self.put_back(copy, &data).await;
        let log = self.calm();
        assert!(log.contains(TOLD) && log.contains("import"), "{log}");
        self.publish().await;
        self.import();
        self.publish().await;
        let log = self.calm();
        assert!(!log.contains(TOLD), "{log}");
        self.check_target().await;
    }

    /// Imports what the source has now.
    fn import(&mut self) {
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let schemas = dir.path().join("schemas.json");
        let export = dir.path().join("export");
        let shop = &mut self.published.shop;
        shop.begin_now();
        std::fs::write(&schemas, shop.schema_map()).unwrap_or_else(|e| panic!("{e}"));
        export::write(shop, &export, &Choice::default(), 10_000).unwrap_or_else(|e| panic!("{e}"));
        let said = self.eds.import(&export, &schemas);
        assert!(said.status.success(), "{said:?}");
    }
}
