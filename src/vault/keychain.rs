//! The operating system's keychain, asked with patience that ends.
//!
//! A keychain may show a dialogue, wait for a daemon that never comes up, or not exist. Every
//! call runs on a thread of its own; one that does not come back in time is left behind, and
//! nobody waits for it. The crates behind this are those of `keyring` 4, used one by one: its own
//! front keeps the first failure for the life of the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use data_encoding::BASE64;
use keyring_core::api::CredentialStore;
use zeroize::Zeroizing;

use super::sealed::MasterKey;
use crate::config::Config;

/// What stands before the key in the keychain: what it is and its format.
const TITLE: &str = "mcpshim-vault-key-1:";
/// Calls left behind that are tolerated before the keychain is not asked any more.
const LEFT_BEHIND: usize = 4;
/// Calls under way, those left behind included.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Why the keychain did not answer.
#[derive(Debug, thiserror::Error)]
pub enum KeychainError {
    /// There is no session bus, so no keychain.
    #[error("there is no D-Bus session bus, so no keychain")]
    NoBus,
    /// There is a bus, and no keychain on it.
    #[error("no keychain runs here: nobody provides org.freedesktop.secrets")]
    NoService,
    /// This platform has none that we know.
    #[error("this platform has no keychain")]
    Unsupported,
    /// On a managed machine the environment does not choose the keychain.
    #[error("{0} names another session bus than this user's own, and this machine is managed")]
    OtherBus(&'static str),
    /// A keychain runs, and nobody has made the one that secrets go into: there is nothing to
    /// unlock.
    #[error("a keychain runs here, but none was made in it yet")]
    NeverMade,
    /// Locked, and nobody unlocked it.
    #[error("the keychain is locked")]
    Locked,
    /// It asked, and the answer was no.
    #[error("the keychain refused")]
    Denied(#[source] Option<Box<dyn std::error::Error + Send + Sync>>),
    /// It did not come back.
    #[error("the keychain did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// What it holds under our name is not ours.
    #[error("what the keychain holds under {service:?} is not a key of mcpshim")]
    Strange {
        /// Our name in the keychain.
        service: String,
    },
    /// Anything else, in its own words.
    #[error("the keychain failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl KeychainError {
    /// Whether there is no keychain at all, or one that holds nothing yet. Only then may the key lie elsewhere.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::NeverMade | Self::NoBus | Self::NoService | Self::Unsupported => true,
            Self::Denied(_)
            | Self::Failed(_)
            | Self::Locked
            | Self::OtherBus(_)
            | Self::Silent(_)
            | Self::Strange { .. } => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        let elsewhere =
            "or, where a machine cannot have one, ask for `secret_stores` in the registry";
        match self {
            Self::NoBus => format!(
                "run it inside a desktop session, or start one with `dbus-run-session` and a keychain, {elsewhere}"
            ),
            Self::NeverMade => format!(
                "make one (sign in to the desktop once, or make one named \"Login\" in \
                 `seahorse`, or start gnome-keyring with a password: `gnome-keyring-daemon \
                 --replace --unlock`), {elsewhere}"
            ),
            Self::NoService => {
                format!(
                    "install and start a keychain such as gnome-keyring or KWallet, {elsewhere}"
                )
            }
            Self::Unsupported => format!("use a platform with a keychain, {elsewhere}"),
            Self::OtherBus(variable) => format!("unset {variable} and try again"),
            Self::Locked => "unlock the keychain (sign in to the desktop, answer its dialogue, or \
                             open it in its own program) and try again"
                .to_owned(),
            Self::Denied(_) => "try again and allow mcpshim to use the keychain".to_owned(),
            Self::Silent(_) => "look for a dialogue of the keychain that waits for an answer; if \
                                there is none, restart the keychain (without XDG_RUNTIME_DIR \
                                gnome-keyring never answers) and try again"
                .to_owned(),
            Self::Strange { service } => {
                format!("remove the entry {service:?} from the keychain, if nobody needs it")
            }
            Self::Failed(_) => {
                "check the keychain with its own program; `mcpshim doctor` tells more".to_owned()
            }
        }
    }
}

/// Our place in the keychain.
#[derive(Debug, Clone)]
pub(super) struct Keychain {
    service: String,
    user: String,
    patience: Duration,
    /// The variable that points a managed machine at another bus.
    other_bus: Option<&'static str>,
}

impl Keychain {
    pub(super) fn of(config: &Config, patience: Duration) -> Self {
        Self {
            service: format!("mcpshim/{}", config.org),
            // keychains travel with home directories: machines do not share a key
            user: config.machine_id.clone(),
            patience,
            other_bus: config.managed.then(crate::config::other_bus).flatten(),
        }
    }

    /// Our key, if there is one.
    pub(super) fn get(&self) -> Result<Option<MasterKey>, KeychainError> {
        let (service, user) = (self.service.clone(), self.user.clone());
        let found = self.ask(
            move |store| match entry(store, &service, &user)?.get_secret() {
                Ok(secret) => Ok(Some(Zeroizing::new(secret))),
                // what is not there can be kept, where there is something to keep it in
                Err(keyring_core::Error::NoEntry) => platform::is_made().map(|()| None),
                Err(error) => Err(error),
            },
        )?;
        found
            .map(|text| {
                parse(&text).ok_or_else(|| KeychainError::Strange {
                    service: self.service.clone(),
                })
            })
            .transpose()
    }

    /// Keeps our key.
    pub(super) fn set(&self, key: &MasterKey) -> Result<(), KeychainError> {
        let (service, user) = (self.service.clone(), self.user.clone());
        let text = Zeroizing::new(format!("{TITLE}{}", BASE64.encode(key.expose())));
        self.ask(move |store| entry(store, &service, &user)?.set_secret(text.as_bytes()))
    }

    /// Takes our key out; one that is not there is no error.
    pub(super) fn forget(&self) -> Result<(), KeychainError> {
        let (service, user) = (self.service.clone(), self.user.clone());
        self.ask(
            move |store| match entry(store, &service, &user)?.delete_credential() {
                Ok(()) | Err(keyring_core::Error::NoEntry) => Ok(()),
                Err(error) => Err(error),
            },
        )
    }

    /// Runs one conversation on a thread of its own.
    fn ask<T: Send + 'static>(
        &self,
        conversation: impl FnOnce(&CredentialStore) -> keyring_core::Result<T> + Send + 'static,
    ) -> Result<T, KeychainError> {
        if let Some(variable) = self.other_bus {
            return Err(KeychainError::OtherBus(variable));
        }
        if UNDER_WAY.load(Ordering::Relaxed) > LEFT_BEHIND {
            return Err(KeychainError::Silent(self.patience));
        }
        let (answer, answered) = mpsc::channel();
        UNDER_WAY.fetch_add(1, Ordering::Relaxed);
        let spawned = std::thread::Builder::new()
            .name("keychain".to_owned())
            .spawn(move || {
                let said = platform::store().and_then(|store| conversation(&*store));
                UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
                // nobody listens any more: the answer is wiped with its last owner
                answer.send(said).unwrap_or_default();
            });
        if let Err(error) = spawned {
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
            return Err(KeychainError::Failed(Box::new(error)));
        }
        match answered.recv_timeout(self.patience) {
            Ok(said) => said.map_err(platform::told),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(KeychainError::Silent(self.patience)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(KeychainError::Failed("its thread ended".into()))
            }
        }
    }
}

fn parse(text: &[u8]) -> Option<MasterKey> {
    let encoded = text.strip_prefix(TITLE.as_bytes())?;
    let bytes = Zeroizing::new(BASE64.decode(encoded).ok()?);
    MasterKey::from_bytes(&bytes)
}

fn entry(
    store: &CredentialStore,
    service: &str,
    user: &str,
) -> keyring_core::Result<keyring_core::Entry> {
    let attributes = platform::attributes();
    store.build(
        service,
        user,
        (!attributes.is_empty()).then_some(&attributes),
    )
}

/// Windows: the Credential Manager. `Local`, because the default roams with the profile.
#[cfg(windows)]
mod platform {
    use super::*;
    use std::collections::HashMap;

    pub(super) fn store() -> keyring_core::Result<Arc<CredentialStore>> {
        Ok(windows_native_keyring_store::Store::new()?)
    }

    pub(super) fn attributes() -> HashMap<&'static str, &'static str> {
        HashMap::from([("persistence", "Local")])
    }

    /// The system makes it with the account.
    pub(super) fn is_made() -> keyring_core::Result<()> {
        Ok(())
    }

    pub(super) fn told(error: keyring_core::Error) -> KeychainError {
        match error {
            // a service account without a logon session has no credential set
            keyring_core::Error::NoStorageAccess(error) => KeychainError::Denied(Some(error)),
            error => KeychainError::Failed(Box::new(error)),
        }
    }
}

/// macOS: the login keychain. Its access list goes by the code signature of the program.
#[cfg(target_os = "macos")]
mod platform {
    use super::*;
    use std::collections::HashMap;

    pub(super) fn store() -> keyring_core::Result<Arc<CredentialStore>> {
        Ok(apple_native_keyring_store::keychain::Store::new()?)
    }

    pub(super) fn attributes() -> HashMap<&'static str, &'static str> {
        HashMap::new()
    }

    /// The system makes it with the account.
    pub(super) fn is_made() -> keyring_core::Result<()> {
        Ok(())
    }

    pub(super) fn told(error: keyring_core::Error) -> KeychainError {
        match error {
            keyring_core::Error::NoStorageAccess(error) => KeychainError::Denied(Some(error)),
            keyring_core::Error::PlatformFailure(error) => {
                // Security framework: -25308 no user interaction possible (ssh, launchd),
                // -25293 wrong password, -128 the person said no
                let words = error.to_string();
                let says = |code: &str| words.contains(code);
                if says("-25308") || words.contains("interaction is not allowed") {
                    KeychainError::Locked
                } else if says("-25293") || says("-128") || words.contains("canceled") {
                    KeychainError::Denied(Some(error))
                } else {
                    KeychainError::Failed(error)
                }
            }
            error => KeychainError::Failed(Box::new(error)),
        }
    }
}

/// Everywhere else on Unix: the Secret Service on the session bus. What passes over the bus is
/// encrypted to this process.
#[cfg(all(unix, not(target_os = "macos")))]
mod platform {
    use super::*;
    use secret_service::Error as Service;
    use std::collections::HashMap;

    pub(super) fn store() -> keyring_core::Result<Arc<CredentialStore>> {
        Ok(zbus_secret_service_keyring_store::Store::new()?)
    }

    pub(super) fn attributes() -> HashMap<&'static str, &'static str> {
        HashMap::from([("label", "mcpshim vault key")])
    }

    /// Whether there is a default collection, which may be locked. A service without one answers
    /// every search with nothing, and fails only when something is to be kept.
    pub(super) fn is_made() -> keyring_core::Result<()> {
        let failed = |error| keyring_core::Error::PlatformFailure(Box::new(Service::Zbus(error)));
        let bus = zbus::blocking::Connection::session().map_err(failed)?;
        let answer = bus
            .call_method(
                Some("org.freedesktop.secrets"),
                "/org/freedesktop/secrets",
                Some("org.freedesktop.Secret.Service"),
                "ReadAlias",
                &"default",
            )
            .map_err(failed)?;
        let path: zbus::zvariant::OwnedObjectPath = answer.body().deserialize().map_err(failed)?;
        if path.as_str() == "/" {
            return Err(keyring_core::Error::PlatformFailure(Box::new(
                Service::NoResult,
            )));
        }
        Ok(())
    }

    pub(super) fn told(error: keyring_core::Error) -> KeychainError {
        let (keyring_core::Error::PlatformFailure(source)
        | keyring_core::Error::NoStorageAccess(source)) = error
        else {
            return KeychainError::Failed(Box::new(error));
        };
        match source.downcast::<Service>() {
            Err(other) => KeychainError::Failed(other),
            Ok(error) => match *error {
                Service::Unavailable => KeychainError::NoBus,
                // there is a service without a default collection
                Service::NoResult => KeychainError::NeverMade,
                // "prompt": its dialogue was closed, or there was nowhere to show it
                Service::Locked | Service::Prompt | Service::PromptDisconnected => {
                    KeychainError::Locked
                }
                Service::Zbus(error) => bus(error),
                Service::ZbusFdo(error) => bus(zbus::Error::FDO(Box::new(error))),
                error => KeychainError::Failed(Box::new(error)),
            },
        }
    }

    fn bus(error: zbus::Error) -> KeychainError {
        if let zbus::Error::InputOutput(io) | zbus::Error::Connection(io, _) = &error
            && matches!(
                io.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            )
        {
            return KeychainError::NoBus;
        }
        let name = match &error {
            zbus::Error::MethodError(name, _, _) => name.as_str().to_owned(),
            zbus::Error::FDO(error) => match &**error {
                zbus::fdo::Error::ServiceUnknown(_) => SERVICE_UNKNOWN.to_owned(),
                zbus::fdo::Error::NameHasNoOwner(_) => NO_OWNER.to_owned(),
                zbus::fdo::Error::AccessDenied(_) => ACCESS_DENIED.to_owned(),
                _ => String::new(),
            },
            _ => String::new(),
        };
        match name.as_str() {
            SERVICE_UNKNOWN | NO_OWNER | NOT_FOUND => KeychainError::NoService,
            ACCESS_DENIED => KeychainError::Denied(Some(Box::new(error))),
            IS_LOCKED => KeychainError::Locked,
            _ => KeychainError::Failed(Box::new(error)),
        }
    }

    const SERVICE_UNKNOWN: &str = "org.freedesktop.DBus.Error.ServiceUnknown";
    const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";
    const NOT_FOUND: &str = "org.freedesktop.DBus.Error.Spawn.ServiceNotFound";
    const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
    const IS_LOCKED: &str = "org.freedesktop.Secret.Error.IsLocked";
}
