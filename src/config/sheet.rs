//! A file of settings as a table, not judged yet.

use std::collections::BTreeMap;

use super::keys;

/// A value as a source holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Number(String),
    /// Something that no setting is; what, in words.
    Other(&'static str),
    Text(String),
}

/// Values by key, and the line of each where there are lines.
pub(super) type Table = BTreeMap<String, (Raw, Option<usize>)>;

/// Why a text is no table.
#[derive(Debug)]
pub(super) struct NotToml {
    pub(super) line: usize,
    pub(super) why: String,
}

/// Reads TOML. Names that are no keys are left out and told.
pub(super) fn parse(text: &str, place: &str, warnings: &mut Vec<String>) -> Result<Table, NotToml> {
    let document = toml::de::DeTable::parse(text).map_err(|error| NotToml {
        line: error.span().map_or(1, |span| line(text, span.start)),
        why: error.message().to_owned(),
    })?;
    let mut table = Table::new();
    for (name, value) in document.get_ref() {
        let line = line(text, name.span().start);
        let raw = match value.get_ref() {
            toml::de::DeValue::String(text) => Raw::Text(text.to_string()),
            toml::de::DeValue::Integer(number) => Raw::Number(number.to_string()),
            other => Raw::Other(other.type_str()),
        };
        let place = format!("{place}:{line}");
        keep(
            &mut table,
            name.get_ref(),
            raw,
            Some(line),
            &place,
            warnings,
        );
    }
    Ok(table)
}

/// Takes values that came by name.
pub(super) fn collect(values: &[(String, Raw)], place: &str, warnings: &mut Vec<String>) -> Table {
    let mut table = Table::new();
    for (name, raw) in values {
        keep(&mut table, name, raw.clone(), None, place, warnings);
    }
    table
}

/// The first name in a text that is no key and is near to one of these, with its line.
pub(super) fn misnamed(text: &str, missing: &[&str]) -> Option<(usize, String, &'static str)> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let mut found: Vec<_> = document
        .get_ref()
        .keys()
        .filter(|name| keys::key(name.get_ref()).is_none())
        .filter_map(|name| {
            let near = keys::nearest(name.get_ref()).filter(|near| missing.contains(near))?;
            Some((
                line(text, name.span().start),
                name.get_ref().to_string(),
                near,
            ))
        })
        .collect();
    found.sort();
    found.into_iter().next()
}

fn keep(
    table: &mut Table,
    name: &str,
    raw: Raw,
    line: Option<usize>,
    place: &str,
    warnings: &mut Vec<String>,
) {
    if keys::key(name).is_some() {
        table.insert(name.to_owned(), (raw, line));
        return;
    }
    let near = keys::nearest(name)
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    warnings.push(format!("{place}: there is no key `{name}`{near}"));
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
