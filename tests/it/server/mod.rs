//! The server that HQ knows, as its owners run it: the real binary, real NATS, the sandbox as HQ.

mod consumer;
mod crashes;
mod desk;
mod faults;
mod life;
mod notices;
mod probes;
mod releases;
mod scripts;
mod sessions;
mod settings;
mod starts;
mod stops;
mod updates;
