//! Which proxy a client goes through. Never one from the environment.

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{NoProxy, Proxy};

use crate::config::{self, Network};

/// A proxy that the settings choose.
pub(super) struct Chosen {
    /// `http://host:port`.
    address: String,
    /// What is reached without it.
    except: String,
}

impl Chosen {
    /// For a client.
    pub(super) fn proxy(&self) -> Result<Proxy, String> {
        let proxy = Proxy::all(&self.address).map_err(|error| super::chain(&error))?;
        Ok(proxy.no_proxy(NoProxy::from_string(&self.except)))
    }

    /// For a [`super::Dialer`]: the same rules, by the part of the client that applies them.
    pub(super) fn matcher(&self) -> Result<Matcher, String> {
        let all = || Matcher::builder().all(self.address.as_str());
        // it takes an address that is none for no proxy
        let anywhere = Uri::from_static("https://anywhere.invalid");
        let chosen = all().build().intercept(&anywhere);
        if chosen.is_none_or(|proxy| proxy.uri().scheme_str() != Some("http")) {
            return Err("the address of the proxy is not http://host:port".to_owned());
        }
        Ok(all().no(self.except.as_str()).build())
    }
}

/// The proxy that the settings choose; none is none.
pub(super) fn chosen(network: &Network) -> Option<Chosen> {
    let (address, mut except) = match &network.proxy {
        config::Proxy::Direct => return None,
        config::Proxy::Fixed(address) => (address.clone(), network.except()),
        config::Proxy::System => match system() {
            Some(System { address, except }) => {
                let mut all = network.except();
                all.extend(except.iter().flat_map(|name| [",", name]));
                (address, all)
            }
            None => return None,
        },
    };
    // a name that ends in a dot is the same name
    except.push_str(",localhost.");
    Some(Chosen { address, except })
}

/// What the system's settings say.
struct System {
    /// `http://host:port`.
    address: String,
    /// What is reached without it.
    except: Vec<String>,
}

/// This system has no such setting.
#[cfg(not(any(windows, target_os = "macos")))]
fn system() -> Option<System> {
    None
}

/// The proxy for HTTPS in the network settings, else the one for HTTP. A script that chooses
/// (PAC) is not run.
#[cfg(target_os = "macos")]
fn system() -> Option<System> {
    use system_configuration::core_foundation::base::CFType;
    use system_configuration::core_foundation::dictionary::CFDictionary;
    use system_configuration::core_foundation::number::CFNumber;
    use system_configuration::core_foundation::string::CFString;

    fn text(all: &CFDictionary<CFString, CFType>, key: &'static str) -> Option<String> {
        let found = all.find(CFString::from_static_string(key))?;
        Some(found.downcast::<CFString>()?.to_string())
    }
    fn number(all: &CFDictionary<CFString, CFType>, key: &'static str) -> Option<i32> {
        let found = all.find(CFString::from_static_string(key))?;
        found.downcast::<CFNumber>()?.to_i32()
    }

    let store =
        system_configuration::dynamic_store::SCDynamicStoreBuilder::new("mcpshim").build()?;
    let all = store.get_proxies()?;
    let of = |enable, host, port| {
        if number(&all, enable) != Some(1) {
            return None;
        }
        let port = number(&all, port).unwrap_or(80);
        Some(format!("http://{}:{port}", text(&all, host)?))
    };
    let address = of("HTTPSEnable", "HTTPSProxy", "HTTPSPort")
        .or_else(|| of("HTTPEnable", "HTTPProxy", "HTTPPort"))?;
    Some(System {
        address,
        except: Vec::new(),
    })
}

/// What the control panel says: the machine's settings where a policy makes them count, otherwise
/// the user's. A script that chooses (PAC) is not run.
#[cfg(windows)]
fn system() -> Option<System> {
    use windows_registry::{CURRENT_USER, LOCAL_MACHINE};
    const SETTINGS: &str = r"SOFTWARE\Microsoft\Windows\CurrentVersion\Internet Settings";
    const POLICY: &str = r"SOFTWARE\Policies\Microsoft\Windows\CurrentVersion\Internet Settings";
    let of_machine = LOCAL_MACHINE
        .open(POLICY)
        .and_then(|key| key.get_u32("ProxySettingsPerUser"))
        .is_ok_and(|per_user| per_user == 0);
    let hive = if of_machine {
        LOCAL_MACHINE
    } else {
        CURRENT_USER
    };
    let key = hive.open(SETTINGS).ok()?;
    if key.get_u32("ProxyEnable").unwrap_or(0) == 0 {
        return None;
    }
    let server = key.get_string("ProxyServer").ok()?;
    let except = key.get_string("ProxyOverride").unwrap_or_default();
    Some(System {
        address: windows_address(&server)?,
        except: windows_except(&except),
    })
}

/// `host:port`, or one for each protocol: `http=host:port;https=host:port`.
#[cfg_attr(
    not(any(windows, test)),
    expect(dead_code, reason = "how Windows writes it")
)]
fn windows_address(server: &str) -> Option<String> {
    let part = |name: &str| {
        let mut parts = server.split(';').map(str::trim);
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    };
    let chosen = if server.contains('=') {
        part("https").or_else(|| part("http"))?
    } else {
        server.trim()
    };
    let chosen = chosen.strip_prefix("http://").unwrap_or(chosen);
    let bare = chosen.strip_suffix('/').unwrap_or(chosen);
    (!bare.is_empty() && !bare.contains("://")).then(|| format!("http://{bare}"))
}

/// Exceptions as Windows writes them: `*.example.com;10.*;<local>`.
#[cfg_attr(
    not(any(windows, test)),
    expect(dead_code, reason = "how Windows writes it")
)]
fn windows_except(list: &str) -> Vec<String> {
    let entries = list.split(';').map(str::trim).filter(|e| !e.is_empty());
    entries
        .filter_map(|entry| {
            // names without a dot; no list of ours can say that
            if entry == "<local>" {
                return None;
            }
            if let Some(domain) = entry.strip_prefix("*.") {
                return Some(format!(".{domain}"));
            }
            let stars = entry.split('.').filter(|part| *part == "*").count();
            if stars == 0 {
                return Some(entry.to_owned());
            }
            let kept: Vec<&str> = entry.split('.').take_while(|part| *part != "*").collect();
            let number = |part: &&str| part.parse::<u8>().is_ok();
            if !matches!(kept.len(), 1..=3) || !kept.iter().all(number) {
                return None;
            }
            let bits = kept.len() * 8;
            let missing = ".0".repeat(4 - kept.len());
            Some(format!("{}{missing}/{bits}", kept.join(".")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_none_is_not_passed_by() {
        let network = |address: &str| Network {
            proxy: config::Proxy::Fixed(address.to_owned()),
            no_proxy: "b.example".to_owned(),
            ..Network::default()
        };
        for bad in ["", "p p", "socks5://p:1", "https://p:1"] {
            assert!(chosen(&network(bad)).unwrap().matcher().is_err(), "{bad}");
        }
        let matcher = chosen(&network("http://p:1")).unwrap().matcher().unwrap();
        let through = |to| matcher.intercept(&Uri::from_static(to)).is_some();
        assert!(through("https://a.example") && through("https://10.0.0.1:8443/x"));
        for near in [
            "https://b.example",
            "https://c.b.example:8443",
            "https://localhost",
            "https://localhost.",
            "https://127.0.0.9",
            "https://[::1]:1",
        ] {
            assert!(!through(near), "{near}");
        }
    }

    #[test]
    fn what_windows_says_is_read() {
        let cases = [
            ("proxy:8080", Some("http://proxy:8080")),
            ("http://proxy:8080/", Some("http://proxy:8080")),
            ("http=a:1;https=b:2;ftp=c:3", Some("http://b:2")),
            ("http=a:1", Some("http://a:1")),
            ("socks=a:1", None),
            ("", None),
        ];
        for (said, meant) in cases {
            assert_eq!(windows_address(said).as_deref(), meant, "{said}");
        }
        assert_eq!(
            windows_except("*.a.example; 10.*;172.16.*;b.example;<local>;x*y"),
            [
                ".a.example",
                "10.0.0.0/8",
                "172.16.0.0/16",
                "b.example",
                "x*y"
            ]
        );
    }
}
