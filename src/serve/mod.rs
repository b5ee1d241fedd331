//! serve
pub mod assemble;
