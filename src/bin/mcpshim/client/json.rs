//! Edits of one entry in JSON, with or without comments, that leave every other byte alone.
//!
//! A parser (`jsonc-parser`) says where things are; what changes is cut and inserted as text.
//! Editing its syntax tree instead would lay out commas, comments and line ends anew.
//!
//! Insertion and removal are each other's inverse: removing what was inserted gives the bytes
//! from before, and every insertion is tried on this before anything is written. For that an
//! entry must tell on its own who made the list it stands in: `args` before `command` means that
//! the list was made for it, and goes with it. Clients that write their file anew keep this order.

use std::ops::Range;

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged as _;
use jsonc_parser::tokens::{Token, TokenAndRange};
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};

use super::entry::{self, Change, Entry, NAME, Removal, Trouble};

const MARK: char = '\u{feff}';

/// What a client's JSON looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dialect {
    /// The member of the root that lists servers.
    pub(super) list: &'static str,
    /// Whether comments and commas after the last member are allowed.
    pub(super) comments: bool,
    /// Whether an entry says that it is of type `stdio`.
    pub(super) typed: bool,
}

struct Document<'t> {
    /// Whether a byte order mark goes before the text.
    mark: bool,
    text: &'t str,
    root: Object<'t>,
    tokens: Vec<TokenAndRange<'t>>,
}

type Edits = Vec<(Range<usize>, String)>;

impl Dialect {
    /// The entries that are there.
    pub(super) fn entries(&self, text: &str) -> Result<Vec<Entry>, Trouble> {
        let document = self.parse(text)?;
        let servers = self.list(&document)?.map(|(_, servers)| servers);
        let properties = servers.map_or(&[][..], |servers| &servers.properties);
        Ok(properties.iter().map(|at| document.entry(at)).collect())
    }

    /// Puts the entry in, or right.
    pub(super) fn install(&self, text: Option<&str>, command: &str) -> Result<Change, Trouble> {
        let Some(text) = text else {
            return Ok(Change::Added(self.new_file("\n", command)));
        };
        let document = self.parse(text)?;
        let mut edits = Edits::new();
        let there = match self.list(&document)? {
            None => {
                document.insert(&document.root, &mut edits, |style| {
                    let member = self.member(&style.deeper(), command, true);
                    format!("{}: {}", quoted(self.list), style.braces(&[member]))
                });
                None
            }
            Some((_, servers)) => match document.find(servers, NAME)? {
                Some((_, property)) => Some(property),
                None => {
                    document.insert(servers, &mut edits, |style| {
                        self.member(style, command, false)
                    });
                    None
                }
            },
        };
        let Some(property) = there else {
            let after = document.apply(edits);
            self.reads_back(&document, &after, command)?;
            // what cannot be undone exactly is not done
            return match self.remove(&after)? {
                Removal::Text(undone) if undone == text => Ok(Change::Added(after)),
                _ => Err(document.by_hand(&document.root)),
            };
        };
        let found = document.entry(property);
        if found.is_right(command) {
            return Ok(Change::Same);
        }
        if found.is_about_us() {
            let (after, changed) = entry::in_steps(text, |text| self.step(text, command))?;
            self.reads_back(&document, &after, command)?;
            return Ok(Change::Replaced {
                text: after,
                was: found.shown(),
                changed,
            });
        }
        let value = property.value.range();
        let mut style = document.style_at(property.range.start);
        if !document.slice(value.start..value.end).contains('\n') {
            style.newline = None;
        }
        let new = self.value(&style, command, made_for_it(property));
        edits.push((value.start..value.end, new));
        let after = document.apply(edits);
        self.reads_back(&document, &after, command)?;
        Ok(Change::Replaced {
            text: after,
            was: found.shown(),
            changed: Vec::new(),
        })
    }

    /// Changes the first member of our entry that is wrong, and says which it was. Nothing else of
    /// the entry is touched: what a person or the client has set in it stays.
    fn step(&self, text: &str, command: &str) -> Result<Option<(String, &'static str)>, Trouble> {
        let document = self.parse(text)?;
        let servers = self.list(&document)?.map(|(_, servers)| servers);
        let property = servers.map(|servers| document.find(servers, NAME));
        let Some((_, property)) = property.transpose()?.flatten() else {
            return Ok(None);
        };
        let Value::Object(object) = &property.value else {
            return Ok(None);
        };
        let found = document.entry(property);
        let mut edits = Edits::new();
        let wanted = [
            (
                "command",
                quoted(command),
                found.command.as_deref() != Some(command),
            ),
            ("args", "[\"serve\"]".to_owned(), found.args != ["serve"]),
            ("disabled", "false".to_owned(), found.disabled),
            (
                "type",
                quoted(entry::STDIO),
                found.kind.is_some_and(|kind| kind != entry::STDIO),
            ),
        ];
        for (name, value, wrong) in wanted {
            if !wrong {
                continue;
            }
            match document.find(object, name)? {
                Some((_, member)) => {
                    let range = member.value.range();
                    edits.push((range.start..range.end, value));
                }
                None => {
                    document.insert(object, &mut edits, |_| format!("{}: {value}", quoted(name)));
                }
            }
            return Ok(Some((document.apply(edits), name)));
        }
        for name in ["url", "serverUrl"] {
            if let Some((at, _)) = document.find(object, name)? {
                document.cut(object, at, &mut edits);
                return Ok(Some((document.apply(edits), name)));
            }
        }
        if let Some((at, member)) = document.find(object, "env")?
            && let Value::Object(env) = &member.value
        {
            let loads = |one: &ObjectProp<'_>| entry::is_loader(one.name.as_str());
            if let Some(loader) = env.properties.iter().position(loads) {
                if env.properties.len() == 1 {
                    document.cut(object, at, &mut edits);
                } else {
                    document.cut(env, loader, &mut edits);
                }
                return Ok(Some((document.apply(edits), "env")));
            }
        }
        Ok(None)
    }

    /// Takes the entry out.
    pub(super) fn remove(&self, text: &str) -> Result<Removal, Trouble> {
        let document = self.parse(text)?;
        let Some((list, servers)) = self.list(&document)? else {
            return Ok(Removal::Absent);
        };
        let Some((at, property)) = document.find(servers, NAME)? else {
            return Ok(Removal::Absent);
        };
        let found = document.entry(property);
        if !found.is_ours() {
            return Ok(Removal::Foreign(found.shown()));
        }
        let made = made_for_it(property);
        let command = found.command.as_deref().unwrap_or_default();
        if made && text == self.new_file(document.newline(), command) {
            return Ok(Removal::File);
        }
        let mut edits = Edits::new();
        if made && document.holds_only(servers, property) {
            document.cut(&document.root, list, &mut edits);
        } else {
            document.cut(servers, at, &mut edits);
        }
        let after = document.apply(edits);
        let left = self.entries(&after)?.into_iter().map(|entry| entry.name);
        let others = servers.properties.iter().map(|other| other.name.as_str());
        if left.eq(others.filter(|name| *name != NAME)) {
            Ok(Removal::Text(after))
        } else {
            Err(document.by_hand(servers))
        }
    }

    /// The whole of a file that was not there.
    fn new_file(&self, newline: &str, command: &str) -> String {
        let outer = Style {
            newline: Some(newline.to_owned()),
            indent: String::new(),
            unit: "  ".to_owned(),
        };
        let style = outer.deeper();
        let member = self.member(&style.deeper(), command, true);
        let list = format!("{}: {}", quoted(self.list), style.braces(&[member]));
        format!("{}{newline}", outer.braces(&[list]))
    }

    fn member(&self, style: &Style, command: &str, made: bool) -> String {
        format!("{}: {}", quoted(NAME), self.value(style, command, made))
    }

    fn value(&self, style: &Style, command: &str, made: bool) -> String {
        let mut members = vec![
            format!("\"command\": {}", quoted(command)),
            "\"args\": [\"serve\"]".to_owned(),
        ];
        if made {
            members.reverse();
        }
        if self.typed {
            members.insert(0, "\"type\": \"stdio\"".to_owned());
        }
        style.braces(&members)
    }

    /// The list of servers, and which member of the root it is.
    fn list<'d, 't>(
        &self,
        document: &'d Document<'t>,
    ) -> Result<Option<(usize, &'d Object<'t>)>, Trouble> {
        let Some((at, property)) = document.find(&document.root, self.list)? else {
            return Ok(None);
        };
        match &property.value {
            Value::Object(servers) => Ok(Some((at, servers))),
            other => Err(document.trouble(
                other.range().start,
                format!("{} is {}, expected {{ … }}", self.list, kind(other)),
            )),
        }
    }

    /// The last look before a text is written: it can be read, and says what it should.
    fn reads_back(&self, from: &Document<'_>, after: &str, command: &str) -> Result<(), Trouble> {
        let entries = self.entries(after)?;
        let right = |entry: &Entry| entry.name == NAME && entry.is_right(command);
        if entries.iter().any(right) {
            Ok(())
        } else {
            Err(from.by_hand(&from.root))
        }
    }

    fn parse<'t>(&self, text: &'t str) -> Result<Document<'t>, Trouble> {
        let body = text.strip_prefix(MARK).unwrap_or(text);
        if let Some(at) = body.find(MARK).filter(|_| body.starts_with(MARK)) {
            return Err(Trouble::at(body, at, "a second byte order mark"));
        }
        if body.trim().is_empty() {
            return Err(Trouble::at(body, 0, "the file is empty, expected { … }"));
        }
        if !self.comments {
            // the judge of plain JSON: it knows neither comments nor other liberties
            serde_json::from_str::<serde::de::IgnoredAny>(body).map_err(|error| {
                let what = error.to_string();
                let end = what.rfind(" at line ").unwrap_or(what.len());
                Trouble {
                    line: error.line(),
                    column: error.column().max(1),
                    what: what.get(..end).unwrap_or_default().to_owned(),
                }
            })?;
        }
        let options = ParseOptions {
            allow_comments: self.comments,
            allow_trailing_commas: self.comments,
            allow_loose_object_property_names: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let collect = CollectOptions {
            comments: CommentCollectionStrategy::AsTokens,
            tokens: true,
        };
        let parsed = parse_to_ast(body, &collect, &options).map_err(|error| {
            let what = error.kind().to_string();
            Trouble {
                line: error.line_display(),
                column: error.column_display(),
                what: what.to_lowercase(),
            }
        })?;
        let wrong = |at, what: String| Err(Trouble::at(body, at, what));
        match parsed.value {
            Some(Value::Object(root)) => Ok(Document {
                mark: body.len() != text.len(),
                text: body,
                root,
                tokens: parsed.tokens.unwrap_or_default(),
            }),
            Some(other) => wrong(
                other.range().start,
                format!("{}, expected {{ … }}", kind(&other)),
            ),
            None => wrong(body.len(), "the end, expected { … }".to_owned()),
        }
    }
}

/// How the members of one object are laid out.
#[derive(Debug, Clone)]
struct Style {
    /// What ends a line; nothing where everything stands in one.
    newline: Option<String>,
    /// White space before a member of this object.
    indent: String,
    /// One step of indentation.
    unit: String,
}

impl Style {
    fn deeper(&self) -> Self {
        Self {
            indent: format!("{}{}", self.indent, self.unit),
            ..self.clone()
        }
    }

    /// An object that is the value of a member laid out like this.
    fn braces(&self, members: &[String]) -> String {
        let Some(newline) = &self.newline else {
            return format!("{{{}}}", members.join(", "));
        };
        let inner = self.deeper().indent;
        let between = format!(",{newline}{inner}");
        let indent = &self.indent;
        format!(
            "{{{newline}{inner}{}{newline}{indent}}}",
            members.join(&between)
        )
    }
}

impl<'t> Document<'t> {
    fn trouble(&self, at: usize, what: String) -> Trouble {
        Trouble::at(self.text, at, what)
    }

    fn by_hand(&self, object: &Object<'_>) -> Trouble {
        Trouble::by_hand(self.text, object.range.start)
    }

    fn apply(&self, edits: Edits) -> String {
        let mark = if self.mark { "\u{feff}" } else { "" };
        format!("{mark}{}", entry::apply(self.text, edits))
    }

    fn newline(&self) -> &'static str {
        entry::newline(self.text)
    }

    fn slice(&self, range: Range<usize>) -> &'t str {
        self.text.get(range).unwrap_or_default()
    }

    /// One member by name; two of one name are read differently by different programs.
    fn find<'o>(
        &self,
        object: &'o Object<'t>,
        name: &str,
    ) -> Result<Option<(usize, &'o ObjectProp<'t>)>, Trouble> {
        let mut named = object.properties.iter().enumerate();
        let mut named = named.by_ref().filter(|(_, one)| one.name.as_str() == name);
        let first = named.next();
        match (first, named.next()) {
            (Some((_, first)), Some((_, second))) => {
                let line = self.trouble(first.range.start, String::new()).line;
                let what = format!("{name:?} is there twice, first in line {line}");
                Err(self.trouble(second.range.start, what))
            }
            (found, _) => Ok(found),
        }
    }

    fn entry(&self, property: &ObjectProp<'t>) -> Entry {
        let mut entry = Entry {
            name: property.name.as_str().to_owned(),
            line: self.trouble(property.range.start, String::new()).line,
            ..Entry::default()
        };
        let members = property.value.as_object().map(|object| &object.properties);
        for member in members.into_iter().flatten() {
            match (member.name.as_str(), &member.value) {
                ("command", Value::StringLit(text)) => {
                    entry.command = Some(text.value.clone().into_owned());
                }
                ("url" | "serverUrl", Value::StringLit(text)) => {
                    entry.url = Some(text.value.clone().into_owned());
                }
                ("args", Value::Array(args)) => {
                    let text = |value: &Value<'_>| match value {
                        Value::StringLit(text) => text.value.clone().into_owned(),
                        other => self
                            .slice(other.range().start..other.range().end)
                            .to_owned(),
                    };
                    entry.args = args.elements.iter().map(text).collect();
                }
                ("env", Value::Object(env)) => {
                    let names = env
                        .properties
                        .iter()
                        .map(|one| one.name.as_str().to_owned());
                    entry.variables = names.collect();
                }
                ("disabled", Value::BooleanLit(disabled)) => entry.disabled = disabled.value,
                ("type", Value::StringLit(kind)) => {
                    entry.kind = Some(kind.value.clone().into_owned());
                }
                _ => {}
            }
        }
        entry
    }

    /// The first token from a place on that is no comment.
    fn token_from(&self, at: usize) -> Option<&TokenAndRange<'t>> {
        let from = self.tokens.partition_point(|token| token.range.start < at);
        let rest = self.tokens.get(from..).unwrap_or_default();
        rest.iter().find(|token| !is_comment(&token.token))
    }

    fn comma_from(&self, at: usize) -> Option<Range<usize>> {
        self.token_from(at)
            .filter(|token| token.token == Token::Comma)
            .map(|token| token.range.start..token.range.end)
    }

    /// White space at the start of the line that holds a place.
    fn indent_of(&self, at: usize) -> &'t str {
        let start = self.slice(0..at).rfind('\n').map_or(0, |at| at + 1);
        let line = self.slice(start..self.text.len());
        let end = line
            .find(|c: char| c != ' ' && c != '\t')
            .unwrap_or(line.len());
        line.get(..end).unwrap_or_default()
    }

    /// One step of indentation: what the root's first member on a line of its own has.
    fn unit(&self) -> String {
        let mut members = self.root.properties.iter();
        let found = members.find_map(|member| {
            let start = member.range.start;
            let indent = self.indent_of(start);
            let own_line = self
                .slice(0..start)
                .trim_end_matches([' ', '\t'])
                .ends_with('\n');
            (own_line && !indent.is_empty()).then(|| indent.to_owned())
        });
        found.unwrap_or_else(|| "  ".to_owned())
    }

    /// How a member that stands at a place is laid out.
    fn style_at(&self, at: usize) -> Style {
        let root = self.root.range;
        let lines = self.slice(root.start..root.end).contains('\n');
        Style {
            newline: lines.then(|| self.newline().to_owned()),
            indent: self.indent_of(at).to_owned(),
            unit: self.unit(),
        }
    }

    /// Adds a member after the last one.
    fn insert(
        &self,
        object: &Object<'t>,
        edits: &mut Edits,
        member: impl FnOnce(&Style) -> String,
    ) {
        let (open, close) = (object.range.start + 1, object.range.end - 1);
        let around = self.indent_of(object.range.start);
        let mut style = self.style_at(object.range.start);
        style.indent = format!("{around}{}", style.unit);
        let Some(last) = object.properties.last() else {
            // a root that is empty has no layout: lines, as everywhere
            let root = object.range == self.root.range;
            if root {
                style.newline = Some(self.newline().to_owned());
            }
            // `{}` and a line end would become what a new file is: that one is told apart
            let like_new = root && self.text.trim_start_matches("{}") == self.newline();
            let new = match &style.newline {
                Some(newline) if open == close && !like_new => {
                    format!(
                        "{newline}{}{}{newline}{around}",
                        style.indent,
                        member(&style)
                    )
                }
                // what lies between the braces stays behind the member
                _ => member(&Style {
                    indent: around.to_owned(),
                    ..style
                }),
            };
            edits.push((open..open, new));
            return;
        };
        let value_end = last.value.range().end;
        let comma = self.comma_from(value_end);
        let mut place = comma.as_ref().map_or(value_end, |comma| comma.end);
        let mut in_comment = false;
        let from = self
            .tokens
            .partition_point(|token| token.range.start < place);
        for token in self.tokens.get(from..).unwrap_or_default() {
            let gap = self.slice(place..token.range.start);
            if !is_comment(&token.token) || gap.contains(['\n', '\r']) {
                break;
            }
            place = token.range.end;
            in_comment = matches!(token.token, Token::CommentLine(_));
            if self
                .slice(token.range.start..token.range.end)
                .contains('\n')
            {
                break;
            }
        }
        let before = self
            .tokens
            .get(
                ..self
                    .tokens
                    .partition_point(|token| token.range.start < last.range.start),
            )
            .and_then(|tokens| tokens.iter().rfind(|token| !is_comment(&token.token)))
            .map_or(open, |token| token.range.end);
        let own_line = self.slice(before..last.range.start).contains('\n');
        let new = if own_line || in_comment {
            if own_line {
                style.indent = self.indent_of(last.range.start).to_owned();
            }
            let newline = self.newline();
            style.newline = Some(newline.to_owned());
            format!("{newline}{}{}", style.indent, member(&style))
        } else {
            style.newline = None;
            format!(" {}", member(&style))
        };
        if comma.is_none() {
            edits.push((value_end..value_end, ",".to_owned()));
        }
        let end = if comma.is_some() { "," } else { "" };
        edits.push((place..place, format!("{new}{end}")));
    }

    /// Cuts one member out, with the white space and the comma that came with it.
    fn cut(&self, object: &Object<'t>, at: usize, edits: &mut Edits) {
        let Some(property) = object.properties.get(at) else {
            return;
        };
        let (open, close) = (object.range.start + 1, object.range.end - 1);
        let (start, end) = (property.range.start, property.value.range().end);
        let comma = self.comma_from(end);
        if object.properties.len() == 1 {
            let after = comma.clone().map_or(end, |comma| comma.end);
            let blank = |range| self.slice(range).trim().is_empty();
            if start > open && blank(open..start) && blank(end..after) && blank(after..close) {
                edits.push((open..close, String::new()));
                return;
            }
        }
        let lead = self.slice(open..start);
        let bare = lead.trim_end_matches([' ', '\t']);
        let bare = match bare.strip_suffix('\n') {
            Some(line) => line.strip_suffix('\r').unwrap_or(line),
            None => bare,
        };
        edits.push((open + bare.len()..end, String::new()));
        let last = at + 1 == object.properties.len();
        match comma {
            Some(comma) => edits.push((comma, String::new())),
            None if last => {
                let before = at.checked_sub(1).and_then(|at| object.properties.get(at));
                let comma = before.and_then(|one| self.comma_from(one.value.range().end));
                edits.extend(comma.map(|comma| (comma, String::new())));
            }
            None => {}
        }
    }

    /// Whether an object holds one member and white space, and so was made for it.
    fn holds_only(&self, object: &Object<'t>, property: &ObjectProp<'t>) -> bool {
        let (open, close) = (object.range.start + 1, object.range.end - 1);
        object.properties.len() == 1
            && self.slice(open..property.range.start).trim().is_empty()
            && self
                .slice(property.value.range().end..close)
                .trim()
                .is_empty()
    }
}

/// Whether the list an entry stands in was made for it.
fn made_for_it(property: &ObjectProp<'_>) -> bool {
    let members = property.value.as_object().map(|object| &object.properties);
    let at = |name: &str| {
        let mut members = members.into_iter().flatten();
        members.position(|member| member.name.as_str() == name)
    };
    matches!((at("args"), at("command")), (Some(args), Some(command)) if args < command)
}

fn is_comment(token: &Token<'_>) -> bool {
    matches!(token, Token::CommentBlock(_) | Token::CommentLine(_))
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::BooleanLit(_) => "true or false",
        Value::NullKeyword(_) => "null",
        Value::NumberLit(_) => "a number",
        Value::Object(_) => "an object",
        Value::StringLit(_) => "a text",
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
