//! What the operating system knows of this process, under Prometheus' usual names.

use std::sync::LazyLock;

use super::exposition::Family;
use crate::clock::now;

/// Linux counts processor time in hundredths of a second, whatever the machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// When this process was asked first: it begins with that.
static STARTED: LazyLock<f64> = LazyLock::new(|| now().as_secs_f64());

/// The process begins now.
pub fn begin() {
    LazyLock::force(&STARTED);
}

/// The families, each name behind `prefix`. What the system does not tell is absent.
pub fn families(prefix: &str) -> Vec<Family> {
    let status = read("status");
    let bytes = |name: &str| number_after(&status, name).map(|kib| kib * 1024.0);
    let name = |rest: &str| format!("{prefix}{rest}");
    vec![
        Family::counter(&name("cpu_seconds_total"), "Processor time, of user and system")
            .with_known(cpu_seconds(&read("stat"))),
        Family::gauge(&name("resident_memory_bytes"), "Memory in use").with_known(bytes("VmRSS:")),
        Family::gauge(&name("virtual_memory_bytes"), "Memory that is mapped")
            .with_known(bytes("VmSize:")),
        Family::gauge(&name("threads"), "Threads").with_known(number_after(&status, "Threads:")),
        Family::gauge(&name("open_fds"), "Open files").with_known(open_files()),
        Family::gauge(&name("max_fds"), "Open files that are allowed")
            .with_known(number_after(&read("limits"), "Max open files")),
        Family::gauge(&name("start_time_seconds"), "When it began, Unix seconds")
            .with(&[], *STARTED),
    ]
}

fn read(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default()
}

fn open_files() -> Option<f64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64)
}

fn number_after(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// The name of the program may contain anything, and stands in parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok());
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_tells_is_read() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1 2 3\n";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
        let status = "Name:\teds\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t5\n";
        assert_eq!(number_after(status, "VmRSS:"), Some(1024.0));
        let limits = "Max open files            1024                 524288               files\n";
        assert_eq!(number_after(limits, "Max open files"), Some(1024.0));
        assert_eq!(number_after(limits, "Max locked"), None);
    }
}
