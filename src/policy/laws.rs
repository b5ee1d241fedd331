//! The laws of `decide`, against a naive oracle.
