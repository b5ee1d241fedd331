//! Signing in: OpenID Connect in the browser, renewal, signing out.
#![warn(missing_docs)]
