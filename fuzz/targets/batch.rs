//! What a device sends to the collector.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpshim::batch::fuzz_batch(bytes));
