//! Disks of their own that several programs see, one after the other, and that can become full
//! while these run.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use super::small_disks_can_be_made;

/// Mounts a disk on each of its arguments but the first, which is their owner, then does as it is
/// told: a full disk has as many pages as are used.
const HOLDER: &str = r#"
user=$0
for disk; do
  mount -t tmpfs -o "size=8g,mode=0700,uid=$(id -u "$user"),gid=$(id -g "$user")" tmpfs "$disk" ||
    exit 1
done
echo made
while read -r word disk; do
  done=no
  for attempt in 1 2 3 4 5 6 7 8; do
    size=8g
    test "$word" = full && size=$(df -k --output=used "$disk" | tail -1 | tr -d ' ')k
    # Something was written meanwhile, or nothing was written ever.
    test "$size" = 0k && size=4k
    mount -o "remount,size=$size" "$disk" 2>/dev/null && done=yes && break
  done
  echo $done
done
"#;

/// Disks on directories, which only those see who enter.
pub struct Disks {
    holder: Child,
    said: BufReader<ChildStdout>,
}

impl Disks {
    /// One on each of these directories, which `user` owns; `None` where the system lets nobody
    /// make them.
    pub fn on(directories: &[&Path], user: &str) -> Option<Disks> {
        if !small_disks_can_be_made() {
            println!("disks cannot be made here: no disk becomes full");
            return None;
        }
        let mut holder = Command::new("unshare")
            .args(["-m", "sh", "-c", HOLDER, user])
            .args(directories)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("unshare: {e}"));
        let out = holder.stdout.take().unwrap_or_else(|| panic!("it says nothing"));
        let mut disks = Disks { holder, said: BufReader::new(out) };
        assert_eq!(disks.answer(), "made");
        Some(disks)
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap_or_else(|e| panic!("{e}"));
        line.trim().to_owned()
    }

    fn tell(&mut self, word: &str, disk: &Path) -> bool {
        let line = format!("{word} {}\n", disk.display());
        let told = self.holder.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes()));
        assert!(told.is_some_and(|told| told.is_ok()), "the disks are gone");
        self.answer() == "yes"
    }

    /// Nothing more fits on it. Who writes all the time may prevent that: whether it is so.
    pub fn fill(&mut self, disk: &Path) -> bool {
        self.tell("full", disk)
    }

    /// There is room again.
    pub fn make_room(&mut self, disk: &Path) {
        assert!(self.tell("room", disk), "{} stays full", disk.display());
    }

    /// Runs what follows where the disks are seen.
    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "-m", "--"]).current_dir("/");
        command
    }

    /// Where others see a directory of the disks.
    pub fn outside(&self, directory: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), directory.display()))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Runs what follows where these disks are seen, if there are any.
pub fn within(disks: Option<&Disks>) -> Command {
    disks.map_or_else(super::plain, Disks::enter)
}
