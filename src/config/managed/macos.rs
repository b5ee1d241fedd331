//! Forced preferences of macOS, as configuration profiles deliver them.

use std::path::Path;

use objc2_core_foundation::{
    CFNumber, CFPreferencesAppValueIsForced, CFPreferencesCopyAppValue, CFString,
};

use super::{Managed, PLACE, Raw, Untrusted};
use crate::config::{KEYS, account};

pub(super) fn read() -> Result<Option<Managed>, Untrusted> {
    let domain = CFString::from_static_str(PLACE);
    let mut values = Vec::new();
    for key in KEYS {
        let name = CFString::from_static_str(key.name);
        // a value of the user's own counts for nothing
        if !CFPreferencesAppValueIsForced(&name, &domain) {
            continue;
        }
        // forced and without a value: the key is there, and its parser says what it lacks
        let raw = CFPreferencesCopyAppValue(&name, &domain).map_or(
            Raw::Other("nothing"),
            |value| match (
                value.downcast_ref::<CFString>(),
                value.downcast_ref::<CFNumber>(),
            ) {
                (Some(text), _) => Raw::Text(text.to_string()),
                (None, Some(number)) => number
                    .as_i64()
                    .map_or(Raw::Other("a fraction"), |n| Raw::Number(n.to_string())),
                (None, None) => Raw::Other("neither text nor a number"),
            },
        );
        values.push((key.name.to_owned(), raw));
    }
    if values.is_empty() {
        return delivered().map_or(Ok(None), |path| {
            Err(Untrusted::Unheard {
                path: path.display().to_string(),
            })
        });
    }
    Ok(Some(Managed::Values(values)))
}

/// The file that a profile leaves behind. The preferences service answers for it; were that
/// service asked wrongly (variables can make a process avoid it), the file would still lie there.
fn delivered() -> Option<std::path::PathBuf> {
    let root = Path::new("/Library/Managed Preferences");
    let file = format!("{PLACE}.plist");
    let own = account::own().map(|account| root.join(account.name).join(&file));
    [Some(root.join(&file)), own]
        .into_iter()
        .flatten()
        // what cannot be looked at is there
        .find(|path| path.try_exists().unwrap_or(true))
}

pub(super) fn unread() -> Vec<String> {
    let domain = CFString::from_static_str(PLACE);
    KEYS.iter()
        .filter(|key| {
            let name = CFString::from_static_str(key.name);
            !CFPreferencesAppValueIsForced(&name, &domain)
                && CFPreferencesCopyAppValue(&name, &domain).is_some()
        })
        .map(|key| {
            format!(
                "preferences {PLACE}: `{}` is not read, because it is not forced by a profile",
                key.name
            )
        })
        .collect()
}
