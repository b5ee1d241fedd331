//! What a web server hands out as a registry, and what lies in the state file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpshim::registry::fuzz_metadata(bytes));
