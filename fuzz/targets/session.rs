//! Any interleaving of what can happen to a session keeps its laws.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mcpshim::session::fuzz::run(bytes));
