//! What mcpshim costs: the whole road against a byte relay and the direct connection, in one run.
//!
//! Started by `scripts/bench`, which builds everything and pins all of it to one processor: an
//! unpinned run measures the scheduler (facts: the same relay takes 15 or 35 µs). Rounds are
//! interleaved, so that a busy machine slows all three alike; the ratios are what counts.
//!
//! ```text
//! road echo [TOOLS]        the upstream: answers a call with its own text, as fast as it can
//! road relay PROGRAM…      the relay: passes lines between its streams and a child's
//! road run SHIM BIN JSON   measures; SHIM is the laptop build, BIN holds the other programs
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement that goes wrong should stop"
)]

mod load;
mod org;
mod peers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use load::{Peer, median};
use org::Org;

/// Rounds of everything; the median over rounds is reported.
const ROUNDS: usize = 5;
/// Starts of a fresh process for each cold figure.
const STARTS: usize = 20;

/// One payload size: its name, its bytes, and calls per round.
struct Size {
    name: &'static str,
    bytes: usize,
    calls: usize,
}

const SIZES: [Size; 3] = [
    Size {
        name: "100b",
        bytes: 100,
        calls: 5000,
    },
    Size {
        name: "10kb",
        bytes: 10 << 10,
        calls: 1500,
    },
    Size {
        name: "1mb",
        bytes: 1 << 20,
        calls: 30,
    },
];

/// Who carries the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Relay,
    /// mcpshim, arguments and results captured in full.
    Full,
    /// mcpshim, arguments and results captured as digests.
    Digest,
}

const WAYS: [Way; 4] = [Way::Direct, Way::Relay, Way::Full, Way::Digest];

/// Figures by name, in the order they are printed.
#[derive(Debug, Default)]
struct Figures(Vec<(String, f64)>);

impl Figures {
    fn set(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    fn get(&self, name: &str) -> f64 {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("no figure {name}")).1
    }
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", rest @ ..] => peers::echo(rest.first().map_or(1, |n| n.parse().unwrap())),
        ["relay", command @ ..] => peers::relay(command),
        ["run", shim, bin, json] => run(Path::new(shim), Path::new(bin), *json == "1"),
        // `cargo test` runs benches without arguments: there is nothing to check here
        _ => eprintln!("started by scripts/bench"),
    }
}

fn run(shim: &Path, bin: &Path, json: bool) {
    let this = std::env::current_exe().unwrap();
    let org = Org::new(shim, bin, &this);
    let mut figures = Figures::default();
    hot(&org, &this, &mut figures);
    cold(&org, &mut figures);
    figures.set("rss_idle_mb", rss_idle(&org));
    let binary = std::fs::metadata(shim).unwrap().len();
    figures.set("binary_mb", binary as f64 / f64::from(1 << 20));
    if !json {
        for (name, value) in &figures.0 {
            println!("{name:>28}  {value:.3}");
        }
    }
    let line: serde_json::Map<_, _> = figures
        .0
        .iter()
        .map(|(name, value)| {
            let rounded = (value * 1000.0).round() / 1000.0;
            (name.clone(), serde_json::json!(rounded))
        })
        .collect();
    println!("{}", serde_json::Value::Object(line));
}

fn start(way: Way, org: &Org, this: &Path) -> (Peer, &'static str) {
    let program = this.to_str().unwrap();
    match way {
        Way::Direct => (Peer::start(this, &["echo"]), "echo"),
        Way::Relay => (Peer::start(this, &["relay", program, "echo"]), "echo"),
        Way::Full => (Peer::start_command(&mut org.serve()), "full_echo"),
        Way::Digest => (Peer::start_command(&mut org.serve()), "digest_echo"),
    }
}

/// Latency, processor time and throughput of calls on a warm session.
fn hot(org: &Org, this: &Path, figures: &mut Figures) {
    let name = |way: Way| format!("{way:?}").to_lowercase();
    // [way][size] of one p50 a round, and [way] of processor time and calls per second
    let mut p50 = vec![vec![Vec::new(); SIZES.len()]; WAYS.len()];
    let mut p99 = p50.clone();
    let mut cpu = vec![Vec::new(); WAYS.len()];
    let mut rate = vec![Vec::new(); WAYS.len()];
    for round in 0..ROUNDS {
        for (w, way) in WAYS.into_iter().enumerate() {
            let (mut peer, tool) = start(way, org, this);
            peer.initialize();
            for (s, size) in SIZES.iter().enumerate() {
                peer.calls(tool, size.bytes, (size.calls / 5).max(5));
                let before = peer.cpu_us();
                let mut times = peer.calls(tool, size.bytes, size.calls);
                if size.name == "100b" {
                    cpu[w].push((peer.cpu_us() - before) / size.calls as f64);
                }
                p50[w][s].push(load::quantile(&mut times, 0.5));
                p99[w][s].push(load::quantile(&mut times, 0.99));
            }
            rate[w].push(peer.pipelined(tool, 100, 8, 20_000));
            eprintln!("round {} of {ROUNDS}: {way:?} done", round + 1);
        }
    }
    for (w, way) in WAYS.into_iter().enumerate() {
        for (s, size) in SIZES.iter().enumerate() {
            figures.set(
                format!("{}_p50_us_{}", name(way), size.name),
                median(&p50[w][s]),
            );
            figures.set(
                format!("{}_p99_us_{}", name(way), size.name),
                median(&p99[w][s]),
            );
        }
        if way != Way::Direct {
            figures.set(format!("{}_cpu_us", name(way)), median(&cpu[w]));
        }
        figures.set(format!("{}_calls_per_s_8", name(way)), median(&rate[w]));
    }
    for size in &SIZES {
        let relay = figures.get(&format!("relay_p50_us_{}", size.name));
        let full = figures.get(&format!("full_p50_us_{}", size.name));
        let digest = figures.get(&format!("digest_p50_us_{}", size.name));
        figures.set(format!("ratio_p50_{}", size.name), full / relay);
        figures.set(format!("ratio_p50_{}_digest", size.name), digest / relay);
    }
    figures.set(
        "ratio_cpu",
        figures.get("full_cpu_us") / figures.get("relay_cpu_us"),
    );
    figures.set("calls_per_s_8", figures.get("full_calls_per_s_8"));
}

/// From the start of a fresh process to its first answers.
fn cold(org: &Org, figures: &mut Figures) {
    let mut measure = |name: &str, ask: &dyn Fn(&mut Peer)| {
        let times: Vec<f64> = (0..STARTS)
            .map(|_| {
                let start = Instant::now();
                let mut peer = Peer::start_command(&mut org.serve());
                ask(&mut peer);
                start.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        figures.set(name, median(&times));
    };
    measure("cold_initialize_ms", &Peer::initialize);
    measure("cold_discover_ms", &Peer::discover);
    measure("cold_list_500_ms", &|peer| {
        peer.initialize();
        let tools = peer.list();
        assert!(tools >= 500, "{tools} tools");
    });
}

/// Resident memory of a session that listed its tools and started nothing.
fn rss_idle(org: &Org) -> f64 {
    let mut peer = Peer::start_command(&mut org.serve());
    peer.initialize();
    peer.list();
    std::thread::sleep(Duration::from_secs(1));
    let status: PathBuf = format!("/proc/{}/status", peer.pid()).into();
    let text = std::fs::read_to_string(status).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}
