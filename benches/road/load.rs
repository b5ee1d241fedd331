//! The load generator: one client of one stdio server, nothing between it and the pipes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// How MCP is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// 2025-11-25.
    Handshake,
    /// 2026-07-28.
    Stateless,
}

impl Era {
    pub(crate) const BOTH: [Self; 2] = [Self::Handshake, Self::Stateless];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Stateless => "stateless",
        }
    }

    /// The last member of every request's params.
    fn meta(self) -> &'static str {
        match self {
            Self::Handshake => "",
            Self::Stateless => concat!(
                r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
                r#""io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},"#,
                r#""io.modelcontextprotocol/clientCapabilities":{}}"#
            ),
        }
    }
}

impl std::str::FromStr for Era {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let era = Self::BOTH.into_iter().find(|era| era.name() == text);
        era.ok_or_else(|| format!("{text} is no era"))
    }
}

/// A server under load, and the client's era. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    era: Era,
    child: Child,
    input: File,
    output: File,
    /// Bytes that were read lie from `start` to `end`; the rest is room.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    next_id: u64,
}

/// The median, by sorting a copy.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(&mut values.to_vec(), 0.5)
}

/// The value below which this share of the values lies.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is a small positive number"
    )]
    let at = (values.len() as f64 * share) as usize;
    values[at.min(values.len() - 1)]
}

/// A number in `/proc/PID/status`.
fn field(status: &str, name: &str) -> f64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let number = value.unwrap().split_whitespace().next().unwrap();
    number.parse().unwrap()
}

/// Text like source code: one JSON escape in about 57 bytes.
fn text(bytes: usize) -> String {
    "    let value = compute(&input, 42); // as it was before\\n"
        .chars()
        .cycle()
        .take(bytes)
        .collect::<String>()
        .trim_end_matches('\\')
        .to_owned()
}

impl Peer {
    pub(crate) fn start(era: Era, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = OwnedFd::from(child.stdin.take().unwrap());
        let output = OwnedFd::from(child.stdout.take().unwrap());
        Self {
            era,
            child,
            input: input.into(),
            output: output.into(),
            buffer: vec![0; 16 << 20],
            start: 0,
            end: 0,
            next_id: 1,
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Processor time of all its threads, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let ns: f64 = tasks
            .map(|task| {
                let path = task.unwrap().path().join("schedstat");
                let text = std::fs::read_to_string(path).unwrap();
                text.split(' ').next().unwrap().parse::<f64>().unwrap()
            })
            .sum();
        ns / 1000.0
    }

    fn status(&self, task: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{task}status", self.pid())).unwrap()
    }

    /// Resident memory, in MiB.
    pub(crate) fn rss_mb(&self) -> f64 {
        field(&self.status(""), "VmRSS:") / 1024.0
    }

    /// How often its threads were put on a processor since they began.
    pub(crate) fn wakes(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .map(|task| {
                let task = task.unwrap().file_name().into_string().unwrap();
                let status = self.status(&format!("task/{task}/"));
                let switches = |kind| field(&status, &format!("{kind}_ctxt_switches:"));
                switches("voluntary") + switches("nonvoluntary")
            })
            .sum()
    }

    fn send(&mut self, bytes: &[u8]) {
        self.input.write_all(bytes).unwrap();
    }

    /// The next line, without its newline.
    fn line(&mut self) -> &[u8] {
        let mut scanned = 0;
        loop {
            let rest = &self.buffer[self.start + scanned..self.end];
            if let Some(at) = memchr::memchr(b'\n', rest) {
                let line = self.start..self.start + scanned + at;
                self.start = line.end + 1;
                return &self.buffer[line];
            }
            scanned = self.end - self.start;
            self.fill();
        }
    }

    fn fill(&mut self) {
        if self.start == self.end || self.start > (8 << 20) {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let read = self.output.read(&mut self.buffer[self.end..]).unwrap();
        assert!(read > 0, "the server under test ended");
        self.end += read;
    }

    /// Sends a request; gives its id.
    fn request(&mut self, method: &str, members: &str) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let meta = match members.is_empty() {
            true => self.era.meta().trim_start_matches(','),
            false => self.era.meta(),
        };
        let request = format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\
             \"params\":{{{members}{meta}}}}}\n"
        );
        self.send(request.as_bytes());
        id
    }

    /// The answer to a request, skipping notifications.
    fn answer(&mut self, method: &str, members: &str) -> serde_json::Value {
        let id = self.request(method, members);
        loop {
            let answer: serde_json::Value = serde_json::from_slice(self.line()).unwrap();
            if answer["id"] == id {
                assert!(answer.get("result").is_some(), "{answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Opens the session as its era does.
    pub(crate) fn open(&mut self) {
        match self.era {
            Era::Handshake => {
                let members = concat!(
                    r#""protocolVersion":"2025-11-25","capabilities":{},"#,
                    r#""clientInfo":{"name":"bench","version":"1"}"#
                );
                self.answer("initialize", members);
                self.send(b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
            }
            Era::Stateless => drop(self.answer("server/discover", "")),
        }
    }

    /// Lists the tools by all pages; gives how many there are.
    pub(crate) fn list(&mut self) -> usize {
        let (mut count, mut members) = (0, String::new());
        loop {
            let result = self.answer("tools/list", &members);
            count += result["tools"].as_array().unwrap().len();
            match result.get("nextCursor") {
                None => return count,
                Some(cursor) => members = format!("\"cursor\":{cursor}"),
            }
        }
    }

    /// Asks for the tools; gives the milliseconds to the first byte and to the last one of the
    /// first page, and its length.
    pub(crate) fn list_bytes(&mut self) -> (f64, f64, usize) {
        let start = Instant::now();
        self.request("tools/list", "");
        assert_eq!(self.start, self.end, "nothing else is on its way");
        self.fill();
        let first = start.elapsed().as_secs_f64() * 1e3;
        let length = self.line().len();
        (first, start.elapsed().as_secs_f64() * 1e3, length)
    }

    /// A call of its own: the text begins with the id, since the same call again and again is
    /// stopped.
    fn call_line(&self, id: u64, tool: &str, text: &str) -> Vec<u8> {
        let meta = self.era.meta();
        let text = format!("{id:08}{}", &text[8..]);
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":\
             {{\"name\":\"{tool}\",\"arguments\":{{\"text\":\"{text}\"}}{meta}}}}}\n"
        )
        .into_bytes()
    }

    /// Calls one after the other; gives the time of each in microseconds.
    pub(crate) fn calls(&mut self, tool: &str, bytes: usize, calls: usize) -> Vec<f64> {
        all_in_turn(&mut [self], &[tool], bytes, calls)
    }

    /// Calls per second with this many in flight.
    pub(crate) fn pipelined(
        &mut self,
        tool: &str,
        bytes: usize,
        in_flight: usize,
        calls: usize,
    ) -> f64 {
        let text = text(bytes);
        let mut requests = Vec::new();
        let mut sent = 0;
        let start = Instant::now();
        let mut answered = 0;
        while answered < calls {
            while sent < calls && sent - answered < in_flight {
                requests.extend(self.call_line(1_000_000 + self.next_id, tool, &text));
                self.next_id += 1;
                sent += 1;
            }
            if !requests.is_empty() {
                self.send(&std::mem::take(&mut requests));
            }
            // one answer is waited for, and all that came with it are taken
            self.line();
            answered += 1;
            while memchr::memchr(b'\n', &self.buffer[self.start..self.end]).is_some() {
                self.line();
                answered += 1;
            }
        }
        calls as f64 / start.elapsed().as_secs_f64()
    }
}

/// Calls one after the other, of each peer and tool in turn; gives the time of each in
/// microseconds. The first answers are checked byte for byte, the rest by length.
pub(crate) fn all_in_turn(
    peers: &mut [&mut Peer],
    tools: &[&str],
    bytes: usize,
    calls: usize,
) -> Vec<f64> {
    let text = text(bytes);
    let mut expected = 0;
    let mut times = Vec::with_capacity(calls);
    for number in 0..calls {
        let (tool, turn) = (tools[number % tools.len()], number % peers.len());
        let peer = &mut *peers[turn];
        // ids of one width, so that lengths are equal
        let id = 1_000_000 + peer.next_id;
        peer.next_id += 1;
        let request = peer.call_line(id, tool, &text);
        let start = Instant::now();
        peer.send(&request);
        let answer = peer.line();
        let took = start.elapsed();
        let length = answer.len();
        if number < 3 {
            let answer = std::str::from_utf8(answer).unwrap();
            let id = id.to_string();
            assert!(answer.contains(&text[8..]), "{answer}");
            assert_eq!(answer.matches(&id).count(), 2, "{answer}");
            expected = length;
        }
        assert_eq!(length, expected);
        times.push(took.as_secs_f64() * 1e6);
    }
    times
}

/// A call to every peer at once, then their answers, over and over; gives the time from each
/// call to its answer in microseconds.
pub(crate) fn all_at_once(peers: &mut [Peer], tool: &str, bytes: usize, rounds: usize) -> Vec<f64> {
    let text = text(bytes);
    let mut times = Vec::with_capacity(rounds * peers.len());
    for _ in 0..rounds {
        let mut starts = Vec::with_capacity(peers.len());
        for peer in &mut *peers {
            let request = peer.call_line(1_000_000 + peer.next_id, tool, &text);
            peer.next_id += 1;
            starts.push(Instant::now());
            peer.send(&request);
        }
        for (peer, start) in peers.iter_mut().zip(starts) {
            peer.line();
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
