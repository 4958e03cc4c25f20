//! Readings about the machine that EDS runs on, in the form that HQ expects.

use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;
use serde_json::{Value, json};
use sysinfo::{MemoryRefreshKind, Networks, ProcessRefreshKind, RefreshKind, System};

/// The message whose HMAC is the machine's id.
const APP: &[u8] = b"eds";

/// The machine's name in the network; `unknown` if it has none.
pub fn hostname() -> String {
    System::host_name().unwrap_or_else(|| "unknown".into())
}

/// The lowest private IPv4 address of this machine; loopback if it has none.
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

/// The machine's id for EDS: HMAC-SHA256 of the program's name, keyed by the operating system's id,
/// in hexadecimal. That id itself is confidential (machine-id(5)) and stays here. A machine without
/// one is known by its host name.
pub fn id() -> String {
    let secret = machine_uid::get().unwrap_or_else(|_| hostname());
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.trim().as_bytes());
    data_encoding::HEXLOWER.encode(aws_lc_rs::hmac::sign(&key, APP).as_ref())
}

/// The operating system and its processors, by HQ's names: `uptime` in seconds, `bootTime` in Unix
/// seconds.
pub fn os_info() -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let rust = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));
    let (virtualization, role) = virtualization();
    json!({
        "host": {
            "hostname": hostname(),
            "uptime": System::uptime(),
            "bootTime": System::boot_time(),
            "procs": processes(),
            "os": std::env::consts::OS,
            "platform": System::distribution_id(),
            "platformFamily": System::distribution_id_like().first().cloned().unwrap_or_default(),
            "platformVersion": System::os_version().unwrap_or_default(),
            "kernelVersion": System::kernel_version().unwrap_or_default(),
            "kernelArch": System::cpu_arch(),
            "virtualizationSystem": virtualization,
            "virtualizationRole": role,
            "hostId": id(),
        },
        "num_cpu": cpus,
        "go_version": rust,
        "rust_version": rust,
    })
}

/// How many processes run on the machine, or in the container.
fn processes() -> usize {
    let kind = RefreshKind::nothing().with_processes(ProcessRefreshKind::nothing());
    System::new_with_specifics(kind).processes().len()
}

/// What the machine is a guest of, with its role, by the names of gopsutil; empty on bare metal,
/// and where nobody says.
fn virtualization() -> (&'static str, &'static str) {
    if is_container() {
        return ("docker", "guest");
    }
    let read = |name: &str| std::fs::read_to_string(format!("/sys/class/dmi/id/{name}"));
    let maker = read("sys_vendor").unwrap_or_default() + &read("product_name").unwrap_or_default();
    hypervisor(&maker).map_or(("", ""), |system| (system, "guest"))
}

/// The hypervisor whose machines are made by `maker`.
fn hypervisor(maker: &str) -> Option<&'static str> {
    let makers = [
        ("QEMU", "kvm"),
        ("KVM", "kvm"),
        ("Google", "kvm"),
        ("Amazon EC2", "kvm"),
        ("VMware", "vmware"),
        ("VirtualBox", "vbox"),
        ("Xen", "xen"),
        ("Virtual Machine", "hyperv"),
    ];
    makers.iter().find(|(name, _)| maker.contains(name)).map(|(_, system)| *system)
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryUse {
    /// All of it.
    pub total: u64,
    /// What programs can get without swapping.
    pub available: u64,
    /// What programs hold.
    pub used: u64,
    /// `used` of `total`, 0 to 100.
    pub used_percent: f64,
    /// What nothing uses, not even a cache.
    pub free: u64,
    /// All swap space.
    pub swap_total: u64,
    /// Unused swap space.
    pub swap_free: u64,
}

/// Load averages: processes that run or want to, on average. Zero on Windows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// Over 1 minute.
    pub load1: f64,
    /// Over 5 minutes.
    pub load5: f64,
    /// Over 15 minutes.
    pub load15: f64,
}

/// Reads the memory's state.
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

/// Reads the load averages.
pub fn load() -> Load {
    let load = System::load_average();
    Load { load1: load.one, load5: load.five, load15: load.fifteen }
}

/// Whether EDS runs in a container: there a new image replaces the program, and not EDS itself.
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
        let info = os_info();
        assert!(info["num_cpu"].as_u64().is_some_and(|n| n > 0));
        assert!(info["host"]["procs"].as_u64().is_some_and(|n| n > 0));
        assert_eq!(hypervisor("VMware, Inc.VMware7,1"), Some("vmware"));
        assert_eq!(hypervisor("Dell Inc.PowerEdge R640"), None);
    }
}
