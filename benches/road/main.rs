//! What mcpshim costs: the whole road against relays and the direct connection, in one run.
//!
//! Started by `scripts/bench`, which builds everything and pins all of it to one processor: an
//! unpinned run measures the scheduler (the same relay takes 15 or 35 µs). Rounds are
//! interleaved, so that a busy machine slows all alike; the ratios are what counts.
//!
//! ```text
//! road echo ERA TOOLS      an upstream: answers a call with its own text, as fast as it can
//! road web                 the same behind an address, /handshake and /stateless
//! road relay PROGRAM…      a relay: passes lines between its streams and a child's
//! road reach URL           a relay: lines become HTTP requests, bodies become lines
//! road append DIR CALLS    records calls, and prints how long each took
//! road way SHIM BIN NAME BYTES CALLS
//!                          calls of so many bytes one way, e.g. stdio_hh_full: for a profiler
//! road run SHIM BIN HOW…   measures; SHIM is the laptop build, BIN holds the other programs, HOW is
//!                          `json`, `quick`, or parts to measure instead of all
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

mod append;
mod figures;
mod load;
mod org;
mod peers;
mod reach;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use figures::Figures;
use load::{Era, Peer, all_at_once, all_in_turn, median, quantile};
use org::{Capture, Org, Reach};

/// Servers that are listed and not started, or all in use at once…
const SERVERS: usize = 10;
/// …each with so many tools.
const TOOLS: usize = 50;
/// Tools of each server of the organisation that has very many.
const MANY_TOOLS: usize = 1_000;
/// Sessions at once.
const SHIMS: usize = 8;
/// Calls in flight for calls per second.
const IN_FLIGHT: usize = 8;

/// How thorough a run is.
struct Pace {
    /// Rounds of everything; the median over rounds is reported.
    rounds: usize,
    /// Calls are divided by this.
    share: usize,
    /// Starts of a fresh process for each cold figure.
    starts: usize,
    /// How long idle sessions are watched.
    idle: Duration,
}

const FULL: Pace = Pace {
    rounds: 5,
    share: 1,
    starts: 20,
    idle: Duration::from_secs(60),
};

const QUICK: Pace = Pace {
    rounds: 1,
    share: 5,
    starts: 5,
    idle: Duration::from_secs(5),
};

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

/// What lies between the client and the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Direct,
    Relay,
    Shim(Capture),
}

/// How the upstream is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Http,
    Stdio,
}

/// One way a call can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    transport: Transport,
    client: Era,
    upstream: Era,
    carrier: Carrier,
}

impl Way {
    /// Every way that is measured; the relays know no eras, so they need one upstream a client.
    fn all() -> Vec<Self> {
        let mut ways = Vec::new();
        for transport in [Transport::Stdio, Transport::Http] {
            for client in Era::BOTH {
                let mut way = |upstream, carrier| {
                    ways.push(Self {
                        transport,
                        client,
                        upstream,
                        carrier,
                    });
                };
                if transport == Transport::Stdio && client == Era::Handshake {
                    way(client, Carrier::Direct);
                }
                way(client, Carrier::Relay);
                for upstream in Era::BOTH {
                    for capture in Capture::BOTH {
                        way(upstream, Carrier::Shim(capture));
                    }
                }
            }
        }
        ways
    }

    /// Its name in figures, e.g. `stdio_hs_full`: a handshake client, a stateless upstream.
    fn name(&self) -> String {
        let era = |era: Era| &era.name()[..1];
        let transport = match self.transport {
            Transport::Http => "http",
            Transport::Stdio => "stdio",
        };
        let (client, upstream) = (era(self.client), era(self.upstream));
        match self.carrier {
            Carrier::Direct => format!("{transport}_direct"),
            Carrier::Relay => format!("{transport}_{client}_relay"),
            Carrier::Shim(capture) => format!("{transport}_{client}{upstream}_{}", capture.name()),
        }
    }

    /// The key of the server that the shim reaches this way.
    fn key(transport: Transport, upstream: Era, capture: Capture) -> String {
        let transport = match transport {
            Transport::Http => "http",
            Transport::Stdio => "stdio",
        };
        format!("{transport}-{}-{}", &upstream.name()[..1], capture.name())
    }

    fn start(&self, world: &World) -> (Peer, String) {
        let this = || Command::new(&world.this);
        let era = self.upstream.name();
        let (mut command, tool) = match (self.carrier, self.transport) {
            (Carrier::Direct, _) => {
                let mut command = this();
                command.args(["echo", era, "1"]);
                (command, "echo".to_owned())
            }
            (Carrier::Relay, Transport::Stdio) => (world.relay(self.upstream), "echo".to_owned()),
            (Carrier::Relay, Transport::Http) => {
                let mut command = this();
                command.args(["reach", &world.web.url(self.upstream)]);
                (command, "echo".to_owned())
            }
            (Carrier::Shim(capture), transport) => {
                let key = Self::key(transport, self.upstream, capture);
                (world.org.serve(), format!("{key}_echo"))
            }
        };
        (Peer::start(self.client, &mut command), tool)
    }
}

/// What is measured with.
struct World {
    this: PathBuf,
    shim: PathBuf,
    web: Web,
    org: Org,
    /// Ten thousand tools.
    many: std::cell::OnceCell<Org>,
    bin: PathBuf,
}

impl World {
    fn new(shim: &Path, bin: &Path) -> Self {
        let this = std::env::current_exe().unwrap();
        let web = Web::start(&this);
        let mut servers = Vec::new();
        for upstream in Era::BOTH {
            for capture in Capture::BOTH {
                for transport in [Transport::Stdio, Transport::Http] {
                    let reach = match transport {
                        Transport::Http => Reach::Http(web.url(upstream)),
                        Transport::Stdio => Reach::Stdio(upstream, 1),
                    };
                    servers.push((Way::key(transport, upstream, capture), reach, capture));
                }
            }
        }
        servers.extend(others(TOOLS));
        Self {
            org: Org::new(shim, bin, &this, &servers),
            many: std::cell::OnceCell::new(),
            bin: bin.to_owned(),
            shim: shim.to_owned(),
            this,
            web,
        }
    }

    fn many(&self) -> &Org {
        let servers: Vec<_> = others(MANY_TOOLS).collect();
        let make = || Org::new(&self.shim, &self.bin, &self.this, &servers);
        self.many.get_or_init(make)
    }

    /// The relay to a child of its own.
    fn relay(&self, upstream: Era) -> Command {
        let mut command = Command::new(&self.this);
        let program = self.this.to_str().unwrap();
        command.args(["relay", program, "echo", upstream.name(), "1"]);
        command
    }
}

/// Ten servers with so many tools each.
fn others(tools: usize) -> impl Iterator<Item = (String, Reach, Capture)> {
    (0..SERVERS).map(move |number| {
        let reach = Reach::Stdio(Era::Handshake, tools);
        (format!("other{number}"), reach, Capture::Full)
    })
}

/// The upstream behind an address. Ends when dropped.
struct Web {
    child: Child,
    base: String,
}

impl Web {
    fn start(this: &Path) -> Self {
        let mut child = Command::new(this)
            .arg("web")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut base = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut base).unwrap();
        let base = base.trim_end().to_owned();
        Self { child, base }
    }

    fn url(&self, era: Era) -> String {
        format!("{}/{}", self.base, era.name())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", era, tools] => peers::echo(era.parse().unwrap(), tools.parse().unwrap()),
        ["web"] => peers::web(),
        ["relay", command @ ..] => peers::relay(command),
        ["reach", url] => reach::relay(url),
        ["append", dir, calls] => append::append(Path::new(dir), calls.parse().unwrap()),
        ["run", shim, bin, how @ ..] => {
            let pace = if how.contains(&"quick") { QUICK } else { FULL };
            let world = World::new(Path::new(shim), Path::new(bin));
            let figures = run(&world, &pace, how);
            if !how.contains(&"json") {
                figures.print();
            }
            println!("{}", figures.json());
        }
        ["way", shim, bin, name, bytes, calls] => {
            let world = World::new(Path::new(shim), Path::new(bin));
            let way = Way::all().into_iter().find(|way| way.name() == *name);
            let (mut peer, tool) = way.unwrap().start(&world);
            peer.open();
            let (bytes, calls) = (bytes.parse().unwrap(), calls.parse().unwrap());
            peer.calls(&tool, bytes, calls / 10);
            let before = peer.cpu_us();
            let mut times = peer.calls(&tool, bytes, calls);
            let cpu = (peer.cpu_us() - before) / calls as f64;
            println!(
                "p50 {:.2} µs, {cpu:.2} µs of a processor",
                quantile(&mut times, 0.5)
            );
        }
        // `cargo test` runs benches without arguments: there is nothing to check here
        _ => eprintln!("started by scripts/bench"),
    }
}

/// What is measured must be the whole road: what calls carry is sealed into the record.
fn check_records(world: &World) {
    for (capture, payload) in [(Capture::Digest, 0), (Capture::Full, 10_000)] {
        let key = Way::key(Transport::Stdio, Era::Handshake, capture);
        let mut peer = Peer::start(Era::Handshake, &mut world.org.serve());
        peer.open();
        peer.calls(&format!("{key}_echo"), 100, 1);
        let before = world.org.spool_bytes();
        peer.calls(&format!("{key}_echo"), 10_000, 10);
        let a_call = (world.org.spool_bytes() - before) / 10;
        // an intent and an outcome of a frame each, with a digest or with the text itself
        let expected = 2 * (payload + 100)..2 * (payload + payload / 8 + 300);
        assert!(
            expected.contains(&a_call),
            "{a_call} bytes a call, {capture:?}"
        );
    }
}

/// One part of the measurement.
type Part = fn(&World, &Pace, &mut Figures);

/// The parts, by the names they can be asked for.
const PARTS: [(&str, Part); 7] = [
    ("calls", hot),
    ("servers", many_servers),
    ("sessions", many_sessions),
    ("append", append_alone_and_crowded),
    ("cold", cold),
    ("tools", many_tools),
    ("idle", idle),
];

fn run(world: &World, pace: &Pace, how: &[&str]) -> Figures {
    let mut figures = Figures::default();
    check_records(world);
    figures.set("load_before", load_average());
    let all = !PARTS.iter().any(|(name, _)| how.contains(name));
    for (name, part) in PARTS {
        if all || how.contains(&name) {
            part(world, pace, &mut figures);
        }
    }
    let binary = std::fs::metadata(&world.shim).unwrap().len();
    figures.at_most("binary_mb", binary as f64 / f64::from(1 << 20), 15.0);
    figures.set("load_after", load_average());
    figures
}

fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Latency, processor time and throughput of calls on a warm session, every way.
fn hot(world: &World, pace: &Pace, figures: &mut Figures) {
    let ways = Way::all();
    // [way][size] of one quantile a round, and [way] of processor time and calls per second
    let mut p50 = vec![vec![Vec::new(); SIZES.len()]; ways.len()];
    let mut p99 = p50.clone();
    let mut cpu = vec![Vec::new(); ways.len()];
    let mut rate = vec![Vec::new(); ways.len()];
    for round in 0..pace.rounds {
        for (w, way) in ways.iter().enumerate() {
            world.org.empty_spool();
            let (mut peer, tool) = way.start(world);
            peer.open();
            for (s, size) in SIZES.iter().enumerate() {
                let calls = (size.calls / pace.share).max(10);
                peer.calls(&tool, size.bytes, (calls / 5).max(5));
                let before = peer.cpu_us();
                let mut times = peer.calls(&tool, size.bytes, calls);
                if size.name == "100b" {
                    cpu[w].push((peer.cpu_us() - before) / calls as f64);
                }
                p50[w][s].push(quantile(&mut times, 0.5));
                p99[w][s].push(quantile(&mut times, 0.99));
            }
            rate[w].push(peer.pipelined(&tool, 100, IN_FLIGHT, 20_000 / pace.share));
        }
        eprintln!("round {} of {} done", round + 1, pace.rounds);
    }
    for (w, way) in ways.iter().enumerate() {
        let name = way.name();
        for (s, size) in SIZES.iter().enumerate() {
            figures.set(format!("{name}_p50_us_{}", size.name), median(&p50[w][s]));
            figures.set(format!("{name}_p99_us_{}", size.name), median(&p99[w][s]));
        }
        figures.set(format!("{name}_cpu_us"), median(&cpu[w]));
        figures.set(format!("{name}_calls_per_s_{IN_FLIGHT}"), median(&rate[w]));
    }
    for way in &ways {
        ratios(way, figures);
    }
}

/// A way of the shim's against the relay of the same client.
fn ratios(way: &Way, figures: &mut Figures) {
    let Carrier::Shim(capture) = way.carrier else {
        return;
    };
    let carrier = Carrier::Relay;
    let (name, relay) = (way.name(), Way { carrier, ..*way }.name());
    let stdio = way.transport == Transport::Stdio;
    for size in &SIZES {
        let most = match (way.transport, size.name, capture) {
            (Transport::Http, ..) => 1.5,
            (Transport::Stdio, "100b", _) => 1.6,
            (Transport::Stdio, "10kb", Capture::Full) => 2.5,
            (Transport::Stdio, "10kb", Capture::Digest) => 2.2,
            (Transport::Stdio, _, Capture::Full) => 3.0,
            (Transport::Stdio, _, Capture::Digest) => 2.5,
        };
        let of = |name: &str| figures.get(&format!("{name}_p50_us_{}", size.name));
        let ratio = of(&name) / of(&relay);
        figures.at_most(format!("{name}_ratio_p50_{}", size.name), ratio, most);
    }
    let of = |name: &str| figures.get(&format!("{name}_cpu_us"));
    let ratio = of(&name) / of(&relay);
    let most = if stdio { 2.0 } else { 1.7 };
    figures.at_most(format!("{name}_ratio_cpu"), ratio, most);
    let rate = figures.get(&format!("{name}_calls_per_s_{IN_FLIGHT}"));
    if stdio {
        figures.at_least(format!("{name}_calls_per_s"), rate, 100_000.0);
    }
}

/// Ten upstreams in turn through one session, against ten relays in turn.
fn many_servers(world: &World, pace: &Pace, figures: &mut Figures) {
    let calls = 5_000 / pace.share;
    let (mut relays, mut shim) = (Vec::new(), Vec::new());
    let mut cpu = (Vec::new(), Vec::new());
    let mut rss = 0.0;
    for _ in 0..pace.rounds {
        world.org.empty_spool();
        let mut peers: Vec<Peer> = (0..SERVERS)
            .map(|_| Peer::start(Era::Handshake, &mut world.relay(Era::Handshake)))
            .collect();
        let mut peers: Vec<&mut Peer> = peers.iter_mut().collect();
        all_in_turn(&mut peers, &["echo"], 100, calls / 5);
        let used = |peers: &[&mut Peer]| peers.iter().map(|peer| peer.cpu_us()).sum::<f64>();
        let before = used(&peers);
        let mut times = all_in_turn(&mut peers, &["echo"], 100, calls);
        cpu.0.push((used(&peers) - before) / calls as f64);
        relays.push(quantile(&mut times, 0.5));
        drop(peers);
        let mut peer = Peer::start(Era::Handshake, &mut world.org.serve());
        peer.open();
        let tools: Vec<String> = (0..SERVERS).map(|n| format!("other{n}_echo")).collect();
        let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
        all_in_turn(&mut [&mut peer], &tools, 100, calls / 5);
        let before = peer.cpu_us();
        let mut times = all_in_turn(&mut [&mut peer], &tools, 100, calls);
        cpu.1.push((peer.cpu_us() - before) / calls as f64);
        shim.push(quantile(&mut times, 0.5));
        rss = peer.rss_mb();
    }
    figures.set("ten_relays_p50_us", median(&relays));
    figures.set("ten_servers_p50_us", median(&shim));
    let ratio = median(&shim) / median(&relays);
    figures.at_most("ten_servers_ratio_p50", ratio, 1.6);
    figures.set("ten_relays_cpu_us", median(&cpu.0));
    figures.set("ten_servers_cpu_us", median(&cpu.1));
    figures.at_most(
        "ten_servers_ratio_cpu",
        median(&cpu.1) / median(&cpu.0),
        2.0,
    );
    figures.set("ten_servers_rss_mb", rss);
    eprintln!("ten servers done");
}

/// Eight sessions that call at the same time, on one processor, against eight relays.
fn many_sessions(world: &World, pace: &Pace, figures: &mut Figures) {
    let rounds = 2_000 / pace.share;
    world.org.empty_spool();
    let measure = |start: &dyn Fn() -> Peer, tool: &str| {
        let mut peers: Vec<Peer> = (0..SHIMS).map(|_| start()).collect();
        all_at_once(&mut peers, tool, 100, rounds / 5);
        all_at_once(&mut peers, tool, 100, rounds)
    };
    let era = Era::Handshake;
    let mut relay = measure(&|| Peer::start(era, &mut world.relay(era)), "echo");
    let tool = format!("{}_echo", Way::key(Transport::Stdio, era, Capture::Full));
    let mut shim = measure(
        &|| {
            let mut peer = Peer::start(era, &mut world.org.serve());
            peer.open();
            peer
        },
        &tool,
    );
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (relay, shim) = (quantile(&mut relay, share), quantile(&mut shim, share));
        figures.set(format!("{SHIMS}_relays_{name}_us"), relay);
        figures.set(format!("{SHIMS}_shims_{name}_us"), shim);
        figures.set(format!("{SHIMS}_shims_ratio_{name}"), shim / relay);
    }
    eprintln!("eight sessions done");
}

/// What a record costs, alone and while seven other processes record too.
fn append_alone_and_crowded(world: &World, pace: &Pace, figures: &mut Figures) {
    let calls = (20_000 / pace.share).to_string();
    for (name, processes) in [("alone", 1), ("crowded", SHIMS)] {
        let children: Vec<Child> = (0..processes)
            .map(|_| {
                let dir = world.org.path(&format!("append-{name}"));
                let mut command = Command::new(&world.this);
                command.arg("append").arg(dir).arg(&calls);
                command.stdout(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let mut times = Vec::new();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            let text = String::from_utf8(output.stdout).unwrap();
            times.extend(text.split_whitespace().map(|t| t.parse::<f64>().unwrap()));
        }
        let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
        figures.at_most(format!("append_{name}_p50_us"), p50, 8.0);
        figures.at_most(format!("append_{name}_p99_us"), p99, 60.0);
    }
    // what the system takes for bytes of that size, whoever writes them
    for size in SIZES {
        let mut times: Vec<f64> = (0..size.calls.min(200))
            .map(|number| {
                let file = world.org.path(&format!("write-{}-{number}", size.name));
                let (mut file, bytes) = (File::create(file).unwrap(), vec![b'x'; size.bytes]);
                let start = Instant::now();
                file.write_all(&bytes).unwrap();
                start.elapsed().as_secs_f64() * 1e6
            })
            .collect();
        let p50 = quantile(&mut times, 0.5);
        figures.set(format!("write_alone_p50_us_{}", size.name), p50);
    }
    eprintln!("appends done");
}

/// From the start of a fresh process to its first answers.
fn cold(world: &World, pace: &Pace, figures: &mut Figures) {
    let mut measure = |name: &str, era: Era, most: f64, ask: &dyn Fn(&mut Peer)| {
        let times: Vec<f64> = (0..pace.starts)
            .map(|_| {
                let start = Instant::now();
                let mut peer = Peer::start(era, &mut world.org.serve());
                ask(&mut peer);
                start.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        figures.at_most(name, median(&times), most);
    };
    let list = |peer: &mut Peer| {
        peer.open();
        let tools = peer.list();
        assert!(tools >= SERVERS * TOOLS, "{tools} tools");
    };
    measure("cold_initialize_ms", Era::Handshake, 10.0, &Peer::open);
    measure("cold_discover_ms", Era::Stateless, 10.0, &Peer::open);
    measure("cold_list_500_handshake_ms", Era::Handshake, 15.0, &list);
    measure("cold_list_500_stateless_ms", Era::Stateless, 15.0, &list);
    eprintln!("cold starts done");
}

/// The list of ten thousand tools: from the request and from the start of the process.
fn many_tools(world: &World, pace: &Pace, figures: &mut Figures) {
    let (mut cold, mut warm, mut whole, mut length) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut opened = Vec::new();
    world.many();
    for _ in 0..pace.starts {
        let start = Instant::now();
        let mut peer = Peer::start(Era::Handshake, &mut world.many().serve());
        peer.open();
        opened.push(start.elapsed().as_secs_f64() * 1000.0);
        let before = start.elapsed().as_secs_f64() * 1000.0;
        let (first, _, _) = peer.list_bytes();
        cold.push(before + first);
        let (first, last, bytes) = peer.list_bytes();
        warm.push(first);
        whole.push(last);
        length = bytes;
    }
    figures.set("many_tools_cold_initialize_ms", median(&opened));
    figures.set("many_tools_cold_first_byte_ms", median(&cold));
    figures.at_most("many_tools_first_byte_ms", median(&warm), 25.0);
    figures.set("many_tools_last_byte_ms", median(&whole));
    figures.at_most("many_tools_line_mb", length as f64 / 1e6, 8.0);
    let mut peer = Peer::start(Era::Handshake, &mut world.many().serve());
    peer.open();
    figures.set("many_tools_listed", peer.list() as f64);
    figures.set("many_tools_rss_mb", peer.rss_mb());
    eprintln!("ten thousand tools done");
}

/// Two sessions at rest: one that listed its tools only, one that also called.
fn idle(world: &World, pace: &Pace, figures: &mut Figures) {
    let mut peers: Vec<Peer> = (0..2)
        .map(|_| Peer::start(Era::Handshake, &mut world.org.serve()))
        .collect();
    for peer in &mut peers {
        peer.open();
        peer.list();
    }
    std::thread::sleep(Duration::from_secs(2));
    figures.at_most("rss_idle_mb", peers[0].rss_mb(), 15.0);
    let key = Way::key(Transport::Stdio, Era::Handshake, Capture::Full);
    peers[1].calls(&format!("{key}_echo"), 100, 10);
    std::thread::sleep(Duration::from_secs(3));
    figures.set("rss_one_server_mb", peers[1].rss_mb());
    let wakes = |peers: &[Peer]| -> Vec<f64> { peers.iter().map(Peer::wakes).collect() };
    let before = wakes(&peers);
    std::thread::sleep(pace.idle);
    let per_minute = 60.0 / pace.idle.as_secs_f64();
    let after = wakes(&peers);
    for ((name, before), after) in ["listed", "called"].iter().zip(before).zip(after) {
        let wakes = (after - before) * per_minute;
        figures.at_most(format!("idle_{name}_wakes_per_min"), wakes, 2.0);
    }
    eprintln!("idle sessions done");
}
