//! Policies of Windows: values that only administrators can write.

use windows_registry::{CURRENT_USER, Key, LOCAL_MACHINE, Type, Value};

use super::{Managed, PLACE, Raw, Untrusted};

const POLICY: &str = r"SOFTWARE\Policies\mcpshim";
/// `HRESULT_FROM_WIN32(ERROR_FILE_NOT_FOUND)`: there is no such key.
const NOT_FOUND: i32 = 0x8007_0002_u32.cast_signed();

pub(super) fn read() -> Result<Option<Managed>, Untrusted> {
    let key = match LOCAL_MACHINE.open(POLICY) {
        Ok(key) => key,
        Err(error) if error.code().0 == NOT_FOUND => return Ok(None),
        Err(error) => return Err(failed(&error)),
    };
    let values = key.values().map_err(|error| failed(&error))?;
    let values = values
        // names of values have no case
        .map(|(name, value)| (name.to_ascii_lowercase(), raw(value)))
        .collect();
    Ok(Some(Managed::Values(values)))
}

fn failed(error: &dyn std::fmt::Display) -> Untrusted {
    Untrusted::Registry {
        place: PLACE,
        cause: error.to_string(),
    }
}

fn raw(value: Value) -> Raw {
    match value.ty() {
        Type::U32 | Type::U64 => u64::try_from(value).map_or(Raw::Other("a damaged number"), |n| {
            Raw::Number(n.to_string())
        }),
        Type::String => {
            String::try_from(value).map_or(Raw::Other("text that is not Unicode"), Raw::Text)
        }
        // it would be expanded by variables of whoever starts us
        Type::ExpandString => Raw::Other("text with variables (REG_EXPAND_SZ)"),
        Type::MultiString => Raw::Other("a list (REG_MULTI_SZ)"),
        Type::Bytes | Type::Other(_) => Raw::Other("neither REG_SZ nor REG_DWORD"),
    }
}

pub(super) fn unread() -> Vec<String> {
    match CURRENT_USER.open(POLICY) {
        Ok(_) => vec![format!(
            r"HKEY_CURRENT_USER\{POLICY}: not read, because the user can write it"
        )],
        Err(_) => Vec::new(),
    }
}

/// One text below `HKEY_LOCAL_MACHINE`.
pub(in crate::config) fn machine_text(key: &str, name: &str) -> Option<String> {
    LOCAL_MACHINE
        .open(key)
        .and_then(|key: Key| key.get_string(name))
        .ok()
}
