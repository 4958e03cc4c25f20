//! What the program ends with, as a worker too: its supervisor reads the reason from it.

/// It failed.
pub const FAILED: u8 = 1;
/// It panicked.
pub const PANICKED: u8 = 2;
/// What the user gave, or the destination, cannot be used.
pub const UNUSABLE: u8 = 3;
/// NATS cannot be reached, or has cut the program off.
pub const DISCONNECTED: u8 = 5;
