//! mcpshim: governed access to MCP tools from the developer's own machine.
//!
//! The modules form four tiers; an import may only point to the same or a lower tier, and
//! edges do not import edges (`tests/it/tidy.rs` enforces it):
//!
//! - tier 0, values: [`ids`], [`limits`], [`clock`], [`secret`], [`text`];
//! - tier 1, pure (no tokio, files, clock, randomness, environment): [`wire`], [`registry`],
//!   [`identity`], [`policy`], [`pin`], [`catalog`], [`inspect`], [`audit`], [`batch`], [`session`];
//! - tier 2, edges: [`config`], [`vault`], [`login`], [`upstream`], [`fetch`], [`spool`], [`ship`], [`telemetry`],
//!   [`harden`], and [`files`], which all of them may know;
//! - tier 3, programs: [`serve`], `collector`, `admin`, [`report`].

pub mod clock;
pub mod ids;
pub mod limits;
pub mod secret;
pub mod text;

pub mod audit;
pub mod batch;
pub mod catalog;
pub mod identity;
pub mod inspect;
pub mod pin;
pub mod policy;
pub mod registry;
pub mod session;
pub mod wire;

pub mod config;
pub mod fetch;
pub mod files;
pub mod harden;
pub mod login;
pub mod ship;
pub mod spool;
pub mod telemetry;
pub mod upstream;
pub mod vault;

pub mod report;
pub mod serve;

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(feature = "collector")]
pub mod collector;
