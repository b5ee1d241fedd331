//! Merged lists and names: what one caller sees, and what a name means.
#![warn(missing_docs)]

/// What one caller sees of a registry.
#[derive(Debug, Default)]
pub struct Catalog {}
