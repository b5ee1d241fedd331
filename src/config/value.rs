//! From what a source holds to what a setting means. Each gives the value and how it is shown, or
//! what is wrong with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::sheet::Raw;
use super::{Proxy, owned};
use crate::report::Failure;

type Value<T> = Result<(T, String), String>;

pub(super) fn text(raw: &Raw) -> Result<&str, String> {
    match raw {
        Raw::Text(text) => Ok(text),
        Raw::Number(_) => Err("is a number, expected text in quotes".to_owned()),
        Raw::Other(kind) => Err(format!("is {kind}, expected text in quotes")),
    }
}

/// A number, also as text: some device management delivers nothing else.
pub(super) fn number(raw: &Raw) -> Value<u64> {
    let wrong = |shown: &str| format!("is {shown}, expected a number from 0 on");
    match raw {
        Raw::Number(digits) => match digits.parse() {
            Ok(number) => Ok((number, digits.clone())),
            Err(_) => Err(wrong(digits)),
        },
        Raw::Text(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(number) => Ok((number, digits.clone())),
            Err(_) => Err(wrong(&format!("{digits:?}"))),
        },
        Raw::Text(other) => Err(wrong(&format!("{other:?}"))),
        Raw::Other(kind) => Err(format!("is {kind}, expected a number")),
    }
}

pub(super) fn path(text: &str, home: Option<&Path>) -> Value<PathBuf> {
    let path = match (text.strip_prefix("~/"), home) {
        (Some(below), Some(home)) => home.join(below),
        (Some(_), None) => return Err("starts in a home directory, and there is none".to_owned()),
        (None, _) => PathBuf::from(text),
    };
    if path.is_absolute() {
        let shown = path.display().to_string();
        Ok((path, shown))
    } else {
        Err(format!("is {text:?}, expected an absolute path"))
    }
}

/// Directories to look for programs in.
pub(super) fn search(text: &str) -> Value<OsString> {
    let absolute = std::env::split_paths(text).all(|dir| dir.is_absolute());
    if absolute && !text.is_empty() && !text.contains('\0') {
        Ok((text.into(), text.to_owned()))
    } else {
        Err(format!("is {text:?}, expected absolute directories"))
    }
}

pub(super) fn proxy(text: &str) -> Value<Proxy> {
    let shown = text.to_owned();
    match text {
        "none" => return Ok((Proxy::Direct, shown)),
        "system" => return Ok((Proxy::System, shown)),
        _ => {}
    }
    let authority = text
        .strip_prefix("http://")
        .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    // what may be a password is not said again
    if authority.is_some_and(|rest| rest.contains('@')) {
        return Err(
            "holds a credential, which no setting may; expected http://host:port".to_owned(),
        );
    }
    let parts = authority.and_then(|rest| rest.rsplit_once(':'));
    let good = parts.is_some_and(|(host, port)| {
        let port = port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port != 0);
        port && is_host(host)
    });
    if good {
        let url = text.strip_suffix('/').unwrap_or(text);
        Ok((Proxy::Fixed(url.to_owned()), url.to_owned()))
    } else {
        Err(format!(
            "is {text:?}, expected none, system, or http://host:port"
        ))
    }
}

/// A name, an address, or an address of version 6 in brackets.
fn is_host(text: &str) -> bool {
    if let Some(inside) = text.strip_prefix('[') {
        return inside
            .strip_suffix(']')
            .is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain)
}

/// Names, domains (`.example.com`), addresses and networks (`10.0.0.0/8`).
pub(super) fn no_proxy(text: &str) -> Value<String> {
    let entries: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .collect();
    for entry in &entries {
        let (base, bits) = entry
            .split_once('/')
            .map_or((*entry, None), |(base, bits)| (base, Some(bits)));
        let good = match (base.parse::<std::net::IpAddr>(), bits) {
            (Ok(_), None) => true,
            (Ok(address), Some(bits)) => {
                let most = if address.is_ipv4() { 32 } else { 128 };
                bits.parse::<u8>().is_ok_and(|bits| bits <= most)
            }
            (Err(_), None) => is_host(base) && !base.starts_with('['),
            (Err(_), Some(_)) => false,
        };
        if !good {
            return Err(format!(
                "names {entry:?}, expected a name, a domain, an address or a network"
            ));
        }
    }
    let list = entries.join(",");
    Ok((list.clone(), list))
}

/// The pinned root: the metadata itself, or a file under the rules of the file that names it.
pub(super) fn root(text: &str, base: Option<&Path>, managed: bool) -> Value<Vec<u8>> {
    if text.trim_start().starts_with('{') {
        return Ok((text.as_bytes().to_vec(), "(the metadata itself)".to_owned()));
    }
    let (path, root) = named(Path::new(text), base, managed)?;
    Ok((root.into_bytes(), path.display().to_string()))
}

/// Certificate authorities: in PEM form, or files of that.
pub(super) fn authorities(
    text: &str,
    base: Option<&Path>,
    managed: bool,
) -> Value<(String, Vec<PathBuf>)> {
    if text.trim_start().starts_with("-----BEGIN ") {
        let count = certificates(text)?;
        return Ok((
            (text.to_owned(), Vec::new()),
            format!("(the PEM itself: {count} certificates)"),
        ));
    }
    let mut all = String::new();
    let mut files = Vec::new();
    for name in std::env::split_paths(text) {
        let (path, pem) = named(&name, base, managed)?;
        certificates(&pem).map_err(|why| format!("names {}, which {why}", path.display()))?;
        all.push_str(&pem);
        all.push('\n');
        files.push(path);
    }
    let shown: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    Ok(((all, files), shown.join(", ")))
}

/// How many certificates there are; all must be usable, for the one that is not may be the one
/// that is needed.
fn certificates(pem: &str) -> Result<usize, String> {
    let mut store = rustls::RootCertStore::empty();
    for found in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        found
            .map_err(|error| error.to_string())
            .and_then(|one| store.add(one).map_err(|error| error.to_string()))
            .map_err(|why| format!("holds a certificate that cannot be used: {why}"))?;
    }
    if store.is_empty() {
        return Err("holds no certificate in PEM form".to_owned());
    }
    Ok(store.len())
}

/// A file that a setting names: relative names start where the settings are, and the rules of
/// managed settings hold for what they name.
fn named(name: &Path, base: Option<&Path>, managed: bool) -> Result<(PathBuf, String), String> {
    let path = base.map_or_else(|| name.to_owned(), |base| base.join(name));
    if !path.is_absolute() {
        return Err(format!(
            "names {}, expected an absolute path",
            path.display()
        ));
    }
    let read = if managed {
        owned::read(&path).map_err(|error| {
            Failure::from_error(crate::report::Exit::Registry, &error).in_one_line()
        })
    } else {
        super::read_text(&path).map_err(|error| error.to_string())
    };
    match read {
        Ok(Some(text)) => Ok((path, text)),
        Ok(None) => Err(format!("names {}, which does not exist", path.display())),
        Err(error) => Err(format!(
            "names {}, which cannot be used: {error}",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_none_the_systems_or_one_address() {
        for good in [
            "none",
            "system",
            "http://p:3128",
            "http://10.0.0.1:1",
            "http://[::1]:8/",
        ] {
            proxy(good).unwrap();
        }
        for bad in [
            "",
            "p:3128",
            "None",
            "https://p:1",
            "socks5://p:1",
            "http://p",
            "http://p:0",
            "http://p:65536",
            "http://p:+1",
            "http://:1",
            "http://p:1/x",
            "http://p:1?x",
            "http://[::1:1",
            "http://p q:1",
        ] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
        let secret = proxy("http://ann:hunter2@p:1").unwrap_err();
        assert!(!secret.contains("hunter2"), "{secret}");
    }

    #[test]
    fn exceptions_are_names_and_networks() {
        let (list, _) = no_proxy(" a.example , .b.example,10.0.0.0/8,::1/128,192.0.2.7 ").unwrap();
        assert_eq!(list, "a.example,.b.example,10.0.0.0/8,::1/128,192.0.2.7");
        for bad in [
            "*",
            "http://a",
            "10.0.0.0/33",
            "a/8",
            "a b",
            "[::1]",
            "user@a",
        ] {
            assert!(no_proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_may_be_text() {
        for raw in [Raw::Number("7".to_owned()), Raw::Text("7".to_owned())] {
            assert_eq!(number(&raw).unwrap().0, 7);
        }
        for raw in ["", "-1", "+1", "7 ", "x", "99999999999999999999"] {
            assert!(number(&Raw::Text(raw.to_owned())).is_err(), "{raw:?}");
        }
        assert!(number(&Raw::Number("-1".to_owned())).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn programs_are_looked_for_in_absolute_directories() {
        search("/usr/bin:/opt/node/bin").unwrap();
        for bad in ["", "bin", "/usr/bin:", ".:/bin", "/bin:~/bin"] {
            assert!(search(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn authorities_are_certificates() {
        for bad in [
            "gone.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN nothing",
        ] {
            let base = tempfile::tempdir().unwrap();
            assert!(authorities(bad, Some(base.path()), false).is_err(), "{bad}");
        }
        // settings that come without a directory of their own name files from the root on
        assert!(authorities("ca.pem", None, true).is_err());
    }
}
