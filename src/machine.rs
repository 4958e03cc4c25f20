//! The machine that EDS runs on, as HQ wants to know it.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use serde_json::{Value, json};
use sysinfo::{MemoryRefreshKind, Networks, RefreshKind, System};

/// For whom the machine's id is made.
const APP: &[u8] = b"eds";

pub fn hostname() -> String {
    System::host_name().unwrap_or_else(|| "unknown".into())
}

/// A private address of this machine; loopback where it has none.
pub fn ip_address() -> IpAddr {
    let networks = Networks::new_with_refreshed_list();
    let mut addresses: Vec<IpAddr> = networks
        .values()
        .flat_map(|data| data.ip_networks().iter().map(|network| network.addr))
        .collect();
    addresses.sort();
    let private = |ip: &&IpAddr| matches!(ip, IpAddr::V4(v4) if v4.is_private());
    addresses.iter().find(private).copied().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The machine's id, keyed so that it says nothing beyond EDS: HMAC-SHA256 of the program's name,
/// in hexadecimal. A machine without an id is known by its name.
pub fn id() -> String {
    let secret = machine_uid::get().unwrap_or_else(|_| hostname());
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.trim().as_bytes());
    data_encoding::HEXLOWER.encode(aws_lc_rs::hmac::sign(&key, APP).as_ref())
}

/// The operating system and its processors. Units: seconds, Unix seconds.
pub fn os_info() -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let rust = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
    json!({
        "host": {
            "hostname": hostname(),
            "uptime": System::uptime(),
            "bootTime": System::boot_time(),
            "os": std::env::consts::OS,
            "platform": System::distribution_id(),
            "platformFamily": System::distribution_id_like().first().cloned().unwrap_or_default(),
            "platformVersion": System::os_version().unwrap_or_default(),
            "kernelVersion": System::kernel_version().unwrap_or_default(),
            "kernelArch": System::cpu_arch(),
            "hostId": id(),
        },
        "num_cpu": cpus,
        "go_version": rust,
        "rust_version": rust,
    })
}

/// Bytes; per cent.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryUse {
    pub total: u64,
    pub available: u64,
    pub used: u64,
    pub used_percent: f64,
    pub free: u64,
    pub swap_total: u64,
    pub swap_free: u64,
}

/// Processes that want to run, over 1, 5 and 15 minutes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    pub load1: f64,
    pub load5: f64,
    pub load15: f64,
}

pub fn memory() -> MemoryUse {
    let system = System::new_with_specifics(
        RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()),
    );
    let (total, used) = (system.total_memory(), system.used_memory());
    MemoryUse {
        total,
        available: system.available_memory(),
        used,
        used_percent: if total == 0 { 0.0 } else { used as f64 / total as f64 * 100.0 },
        free: system.free_memory(),
        swap_total: system.total_swap(),
        swap_free: system.free_swap(),
    }
}

pub fn load() -> Load {
    let load = System::load_average();
    Load { load1: load.one, load5: load.five, load15: load.fifteen }
}

/// Whether this is the inside of a container, whose program is replaced with its image and not by
/// itself.
pub fn is_container() -> bool {
    let marked = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|path| std::path::Path::new(path).exists());
    marked
        || ["KUBERNETES_SERVICE_HOST", "container"]
            .iter()
            .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_without_its_own_id() {
        let (id, own) = (id(), machine_uid::get().unwrap_or_default());
        assert!(id.len() == 64 && (own.is_empty() || !id.contains(own.trim())));
        let memory = memory();
        assert!(memory.total > 0 && memory.used_percent > 0.0 && memory.used_percent <= 100.0);
        assert!(os_info()["num_cpu"].as_u64().is_some_and(|n| n > 0));
    }
}
