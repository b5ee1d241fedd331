//! Surface digests over a canonical form, comparison of live and pinned surfaces, name assignment.
#![warn(missing_docs)]
