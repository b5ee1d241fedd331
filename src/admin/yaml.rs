//! Strict YAML with positions: text, lists and mappings, nothing else.
//!
//! A tree over the events of saphyr-parser (`docs/decisions/0001-strict-yaml-with-positions.md`).
//! What could be read two ways is a problem: duplicate and complex keys, anchors, aliases, tags,
//! merge keys, a second document. There are no implicit types: the reader of a field says what
//! it expects of the text.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};

use super::problem::{At, Sink, either, nearest};

/// Largest source file, in bytes.
pub(super) const FILE_BYTES: usize = 1 << 20;
/// Deepest nesting of lists and mappings.
const DEPTH: usize = 32;
/// Most values in one file.
const NODES: usize = 100_000;

/// One value.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    List(Vec<Node>),
    /// In their order, each key once.
    Map(Vec<(Key, Node)>),
    Text {
        text: String,
        plain: bool,
    },
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) at: At,
    pub(super) text: String,
}

/// Parses one file. Problems go to the sink; a file that is not YAML, or empty, gives no tree.
pub(super) fn parse(text: &str, sink: &mut Sink<'_>) -> Option<Node> {
    let mut builder = Builder {
        text,
        events: Parser::new_from_str(text),
        nodes: 0,
        sink,
    };
    builder.stream()
}

/// Recursion goes to [`DEPTH`]. `None` means that a problem was reported and parsing is over.
struct Builder<'t, 's, 'p> {
    text: &'t str,
    events: Parser<'t, StrInput<'t>>,
    nodes: usize,
    sink: &'s mut Sink<'p>,
}

impl<'t> Builder<'t, '_, '_> {
    fn next(&mut self) -> Option<(Event<'t>, At)> {
        match self.events.next_event()? {
            Ok((event, span)) => Some((event, at(&span.start))),
            Err(error) => {
                let at = at(error.marker());
                let (message, fix) = in_words(self.text, at.line, error.info());
                self.sink.error(at, "yaml", message, fix);
                None
            }
        }
    }

    fn stream(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, at) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) if root.is_some() => {
                    self.sink.error(
                        at,
                        "one-document",
                        "a second YAML document begins here, and would not be read",
                        "put it into a file of its own",
                    );
                    break;
                }
                Event::DocumentStart(_) => {}
                event => root = Some(self.node(event, at, 0)?),
            }
        }
        if root.is_none() {
            let fix = "write its keys, or delete the file";
            self.sink
                .error(At::default(), "empty-file", "the file is empty", fix);
        }
        root
    }

    fn node(&mut self, event: Event<'t>, at: At, depth: usize) -> Option<Node> {
        self.nodes += 1;
        if depth > DEPTH || self.nodes > NODES {
            let message = format!("more than {DEPTH} levels or {NODES} values");
            self.sink.error(at, "too-large", message, "split the file");
            return None;
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_only(at, anchor, tag.is_some());
                Value::Text {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain_only(at, anchor, tag.is_some());
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, at) => items.push(self.node(event, at, depth + 1)?),
                    }
                }
                Value::List(items)
            }
            Event::MappingStart(anchor, tag) => {
                self.plain_only(at, anchor, tag.is_some());
                Value::Map(self.members(depth)?)
            }
            Event::Alias(_) => {
                let fix = "write the value out: a reviewer reads one place";
                self.sink
                    .error(at, "no-alias", "aliases are not used here", fix);
                Value::List(Vec::new())
            }
            // the parser ends what it began
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return None,
        };
        Some(Node { at, value })
    }

    fn members(&mut self, depth: usize) -> Option<Vec<(Key, Node)>> {
        let mut members: Vec<(Key, Node)> = Vec::new();
        let mut lines = std::collections::BTreeMap::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                return Some(members);
            }
            let key = self.node(event, at, depth + 1)?;
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at, depth + 1)?;
            let text = match key.value {
                Value::Text { text, plain } if !(plain && text == "<<") => text,
                Value::Text { .. } => {
                    let fix = "write the members out: a reviewer reads one place";
                    self.sink
                        .error(at, "no-merge", "merge keys are not used here", fix);
                    continue;
                }
                Value::List(_) | Value::Map(_) => {
                    let fix = "use a text as the key";
                    self.sink
                        .error(at, "text-key", "a key is a list or a mapping", fix);
                    continue;
                }
            };
            if let Some(line) = lines.insert(text.clone(), at.line) {
                self.sink.error(
                    at,
                    "duplicate-key",
                    format!("the key `{text}` stands twice, first in line {line}"),
                    "keep one of them",
                );
                continue;
            }
            members.push((Key { at, text }, value));
        }
    }

    fn plain_only(&mut self, at: At, anchor: usize, tag: bool) {
        if anchor > 0 {
            let fix = "remove `&…`: values are written out where they are used";
            self.sink
                .error(at, "no-alias", "anchors are not used here", fix);
        }
        if tag {
            let fix = "remove `!…`: the key decides what its value is";
            self.sink.error(at, "no-tag", "tags are not used here", fix);
        }
    }
}

/// What a line that is not YAML most likely got wrong, in a reviewer's words, with its fix. The
/// parser may notice it on the next line.
fn in_words(text: &str, line: usize, parser: &str) -> (String, String) {
    let unread = "; everything after this line was not read";
    let lines = text.lines().take(line).skip(line.saturating_sub(2));
    for line in lines.collect::<Vec<_>>().into_iter().rev() {
        if let Some((message, fix)) = mistake(line) {
            return (format!("not YAML: {message}"), format!("{fix}{unread}"));
        }
    }
    let fix = format!("correct the syntax{unread}");
    (format!("not YAML: {parser}"), fix)
}

/// The mistakes that people make in one line: a tab, a star, a colon or another sign that means
/// something to YAML, without quotes.
fn mistake(line: &str) -> Option<(String, String)> {
    if line
        .chars()
        .take_while(|c| c.is_whitespace())
        .any(|c| c == '\t')
    {
        let message = "a tab stands where a line begins".to_owned();
        return Some((message, "indent with blanks".to_owned()));
    }
    let body = line.trim_start().trim_start_matches("- ");
    let value = match body.split_once(": ") {
        Some((_, value)) => value.trim(),
        None => body.trim(),
    };
    let quoted = |word: &str| format!("put it in quotes: `\"{word}\"`");
    if value.starts_with(['"', '\'']) {
        return None;
    }
    // in lists of one line, too
    let words = value.trim_matches(['[', ']']).split(',').map(str::trim);
    for word in words.filter(|word| !word.is_empty()) {
        let sign = word.chars().next().filter(|c| "*&!%@`|>".contains(*c));
        if let Some(sign) = sign {
            let message = format!("`{word}` begins with `{sign}`, which means something to YAML");
            return Some((message, quoted(word)));
        }
    }
    if value.contains(": ") || value.ends_with(':') {
        let message = format!("`{value}` has a colon in it, which begins another value for YAML");
        return Some((message, quoted(value)));
    }
    None
}

fn at(marker: &Marker) -> At {
    At {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

/// The members of one mapping, taken by key; what is left over is unknown.
#[derive(Debug)]
pub(super) struct Fields<'n> {
    pub(super) at: At,
    what: &'static str,
    members: Vec<(&'n Key, &'n Node)>,
    known: Vec<&'static str>,
    missing: Vec<(&'static str, String)>,
}

impl<'n> Fields<'n> {
    /// Opens a mapping. Anything else is a problem.
    pub(super) fn open(node: &'n Node, what: &'static str, sink: &mut Sink<'_>) -> Option<Self> {
        let members = mapping(node, what, sink)?;
        Some(Self {
            at: node.at,
            what,
            members: members.iter().map(|(key, node)| (key, node)).collect(),
            known: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// Takes a member that may be missing.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        let i = self.members.iter().position(|(k, _)| k.text == key)?;
        Some(self.members.remove(i).1)
    }

    /// Takes a member that must be there.
    pub(super) fn need(&mut self, key: &'static str, fix: &str) -> Option<&'n Node> {
        let node = self.take(key);
        if node.is_none() {
            self.missing.push((key, fix.to_owned()));
        }
        node
    }

    /// Reports what is missing, when nothing can be said about the rest.
    pub(super) fn abandon(self, sink: &mut Sink<'_>) {
        for (key, fix) in self.missing {
            let message = format!("{} has no `{key}`", self.what);
            sink.error(self.at, "missing-key", message, fix);
        }
    }

    /// Reports what is missing and what nobody took. A misspelled key that must be there is one
    /// mistake, not two.
    pub(super) fn finish(mut self, sink: &mut Sink<'_>) {
        let what = self.what;
        for (key, _) in &self.members {
            let fix = match nearest(&key.text, self.known.iter().copied()) {
                Some(meant) => {
                    self.missing.retain(|(key, _)| *key != meant);
                    format!("did you mean `{meant}`?")
                }
                None => format!("use {}", either(self.known.iter().copied())),
            };
            let message = format!("{what} has no key `{}`", key.text);
            sink.error(key.at, "unknown-key", message, fix);
        }
        self.abandon(sink);
    }
}

/// Opens a mapping whose keys are names.
pub(super) fn mapping<'n>(
    node: &'n Node,
    what: &'static str,
    sink: &mut Sink<'_>,
) -> Option<&'n [(Key, Node)]> {
    match &node.value {
        Value::Map(members) => Some(members),
        Value::List(_) | Value::Text { .. } => {
            wrong(
                node,
                what,
                "a mapping, `key: value` on lines of their own",
                sink,
            );
            None
        }
    }
}

fn wrong(node: &Node, what: &str, expected: &str, sink: &mut Sink<'_>) {
    let found = match &node.value {
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
        Value::Text { text, plain } if *plain && text.is_empty() => {
            let message = format!("{what} is nothing");
            let fix = format!(
                "write {expected}; one that begins with `#` needs quotes, as YAML takes it for a comment"
            );
            sink.error(node.at, "wrong-type", message, fix);
            return;
        }
        Value::Text { text, .. } => {
            let cut: String = text.chars().take(40).collect();
            format!("`{cut}`")
        }
    };
    let message = format!("{what} is {found}");
    sink.error(node.at, "wrong-type", message, format!("write {expected}"));
}

/// Reads a text: any scalar as it stands, but not a missing value (`~`, `null`, nothing).
pub(super) fn text<'n>(node: &'n Node, what: &str, sink: &mut Sink<'_>) -> Option<&'n str> {
    let absent = ["", "~", "null", "Null", "NULL"];
    match &node.value {
        Value::Text { text, plain } if !(*plain && absent.contains(&text.as_str())) => {
            if text.trim().is_empty() {
                sink.error(
                    node.at,
                    "wrong-type",
                    format!("{what} is empty"),
                    "write a text",
                );
                return None;
            }
            Some(text)
        }
        Value::List(_) | Value::Map(_) | Value::Text { .. } => {
            wrong(node, what, "a text", sink);
            None
        }
    }
}

/// Reads exactly `true` or `false`.
pub(super) fn flag(node: &Node, what: &str, sink: &mut Sink<'_>) -> Option<bool> {
    match &node.value {
        Value::Text { text, plain: true } if text == "true" => Some(true),
        Value::Text { text, plain: true } if text == "false" => Some(false),
        Value::List(_) | Value::Map(_) | Value::Text { .. } => {
            wrong(node, what, "`true` or `false`", sink);
            None
        }
    }
}

/// Reads decimal digits without a leading zero.
pub(super) fn number(
    node: &Node,
    what: &str,
    range: std::ops::RangeInclusive<u64>,
    sink: &mut Sink<'_>,
) -> Option<u64> {
    if let Value::Text { text, plain: true } = &node.value
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text == "0" || !text.starts_with('0'))
        && let Ok(number) = text.parse()
        && range.contains(&number)
    {
        return Some(number);
    }
    let (low, high) = (range.start(), range.end());
    wrong(
        node,
        what,
        &format!("a whole number from {low} to {high}"),
        sink,
    );
    None
}

/// Reads a list; each item is for the caller.
pub(super) fn list<'n>(node: &'n Node, what: &str, sink: &mut Sink<'_>) -> &'n [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Map(_) | Value::Text { .. } => {
            wrong(node, what, "a list, such as `[a, b]`", sink);
            &[]
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::admin::problem::Problems;

    /// The problems of a text, or its tree on one line.
    fn check(text: &str) -> String {
        let mut problems = Problems::default();
        let mut sink = Sink {
            file: "x.yaml",
            problems: &mut problems,
        };
        let tree = parse(text, &mut sink);
        match problems.0.is_empty() {
            true => spell(&tree.unwrap()),
            false => problems.to_string(),
        }
    }

    fn spell(node: &Node) -> String {
        match &node.value {
            Value::List(items) => {
                format!(
                    "[{}]",
                    items.iter().map(spell).collect::<Vec<_>>().join(" ")
                )
            }
            Value::Map(members) => {
                let member = |(key, node): &(Key, Node)| format!("{}={}", key.text, spell(node));
                format!(
                    "{{{}}}",
                    members.iter().map(member).collect::<Vec<_>>().join(" ")
                )
            }
            Value::Text { text, .. } => format!("{text:?}@{}:{}", node.at.line, node.at.column),
        }
    }

    #[test]
    fn texts_are_the_text_that_stands_there() {
        assert_snapshot!(
            check("a: no\nb: [010, 1.10, ~]\nc:\n  d: 'yes' # comment\n\"e\": |\n  two\n  lines\n"),
            @r#"{a="no"@1:4 b=["010"@2:5 "1.10"@2:10 "~"@2:16] c={d="yes"@4:6} e="two\nlines\n"@6:3}"#
        );
    }

    #[test]
    fn json_is_yaml() {
        assert_snapshot!(check(r#"{"id": "7f", "not_before": 1}"#), @r#"{id="7f"@1:8 not_before="1"@1:28}"#);
    }

    #[test]
    fn line_ends_and_byte_order_marks_of_other_systems_are_fine() {
        assert_snapshot!(check("\u{feff}a: b\r\nc: d\r\n"), @r#"{a="b"@1:4 c="d"@2:4}"#);
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused_all_at_once() {
        assert_snapshot!(check("a: &x 1\nb: *x\nc: !secret y\na: 2\n<<: {d: 1}\n? [k]\n: v\n"), @r#"
x.yaml:1:4: error: anchors are not used here [no-alias]
  fix: remove `&…`: values are written out where they are used
x.yaml:2:4: error: aliases are not used here [no-alias]
  fix: write the value out: a reviewer reads one place
x.yaml:3:4: error: tags are not used here [no-tag]
  fix: remove `!…`: the key decides what its value is
x.yaml:4:1: error: the key `a` stands twice, first in line 1 [duplicate-key]
  fix: keep one of them
x.yaml:5:1: error: merge keys are not used here [no-merge]
  fix: write the members out: a reviewer reads one place
x.yaml:6:3: error: a key is a list or a mapping [text-key]
  fix: use a text as the key
"#);
    }

    #[test]
    fn a_second_document_is_not_ignored() {
        assert_snapshot!(check("a: 1\n---\nb: 2\n"), @r#"
x.yaml:2:1: error: a second YAML document begins here, and would not be read [one-document]
  fix: put it into a file of its own
"#);
    }

    #[test]
    fn broken_syntax_says_where() {
        assert_snapshot!(check("a: [1, 2\nb: 3\n"), @r#"
x.yaml:2:2: error: not YAML: illegal placement of ':' indicator [yaml]
  fix: correct the syntax; everything after this line was not read
"#);
        assert_snapshot!(check("a:\n\t- b\n"), @r#"
x.yaml:2:2: error: not YAML: tabs disallowed within this context (block indentation) [yaml]
  fix: correct the syntax; everything after this line was not read
"#);
        assert_snapshot!(check("# nothing\n"), @r#"
x.yaml: error: the file is empty [empty-file]
  fix: write its keys, or delete the file
"#);
    }

    #[test]
    fn nesting_and_size_are_bounded() {
        assert_snapshot!(check(&"[".repeat(100)), @r#"
x.yaml:1:34: error: more than 32 levels or 100000 values [too-large]
  fix: split the file
"#);
        assert!(check(&"- a\n".repeat(NODES + 1)).contains("too-large"));
    }

    #[test]
    fn flags_and_numbers_have_one_spelling() {
        let mut problems = Problems::default();
        let mut sink = Sink {
            file: "x.yaml",
            problems: &mut problems,
        };
        let tree = parse(
            "[true, yes, True, 'true', 0, 7, 07, 0x7, 1_0, -1, 8, 99999999999999999999]",
            &mut sink,
        );
        let Some(Node {
            value: Value::List(items),
            ..
        }) = tree
        else {
            panic!()
        };
        let flags: Vec<_> = items
            .iter()
            .filter_map(|n| flag(n, "it", &mut sink))
            .collect();
        let numbers: Vec<_> = items
            .iter()
            .filter_map(|n| number(n, "it", 0..=7, &mut sink))
            .collect();
        assert_eq!((flags, numbers), (vec![true], vec![0, 7]));
        assert_snapshot!(problems.0[5], @r#"
x.yaml:1:33: error: it is `07` [wrong-type]
  fix: write `true` or `false`
"#);
        assert_snapshot!(problems.0[11], @r#"
x.yaml:1:2: error: it is `true` [wrong-type]
  fix: write a whole number from 0 to 7
"#);
    }

    #[test]
    fn a_missing_value_is_no_text() {
        let mut problems = Problems::default();
        let mut sink = Sink {
            file: "x.yaml",
            problems: &mut problems,
        };
        let tree = parse("[no, 1, '', null, ~, 'null', ]", &mut sink);
        let Some(Node {
            value: Value::List(items),
            ..
        }) = tree
        else {
            panic!()
        };
        let texts: Vec<_> = items
            .iter()
            .filter_map(|n| text(n, "owner", &mut sink))
            .collect();
        assert_eq!(texts, ["no", "1", "null"]);
        assert_snapshot!(problems, @r#"
x.yaml:1:9: error: owner is empty [wrong-type]
  fix: write a text
x.yaml:1:13: error: owner is `null` [wrong-type]
  fix: write a text
x.yaml:1:19: error: owner is `~` [wrong-type]
  fix: write a text
"#);
    }
}
