//! Edits of one entry in TOML that leave every other byte alone.
//!
//! A table of its own at the end of the file:
//!
//! ```toml
//! [mcp_servers.mcpshim]
//! command = "/usr/bin/mcpshim"
//! args = ["serve"]
//! ```
//!
//! `args` before `command` means that the file was made for it, and goes with it. A parser
//! says where things are, and text is cut and inserted, as for JSON: what lies around keeps its
//! bytes by construction, line ends and spaces included.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::entry::{self, Change, Entry, NAME, Removal, Trouble};

/// The table that lists servers.
const LIST: &str = "mcp_servers";

type Item<'o, 't> = (&'o Spanned<DeString<'t>>, &'o Spanned<DeValue<'t>>);

/// The entries that are there.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, Trouble> {
    let body = without_mark(text);
    let root = parse(body)?;
    let Some((_, servers)) = list(body, &root)? else {
        return Ok(Vec::new());
    };
    Ok(servers.iter().map(|item| read(body, item)).collect())
}

/// Puts the entry in, or right.
pub(super) fn install(text: Option<&str>, command: &str) -> Result<Change, Trouble> {
    let Some(text) = text else {
        return Ok(Change::Added(format!("{}\n", block("\n", command, true))));
    };
    let body = without_mark(text);
    let mark = text.get(..text.len() - body.len()).unwrap_or_default();
    let root = parse(body)?;
    let newline = entry::newline(body);
    let servers = list(body, &root)?;
    let there = servers.and_then(|(_, servers)| find(servers, NAME));
    if let Some(item) = there {
        let found = read(body, item);
        if found.is_right(command) {
            return Ok(Change::Same);
        }
        let (after, changed) = if found.is_about_us() {
            entry::in_steps(body, |body| step(body, command))?
        } else {
            (put_right(body, item, command)?, Vec::new())
        };
        let after = format!("{mark}{after}");
        reads_back(body, &after, command)?;
        return Ok(Change::Replaced {
            text: after,
            was: found.shown(),
            changed,
        });
    }
    let block = block(newline, command, false);
    let after = if body.is_empty() {
        format!("{mark}{block}{newline}")
    } else if body.ends_with('\n') {
        format!("{text}{newline}{block}{newline}")
    } else {
        format!("{text}{newline}{newline}{block}")
    };
    if let Some((key, _)) = servers {
        // an inline table cannot be added to from outside
        parse(without_mark(&after)).map_err(|_not| Trouble::by_hand(body, key.span().start))?;
    }
    reads_back(body, &after, command)?;
    // what cannot be undone exactly is not done
    match remove(&after)? {
        Removal::Text(undone) if undone == text => Ok(Change::Added(after)),
        _ => Err(Trouble::by_hand(body, body.len())),
    }
}

/// Takes the entry out.
pub(super) fn remove(text: &str) -> Result<Removal, Trouble> {
    let body = without_mark(text);
    let mark = text.get(..text.len() - body.len()).unwrap_or_default();
    let root = parse(body)?;
    let Some((_, servers)) = list(body, &root)? else {
        return Ok(Removal::Absent);
    };
    let Some(item) = find(servers, NAME) else {
        return Ok(Removal::Absent);
    };
    let found = read(body, item);
    if !found.is_ours() {
        return Ok(Removal::Foreign(found.shown()));
    }
    let command = found.command.as_deref().unwrap_or_default();
    let newline = entry::newline(body);
    if mark.is_empty() && body == format!("{}{newline}", block(newline, command, true)) {
        return Ok(Removal::File);
    }
    let cut = extent(body, item)?;
    let after = entry::apply(body, vec![(cut, String::new())]);
    let gone = entries(&after)?.iter().all(|entry| entry.name != NAME);
    if gone && say_the_same(body, &after) {
        Ok(Removal::Text(format!("{mark}{after}")))
    } else {
        Err(Trouble::by_hand(body, item.0.span().start))
    }
}

fn block(newline: &str, command: &str, made: bool) -> String {
    let header = format!("[{LIST}.{NAME}]");
    let command = format!("command = {}", quoted(command));
    let args = "args = [\"serve\"]".to_owned();
    let lines = if made {
        [header, args, command]
    } else {
        [header, command, args]
    };
    lines.join(newline)
}

/// A basic string: JSON's escapes are among TOML's, but for DEL.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}

fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn parse(body: &str) -> Result<DeTable<'_>, Trouble> {
    let parsed = DeTable::parse(body).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Trouble::at(body, at, error.message().replace('\n', " "))
    })?;
    Ok(parsed.into_inner())
}

fn list<'o, 't>(
    body: &str,
    root: &'o DeTable<'t>,
) -> Result<Option<(&'o Spanned<DeString<'t>>, &'o DeTable<'t>)>, Trouble> {
    let Some((key, value)) = find(root, LIST) else {
        return Ok(None);
    };
    match value.get_ref() {
        DeValue::Table(servers) => Ok(Some((key, servers))),
        other => Err(Trouble::at(
            body,
            key.span().start,
            format!("{LIST} is {}, expected a table", other.type_str()),
        )),
    }
}

fn find<'o, 't>(table: &'o DeTable<'t>, name: &str) -> Option<Item<'o, 't>> {
    table.iter().find(|(key, _)| key.get_ref().as_ref() == name)
}

fn read(body: &str, (key, value): Item<'_, '_>) -> Entry {
    let mut entry = Entry {
        name: key.get_ref().to_string(),
        line: Trouble::at(body, key.span().start, "").line,
        ..Entry::default()
    };
    let DeValue::Table(members) = value.get_ref() else {
        return entry;
    };
    for (name, value) in members {
        match (name.get_ref().as_ref(), value.get_ref()) {
            ("command", DeValue::String(text)) => entry.command = Some(text.to_string()),
            ("url", DeValue::String(text)) => entry.url = Some(text.to_string()),
            ("args", DeValue::Array(args)) => {
                let text = |arg: &Spanned<DeValue<'_>>| match arg.get_ref() {
                    DeValue::String(text) => text.to_string(),
                    other => other.type_str().to_owned(),
                };
                entry.args = args.iter().map(text).collect();
            }
            ("env", DeValue::Table(env)) => {
                entry.variables = env.keys().map(|name| name.get_ref().to_string()).collect();
            }
            ("enabled", DeValue::Boolean(enabled)) => entry.disabled = !enabled,
            _ => {}
        }
    }
    entry
}

/// Changes the first member of our entry that is wrong, and says which it was. Nothing else of the
/// entry is touched: what a person has set in it stays, comments included.
fn step(body: &str, command: &str) -> Result<Option<(String, &'static str)>, Trouble> {
    let root = parse(body)?;
    let servers = list(body, &root)?;
    let Some(item) = servers.and_then(|(_, servers)| find(servers, NAME)) else {
        return Ok(None);
    };
    let DeValue::Table(members) = item.1.get_ref() else {
        return Ok(None);
    };
    let found = read(body, item);
    let edited = |range, text| Some(entry::apply(body, vec![(range, text)]));
    let by_hand = || Trouble::by_hand(body, item.0.span().start);
    let wanted = [
        (
            "command",
            quoted(command),
            found.command.as_deref() != Some(command),
        ),
        ("args", "[\"serve\"]".to_owned(), found.args != ["serve"]),
        ("enabled", "true".to_owned(), found.disabled),
    ];
    for (name, value, wrong) in wanted {
        if !wrong {
            continue;
        }
        let after = match find(members, name) {
            Some((_, old)) => edited(old.span(), value),
            None => {
                let Some((key, old)) = find(members, "command") else {
                    return Err(by_hand());
                };
                let (start, end) = (key.span().start, old.span().end);
                let before = body.get(..start).unwrap_or_default();
                let lead = before.rsplit('\n').next().unwrap_or_default();
                if !is_inline(body, item.1) && !lead.trim().is_empty() {
                    // a dotted key: what stands in the next line may belong to another table
                    return Err(by_hand());
                }
                let (at, new) = if is_inline(body, item.1) {
                    (end, format!(", {name} = {value}"))
                } else {
                    let newline = entry::newline(body);
                    let rest = body.get(end..).unwrap_or_default();
                    match rest.find('\n') {
                        Some(at) => (end + at + 1, format!("{name} = {value}{newline}")),
                        None => (body.len(), format!("{newline}{name} = {value}")),
                    }
                };
                edited(at..at, new)
            }
        };
        return Ok(after.map(|after| (after, name)));
    }
    if let Some(url) = find(members, "url") {
        return Ok(edited(member(body, url), String::new()).map(|after| (after, "url")));
    }
    if let Some(variables) = find(members, "env")
        && let DeValue::Table(env) = variables.1.get_ref()
        && let Some(loader) = env
            .iter()
            .find(|(name, _)| entry::is_loader(name.get_ref()))
    {
        let alone = env.len() == 1 && is_inline(body, variables.1);
        let cut = member(body, if alone { variables } else { loader });
        return Ok(edited(cut, String::new()).map(|after| (after, "env")));
    }
    Ok(None)
}

/// The place of one member: its line, or in an inline table what lies between two commas.
fn member(body: &str, (key, value): Item<'_, '_>) -> Range<usize> {
    let (start, end) = (key.span().start, value.span().end);
    let before = body.get(..start).unwrap_or_default();
    let line = before.rfind('\n').map_or(0, |at| at + 1);
    let lead = body.get(line..start).unwrap_or_default();
    let after = body.get(end..).unwrap_or_default();
    if !lead.contains(['{', ',', '=']) {
        return line..after.find('\n').map_or(body.len(), |at| end + at + 1);
    }
    let rest = after.trim_start();
    if let Some(more) = rest.strip_prefix(',') {
        return start..body.len() - more.trim_start_matches([' ', '\t']).len();
    }
    let kept = before.trim_end();
    kept.strip_suffix(',').unwrap_or(kept).len()..end
}

/// Writes an entry that starts something else anew.
fn put_right(body: &str, item: Item<'_, '_>, command: &str) -> Result<String, Trouble> {
    let edits = if is_inline(body, item.1) {
        let new = format!("{{ command = {}, args = [\"serve\"] }}", quoted(command));
        vec![(item.1.span(), new)]
    } else {
        // whatever else it says, it says of something else
        let newline = entry::newline(body);
        let range = extent(body, item)?;
        let old = body.get(range.clone()).unwrap_or_default();
        let trimmed = old.trim_start_matches(['\r', '\n']);
        let (lead, tail) = (
            old.get(..old.len() - trimmed.len()).unwrap_or_default(),
            if old.ends_with('\n') { newline } else { "" },
        );
        let new = format!("{lead}{}{tail}", block(newline, command, false));
        vec![(range, new)]
    };
    Ok(entry::apply(body, edits))
}

/// Whether a table is written as `{ … }`.
fn is_inline(body: &str, value: &Spanned<DeValue<'_>>) -> bool {
    body.get(value.span())
        .is_some_and(|text| text.starts_with('{'))
}

/// Whether two texts say the same of everything but our entry.
fn say_the_same(one: &str, other: &str) -> bool {
    let rest = |text: &str| {
        let mut root: toml::Table = without_mark(text).parse().ok()?;
        if let Some(toml::Value::Table(servers)) = root.get_mut(LIST) {
            servers.remove(NAME);
            if servers.is_empty() {
                root.remove(LIST);
            }
        }
        Some(root)
    };
    match (rest(one), rest(other)) {
        // by text, since not-a-number differs from itself
        (Some(one), Some(other)) => one == other || one.to_string() == other.to_string(),
        _ => false,
    }
}

/// Everything that belongs to an entry: its table, the tables below it, and one empty line before.
fn extent(body: &str, (key, value): Item<'_, '_>) -> Result<Range<usize>, Trouble> {
    let by_hand = || Trouble::by_hand(body, key.span().start);
    let line_start = |at: usize| {
        let before = body.get(..at).unwrap_or_default();
        before.rfind('\n').map_or(0, |at| at + 1)
    };
    let line_end = |at: usize| {
        let rest = body.get(at..).unwrap_or_default();
        rest.find('\n').map_or(body.len(), |end| at + end + 1)
    };
    let start = line_start(key.span().start);
    let lead = body.get(start..key.span().start).unwrap_or_default();
    if lead.trim().is_empty() {
        // a line of its own in the table of all: `mcpshim = { … }`
        let end = value.span().end;
        return if is_inline(body, value) && end > start {
            Ok(start..line_end(end))
        } else {
            Err(by_hand())
        };
    }
    if !lead.trim_start().starts_with('[') || lead.contains("[[") {
        return Err(by_hand());
    }
    // the last thing that is said in the table, or below it
    let mut end = line_end(key.span().end);
    let mut below = vec![value.get_ref()];
    while let Some(value) = below.pop() {
        if let DeValue::Table(members) = value {
            for (name, value) in members {
                end = end
                    .max(line_end(name.span().end))
                    .max(line_end(value.span().end));
                below.push(value.get_ref());
            }
        }
    }
    let inside = body.get(start..end).unwrap_or_default();
    // the empty line that was put before it, and the line end that was missing
    let before = body.get(..start).unwrap_or_default();
    let one = |text: &str| {
        let line = text.strip_suffix('\n')?;
        Some(line.strip_suffix('\r').unwrap_or(line).len())
    };
    let mut from = start;
    if let Some(at) = one(before)
        && (at == 0 || before.get(..at).is_some_and(|text| text.ends_with('\n')))
    {
        from = at;
        if !inside.ends_with('\n')
            && let Some(at) = before.get(..at).and_then(one)
        {
            from = at;
        }
    }
    Ok(from..end)
}

fn reads_back(before: &str, after: &str, command: &str) -> Result<(), Trouble> {
    let right = |entry: &Entry| entry.name == NAME && entry.is_right(command);
    if entries(after)?.iter().any(right) && say_the_same(before, after) {
        Ok(())
    } else {
        Err(Trouble::by_hand(before, before.len()))
    }
}
