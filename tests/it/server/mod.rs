//! The server that HQ knows, as its owners run it: the real binary, real NATS, the sandbox as HQ.

mod consumer;
mod crashes;
mod life;
mod notices;
mod releases;
mod scripts;
mod sessions;
