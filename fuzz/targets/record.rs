//! Frames of the record, as they lie in a spool after a crash or in a collector after an attack.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpshim::audit::fuzz_frames(bytes));
