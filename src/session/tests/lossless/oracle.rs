//! The edits of `docs/formats/edits.md` made by other code than the product's: a small reader of
//! JSON that keeps where everything lies, and one function per kind of message that makes exactly
//! the edits of the page. What it gives is compared byte by byte.

use std::collections::BTreeSet;
use std::ops::Range;

/// Stands where the last member of an object was: the next one is put there.
const HOLE: char = '\u{1}';

/// One value of a text: where it lies, and its members when it is an object.
struct Node {
    at: Range<usize>,
    /// Key (unescaped; of an array the number), where the key begins, value.
    members: Vec<(String, usize, Self)>,
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    fn byte(&self) -> u8 {
        self.text.as_bytes()[self.at]
    }

    fn white(&mut self) {
        while self.at < self.text.len() && b" \t\n\r\x01".contains(&self.byte()) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> &str {
        let from = self.at;
        assert_eq!(self.byte(), b'"', "a string at {from} of {}", self.text);
        self.at += 1;
        while self.byte() != b'"' {
            self.at += if self.byte() == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        &self.text[from..self.at]
    }

    fn node(&mut self) -> Node {
        let from = self.at;
        let mut members = Vec::new();
        match self.byte() {
            b'"' => drop(self.string().len()),
            open @ (b'{' | b'[') => {
                let close = if open == b'{' { b'}' } else { b']' };
                self.at += 1;
                self.white();
                while self.byte() != close {
                    if open == b'{' {
                        let start = self.at;
                        let key = self.string();
                        // a lone surrogate is a key that no edit names
                        let key = serde_json::from_str(key).unwrap_or_default();
                        self.white();
                        self.at += 1;
                        self.white();
                        let value = self.node();
                        members.push((key, start, value));
                    } else {
                        // by its number
                        let (key, start) = (members.len().to_string(), self.at);
                        members.push((key, start, self.node()));
                    }
                    self.white();
                    if self.byte() == b',' {
                        self.at += 1;
                        self.white();
                    }
                }
                self.at += 1;
            }
            _ => {
                while self.at < self.text.len() && !b",]} \t\x01".contains(&self.byte()) {
                    self.at += 1;
                }
            }
        }
        Node {
            at: from..self.at,
            members,
        }
    }
}

fn read(text: &str) -> Node {
    let mut reader = Reader { text, at: 0 };
    reader.white();
    reader.node()
}

impl Node {
    fn find(&self, path: &[&str]) -> Option<&Self> {
        let Some((first, rest)) = path.split_first() else {
            return Some(self);
        };
        let found = self.members.iter().find(|(key, ..)| key == first);
        found.and_then(|(.., value)| value.find(rest))
    }
}

/// A message on its way to what it should become.
pub(super) struct Expected<'n> {
    text: String,
    /// The numbers of the edits made so far, of all messages.
    made: &'n mut BTreeSet<u32>,
}

impl<'n> Expected<'n> {
    pub(super) fn of(text: &str, made: &'n mut BTreeSet<u32>) -> Self {
        Self {
            text: text.to_owned(),
            made,
        }
    }

    pub(super) fn get(&self, path: &[&str]) -> Option<String> {
        let root = read(&self.text);
        let node = root.find(path)?;
        Some(self.text[node.at.clone()].to_owned())
    }

    /// Edit `number`: a text is put at the begin of a string, and what hides in that is shown;
    /// nothing where there is none.
    pub(super) fn label(&mut self, number: u32, path: &[&str], text: &str) {
        let said = self.text(path).unwrap_or_default();
        let shown = crate::text::message(&said);
        if shown != said {
            return self.set(number, path, &quoted(&format!("{text}{shown}")));
        }
        let at = read(&self.text).find(path).map(|node| node.at.start);
        if let Some(at) = at {
            self.text.insert_str(at + 1, text);
            self.made.insert(number);
        }
    }

    /// Edit `number`: what hides in a string is shown.
    fn shown(&mut self, number: u32, path: &[&str]) {
        let said = self.text(path).unwrap_or_default();
        let shown = crate::text::visible(&said);
        if shown != said {
            self.set(number, path, &quoted(&shown));
        }
    }

    /// The values of an array, as paths to their members: their number is the key.
    pub(super) fn entries(&self, path: &[&str]) -> usize {
        let root = read(&self.text);
        root.find(path).map_or(0, |node| node.members.len())
    }

    /// Edit 42: the URI of the second of two servers, where a result may have it.
    fn alias(&mut self) {
        let mut blocks = Vec::new();
        let mut places = Vec::new();
        for n in 0..self.entries(&["result", "contents"]) {
            places.push(format!("result contents {n} uri"));
        }
        for n in 0..self.entries(&["result", "content"]) {
            blocks.push(format!("result content {n}"));
        }
        for n in 0..self.entries(&["result", "messages"]) {
            let n = n.to_string();
            blocks.push(format!("result messages {n} content"));
            for m in 0..self.entries(&["result", "messages", &n, "content"]) {
                blocks.push(format!("result messages {n} content {m}"));
            }
        }
        for block in blocks {
            let path: Vec<&str> = block.split(' ').chain(["type"]).collect();
            match self.text(&path).as_deref() {
                Some("resource_link") => places.push(format!("{block} uri")),
                Some("resource") => places.push(format!("{block} resource uri")),
                _ => {}
            }
        }
        for place in places {
            let place: Vec<&str> = place.split(' ').collect();
            if self.text(&place).as_deref() == Some(SHARED) {
                self.set(42, &place, &format!("\"{SHOWN}\""));
            }
        }
    }

    /// The unescaped text of a string.
    pub(super) fn text(&self, path: &[&str]) -> Option<String> {
        serde_json::from_str(&self.get(path)?).ok()
    }

    /// The keys of an object.
    pub(super) fn keys(&self, path: &[&str]) -> Vec<String> {
        let root = read(&self.text);
        let members = root.find(path).map(|node| &node.members);
        let keys = members.into_iter().flatten().map(|(key, ..)| key.clone());
        keys.collect()
    }

    /// Edit `number`: a value is replaced; nothing where there is none.
    pub(super) fn set(&mut self, number: u32, path: &[&str], value: &str) {
        let at = read(&self.text).find(path).map(|node| node.at.clone());
        if let Some(at) = at {
            self.text.replace_range(at, value);
            self.made.insert(number);
        }
    }

    /// Edit `number`: a member is removed; nothing where there is none.
    pub(super) fn remove(&mut self, number: u32, object: &[&str], key: &str) {
        let root = read(&self.text);
        let Some(members) = root.find(object).map(|node| &node.members) else {
            return;
        };
        let Some(at) = members.iter().position(|(found, ..)| found == key) else {
            return;
        };
        let (_, start, value) = &members[at];
        match (members.get(at + 1), at.checked_sub(1)) {
            (Some((_, next, _)), _) => self.text.replace_range(*start..*next, ""),
            (None, Some(before)) => {
                let from = members[before].2.at.end;
                self.text.replace_range(from..value.at.end, "");
            }
            (None, None) => {
                let hole = HOLE.to_string();
                self.text.replace_range(*start..value.at.end, &hole);
            }
        }
        self.made.insert(number);
    }

    /// Edit `number`: an object that the edits before emptied is removed; one that came empty stays.
    pub(super) fn emptied(&mut self, number: u32, object: &[&str], key: &str) {
        let of = self.get(&[object, &[key]].concat());
        if of.is_some_and(|of| of.contains(HOLE) && read(&of).members.is_empty()) {
            self.remove(number, object, key);
        }
    }

    /// Edit `number`: a member is appended.
    pub(super) fn append(&mut self, number: u32, object: &[&str], key: &str, value: &str) {
        let root = read(&self.text);
        let node = root.find(object).expect("an object to append to");
        let member = format!("\"{key}\":{value}");
        match node.members.last() {
            Some((.., last)) => self.text.insert_str(last.at.end, &format!(",{member}")),
            None => {
                let inside = &self.text[node.at.clone()];
                let at = inside.find(HOLE).map_or(1, |at| at);
                self.text.insert_str(node.at.start + at, &member);
            }
        }
        self.made.insert(number);
    }

    /// Edit `number`: a block after the last of a content without text.
    fn says(&mut self, number: u32, block: &str) {
        let content = ["result", "content"];
        let blocks = self.entries(&content);
        let kind = |n: usize| self.text(&["result", "content", &n.to_string(), "type"]);
        if (0..blocks).any(|n| kind(n).as_deref() == Some("text")) {
            return;
        }
        let root = read(&self.text);
        let Some(node) = root.find(&content) else {
            return self.append(number, &["result"], "content", &format!("[{block}]"));
        };
        match node.members.last() {
            Some((.., last)) => self.text.insert_str(last.at.end, &format!(",{block}")),
            None => self.text.insert_str(node.at.start + 1, block),
        }
        self.made.insert(number);
    }

    pub(super) fn done(self) -> String {
        self.text.replace(HOLE, "")
    }
}

/// The four keys by which a request of the stateless era introduces its sender.
pub(super) const OWN: [&str; 4] = [
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/logLevel",
];
const UI: &str = "io.modelcontextprotocol/ui";
const TASKS: &str = "io.modelcontextprotocol/tasks";
/// The URI that both servers have, and how that of the second is shown.
pub(super) const SHARED: &str = "shared://x";
pub(super) const SHOWN: &str = "mcpshim+beta:shared://x";
const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The two sides of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    /// The client speaks the stateless era.
    pub(super) client: bool,
    /// The upstream does.
    pub(super) upstream: bool,
}

/// §1: a request as the upstream gets it. `own` is the upstream's name for what is called;
/// `introduction` are clientInfo, clientCapabilities and logLevel of a handshake client.
pub(super) fn request(
    text: &str,
    pair: Pair,
    id: &str,
    own: Option<(&[&str], &str)>,
    introduction: (&str, &str, Option<&str>),
    made: &mut BTreeSet<u32>,
) -> String {
    let mut line = Expected::of(text, made);
    line.set(1, &["id"], id);
    if pair.client && !pair.upstream {
        // a call that is made again after an address was opened
        line.remove(38, &["params"], "inputResponses");
        line.remove(38, &["params"], "requestState");
    }
    if let Some((path, name)) = own {
        line.set(2, path, &format!("\"{name}\""));
    }
    line.set(3, &["params", "_meta", "progressToken"], id);
    if line.text(&["params", "uri"]).as_deref() == Some(SHOWN) {
        line.set(44, &["params", "uri"], &format!("\"{SHARED}\""));
    }
    if !pair.upstream {
        line.remove(4, &["params"], "task");
    }
    if pair.client != pair.upstream {
        for key in OWN {
            line.remove(5, &["params", "_meta"], key);
        }
    }
    if !pair.upstream {
        line.emptied(5, &["params"], "_meta");
    }
    if !pair.client && pair.upstream {
        if line.get(&["params", "_meta"]).is_none() {
            line.append(6, &["params"], "_meta", "{}");
        }
        let (info, capabilities, level) = introduction;
        let values = [
            Some("\"2026-07-28\""),
            Some(info),
            Some(capabilities),
            level,
        ];
        for (key, value) in OWN.into_iter().zip(values) {
            if let Some(value) = value {
                line.append(6, &["params", "_meta"], key, value);
            }
        }
    }
    if pair.client && pair.upstream {
        // the entry allows all of these
        let capabilities = ["params", "_meta", OWN[2]];
        for name in line.keys(&capabilities) {
            if !["elicitation", "extensions", "roots", "sampling"].contains(&&*name) {
                line.remove(7, &capabilities, &name);
            }
        }
        let extensions = ["params", "_meta", OWN[2], "extensions"];
        for name in line.keys(&extensions) {
            if ![UI, TASKS].contains(&&*name) {
                line.remove(7, &extensions, &name);
            }
        }
        line.emptied(7, &capabilities, "extensions");
    }
    line.done()
}

/// §2: an answer as the client gets it; `None` where it is replaced by mcpshim's own. `opens` says
/// that the client may be sent to an address.
pub(super) fn answer(
    text: &str,
    pair: Pair,
    id: &str,
    cacheable: bool,
    opens: bool,
    made: &mut BTreeSet<u32>,
) -> Option<String> {
    let mut line = Expected::of(text, made);
    line.set(8, &["id"], id);
    for void in ["error", "result"] {
        if line.get(&[void]).as_deref() == Some("null") {
            line.remove(60, &[], void);
        }
    }
    if line.get(&["result"]).is_some() {
        let kind = match line.get(&["result", "resultType"]) {
            None => "complete".to_owned(),
            Some(_) => line.text(&["result", "resultType"]).unwrap_or_default(),
        };
        match (kind.as_str(), pair.client) {
            ("complete", _) | ("input_required", true) => {}
            _ if !pair.upstream => {}
            _ => return None,
        }
    }
    match pair {
        Pair {
            client: false,
            upstream: true,
        } => {
            line.remove(9, &["result"], "resultType");
            let structured = line.get(&["result", "structuredContent"]);
            if let Some(structured) = structured.filter(|content| !content.starts_with('{')) {
                let wrapped = format!("{{\"result\":{structured}}}");
                line.set(39, &["result", "structuredContent"], &wrapped);
                let text = serde_json::to_string(&structured).unwrap();
                line.says(61, &format!("{{\"type\":\"text\",\"text\":{text}}}"));
            }
            if cacheable {
                line.remove(10, &["result"], "ttlMs");
                line.remove(10, &["result"], "cacheScope");
            }
        }
        Pair { client: true, .. } if line.get(&["result"]).is_some() => {
            if cacheable {
                line.set(13, &["result", "cacheScope"], "\"private\"");
                let ttl = line.get(&["result", "ttlMs"]);
                let short = |ttl: String| ttl.parse::<u64>().is_ok_and(|ms| ms <= 30_000);
                if ttl.is_some_and(|ttl| !short(ttl)) {
                    line.set(14, &["result", "ttlMs"], "30000");
                }
            }
            if !pair.upstream {
                let missing = |line: &Expected<'_>, key| line.get(&["result", key]).is_none();
                let of_meta = missing(&line, "_meta");
                if missing(&line, "resultType") {
                    line.append(11, &["result"], "resultType", "\"complete\"");
                }
                if cacheable && missing(&line, "ttlMs") {
                    line.append(12, &["result"], "ttlMs", "0");
                }
                if cacheable && missing(&line, "cacheScope") {
                    line.append(12, &["result"], "cacheScope", "\"private\"");
                }
                let meta = ["result", "_meta"];
                if of_meta {
                    line.append(15, &["result"], "_meta", "{}");
                }
                let is_object = line.get(&meta).is_some_and(|meta| meta.starts_with('{'));
                if is_object && line.get(&["result", "_meta", SERVER_INFO]).is_none() {
                    line.append(15, &meta, SERVER_INFO, r#"{"name":"up"}"#);
                }
            }
        }
        Pair { .. } => {}
    }
    if pair.upstream {
        line.alias();
    }
    let code = line.get(&["error", "code"]);
    match (code.as_deref(), pair.upstream, pair.client) {
        (Some("-32002"), false, true) => line.set(16, &["error", "code"], "-32602"),
        (Some("-32020" | "-32022"), true, _) => line.set(17, &["error", "code"], "-32603"),
        (Some("-32042"), false, false) if opens => {
            let all = ["error", "data", "elicitations"];
            if line.entries(&all) == 0 {
                return None;
            }
            for n in 0..line.entries(&all) {
                let n = n.to_string();
                let message = ["error", "data", "elicitations", &n, "message"];
                line.label(28, &message, "[alpha] ");
            }
        }
        // this client cannot be sent to an address, or not by such a server
        (Some("-32042"), ..) => return None,
        (Some("-32021"), true, false) => return None,
        _ => {}
    }
    Some(line.done())
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// §2: a question of an upstream as a handshake client gets it, or the params of one alone.
/// `number` is that of mcpshim's question; `id` the `elicitationId` to give it.
pub(super) fn question(
    text: &str,
    (server, upstream): (&str, bool),
    number: &str,
    params: &[&str],
    id: Option<&str>,
    made: &mut BTreeSet<u32>,
) -> String {
    let mut line = Expected::of(text, made);
    let below = |name| [params, &[name]].concat();
    if !params.is_empty() {
        line.set(27, &["id"], &format!("\"mcpshim-{number}\""));
    }
    // what a person reads
    if line.get(&below("messages")).is_none() {
        line.label(28, &below("message"), &format!("[{server}] "));
    }
    line.shown(49, &[&below("requestedSchema")[..], &["title"]].concat());
    line.remove(29, params, "task");
    let meta = below("_meta");
    if upstream {
        line.remove(30, &meta, "progressToken");
        line.emptied(30, params, "_meta");
    } else {
        line.set(30, &[&meta[..], &["progressToken"]].concat(), number);
    }
    if let Some(id) = id {
        if line.get(&below("elicitationId")).is_some() {
            line.set(31, &below("elicitationId"), id);
        } else {
            line.append(31, params, "elicitationId", id);
        }
    }
    line.done()
}

/// §2: the params of a handshake server's question as a stateless client gets them; `address`
/// where they are an entry of an error -32042.
pub(super) fn parked(text: &str, address: bool, made: &mut BTreeSet<u32>) -> String {
    let mut line = Expected::of(text, made);
    if line.get(&["messages"]).is_none() {
        line.label(35, &["message"], "[alpha] ");
    }
    line.shown(50, &["requestedSchema", "title"]);
    line.remove(36, &[], "elicitationId");
    line.remove(36, &[], "task");
    line.remove(36, &["_meta"], "progressToken");
    line.remove(36, &["_meta"], "io.modelcontextprotocol/related-task");
    line.emptied(36, &[], "_meta");
    if address && line.get(&["mode"]).is_none() {
        line.append(37, &[], "mode", "\"url\"");
    }
    line.done()
}

/// §2: an `input_required` between stateless peers.
pub(super) fn passed(text: &str, id: &str, made: &mut BTreeSet<u32>) -> String {
    let mut line = Expected::of(text, made);
    line.set(8, &["id"], id);
    let requests = ["result", "inputRequests"];
    for name in line.keys(&requests) {
        let of = [&requests[..], &[name.as_str()]].concat();
        if line.text(&[&of[..], &["method"]].concat()).as_deref() == Some("elicitation/create") {
            let below = |name| [&of[..], &["params", name]].concat();
            line.label(35, &below("message"), "[beta] ");
            line.shown(50, &[&below("requestedSchema")[..], &["title"]].concat());
        }
    }
    line.done()
}

/// §2: the client's answer to a question, or its progress, as a handshake server gets it.
pub(super) fn to_server(
    text: &str,
    number: u32,
    path: &[&str],
    token: &str,
    made: &mut BTreeSet<u32>,
) -> String {
    let mut line = Expected::of(text, made);
    line.set(number, path, token);
    line.done()
}

/// §2: a request that is sent again with what was answered.
pub(super) fn again(
    before: &str,
    id: &str,
    answers: &[(String, String)],
    state: Option<&str>,
    made: &mut BTreeSet<u32>,
) -> String {
    let mut line = Expected::of(before, made);
    line.set(1, &["id"], id);
    line.set(3, &["params", "_meta", "progressToken"], id);
    for key in ["inputResponses", "requestState"] {
        line.remove(34, &["params"], key);
    }
    if !answers.is_empty() {
        line.append(34, &["params"], "inputResponses", "{}");
        for (name, answer) in answers {
            line.append(34, &["params", "inputResponses"], name, answer);
        }
    }
    if let Some(state) = state {
        line.append(34, &["params"], "requestState", state);
    }
    line.done()
}

/// §1: a request about a task, an answer that names one, and news of one: `edit` replaces the id.
pub(super) fn task(
    text: &str,
    edit: u32,
    holder: &str,
    id: &str,
    made: &mut BTreeSet<u32>,
) -> String {
    let mut line = Expected::of(text, made);
    line.set(edit, &[holder, "taskId"], id);
    line.done()
}

/// §4: a pinned definition as a client sees it.
pub(super) fn entry(
    text: &str,
    method: &str,
    (server, pair): (&str, Pair),
    made: &mut BTreeSet<u32>,
) -> String {
    let mut line = Expected::of(text, made);
    let shown = |line: &mut Expected<'_>, number: u32, path: &[&str]| {
        if server == "beta" && line.text(path).as_deref() == Some(SHARED) {
            line.set(number, path, &format!("\"{SHOWN}\""));
        }
    };
    match method {
        "resources/list" => shown(&mut line, 40, &["uri"]),
        "resources/templates/list" => shown(&mut line, 40, &["uriTemplate"]),
        _ => {
            let name = line.text(&["name"]).unwrap();
            line.set(45, &["name"], &format!("\"{server}_{name}\""));
            shown(&mut line, 41, &["_meta", "ui", "resourceUri"]);
            shown(&mut line, 41, &["_meta", "ui/resourceUri"]);
            if pair.upstream && !pair.client {
                let root = line.text(&["outputSchema", "type"]);
                let schema = line.get(&["outputSchema"]);
                if let (Some(schema), true) = (schema, root.as_deref() != Some("object")) {
                    let wrapped = format!(
                        "{{\"type\":\"object\",\"properties\":{{\"result\":{schema}}},\"required\":[\"result\"]}}"
                    );
                    line.set(46, &["outputSchema"], &wrapped);
                }
            }
            if !pair.upstream && pair.client && method == "tools/list" {
                line.remove(47, &[], "execution");
            }
        }
    }
    line.done()
}

/// §3: progress as the client gets it.
pub(super) fn progress(text: &str, token: &str, made: &mut BTreeSet<u32>) -> String {
    let mut line = Expected::of(text, made);
    line.set(18, &["params", "progressToken"], token);
    line.done()
}

/// §2: a client's progress, as the server gets it: its numbers in a message of mcpshim's.
pub(super) fn counted(token: &str, progress: &str, made: &mut BTreeSet<u32>) -> Option<String> {
    made.insert(33);
    let number: f64 = progress.parse().unwrap();
    number.is_finite().then(|| {
        format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":{number}}}}}"#
        )
    })
}

/// §3: a log message as the client gets it.
pub(super) fn logged(text: &str, server: &str, made: &mut BTreeSet<u32>) -> String {
    let mut line = Expected::of(text, made);
    let path = ["params", "logger"];
    let name = crate::text::short(line.text(&path).unwrap_or_default().trim(), 64);
    let name = match name.as_str() {
        "" => quoted(server),
        name => quoted(&format!("{server}/{name}")),
    };
    match line.get(&path) {
        Some(_) => line.set(48, &path, &name),
        None => line.append(48, &["params"], "logger", &name),
    }
    line.done()
}

/// What the record keeps of a request beside `inner`: the whole `params` where those hold more, the
/// whole message where that does.
pub(super) fn kept(text: &str, inner: &[&str], made: &mut BTreeSet<u32>) -> Option<String> {
    let of = Expected::of(text, made);
    let beyond = |path: &[&str], known: &[&str]| {
        let keys = of.keys(path);
        keys.iter().any(|key| !known.contains(&key.as_str()))
    };
    if beyond(
        &[],
        &["jsonrpc", "id", "method", "params", "result", "error"],
    ) {
        return of.get(&[]);
    }
    let known = ["name", "arguments", "uri", "ref", "argument", "_meta"];
    let reference = ["type", "name", "title", "uri"];
    let plain = [
        "progressToken",
        "traceparent",
        "claudecode/toolUseId",
        "io.modelcontextprotocol/protocolVersion",
        "io.modelcontextprotocol/clientInfo",
        "io.modelcontextprotocol/clientCapabilities",
        "io.modelcontextprotocol/logLevel",
    ];
    let meta = ["params", "_meta"];
    let long = plain[1..].iter().any(|key| {
        let value = of.get(&[&meta[..], &[key]].concat());
        value.is_some_and(|value| value.len() > 512)
    });
    let odd = of.get(&meta).is_some_and(|meta| !meta.starts_with('{'));
    if beyond(&["params"], &known)
        || beyond(&["params", "ref"], &reference)
        || beyond(&meta, &plain)
        || long
        || odd
    {
        return of.get(&["params"]);
    }
    of.get(inner)
}

/// §3: `resources/updated` as the client gets it: for one of its listens, or for none.
pub(super) fn updated(text: &str, listen: Option<&str>, made: &mut BTreeSet<u32>) -> String {
    let mut line = Expected::of(text, made);
    if line.text(&["params", "uri"]).as_deref() == Some(SHARED) {
        line.set(43, &["params", "uri"], &format!("\"{SHOWN}\""));
    }
    match listen {
        None => {
            line.remove(20, &["params", "_meta"], SUBSCRIPTION);
            line.emptied(20, &["params"], "_meta");
        }
        Some(id) => {
            if line.get(&["params", "_meta"]).is_none() {
                line.append(19, &["params"], "_meta", "{}");
            }
            if line.get(&["params", "_meta", SUBSCRIPTION]).is_some() {
                line.set(19, &["params", "_meta", SUBSCRIPTION], id);
            } else {
                line.append(19, &["params", "_meta"], SUBSCRIPTION, id);
            }
        }
    }
    line.done()
}

#[test]
fn the_oracle_makes_the_edits_as_the_page_says() {
    let made = &mut BTreeSet::new();
    let mut line = Expected::of(r#"{ "a" : 1 ,  "\u0062":[{},2] , "c":{ "d":1 } }"#, made);
    line.remove(1, &[], "b");
    line.remove(2, &["c"], "d");
    line.append(3, &["c"], "e", "[1]");
    line.append(3, &["c"], "f", "2");
    line.set(4, &["a"], "\"x\"");
    line.remove(9, &["nowhere"], "b");
    assert_eq!(line.done(), r#"{ "a" : "x" ,  "c":{ "e":[1],"f":2 } }"#);
    let mut line = Expected::of(r#"{"a":1 , "b":2 }"#, made);
    line.remove(5, &[], "b");
    assert_eq!(line.done(), r#"{"a":1 }"#);
    let mut line = Expected::of("{ }", made);
    line.append(6, &[], "b", "2");
    assert_eq!(line.done(), r#"{"b":2 }"#);
    assert_eq!(*made, (1..=6).collect());
}
