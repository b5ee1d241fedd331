//! The signed registry: a zoo of bad repositories, the attacks that need a source that misbehaves,
//! publishing, and python-tuf as the independent reader and writer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mcpshim::admin::TargetSet;
use mcpshim::admin::keys::{self, KeyRing};
use mcpshim::admin::publish::{self, PublishError, Published};
use mcpshim::clock::{Clock as _, CountingEntropy, FixedClock, Now, SystemClock};
use mcpshim::config::{Config, LogLevel};
use mcpshim::fetch::{self, FetchError, Patience, Refreshed, Store};
use mcpshim::ids::OrgId;
use mcpshim::registry::{Freshness, RegistryError, fuzz_metadata, load};
use mcpshim::report::{Exit, Failure};

/// 2026-12-01T00:00:00Z: where the zoo's clock stands.
const ZOO_S: u64 = 1_796_083_200;
const DAY_S: u64 = 86_400;

fn at(unix_s: u64) -> Now {
    FixedClock::at(unix_s).now()
}

/// One machine with an empty state directory.
struct Machine {
    dir: tempfile::TempDir,
    config: Config,
}

impl Machine {
    fn new(org: &str, root: &[u8], url: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            org: OrgId::parse(org).unwrap(),
            registry_url: url,
            root: root.to_vec(),
            min_root_version: 0,
            min_timestamp_version: 0,
            state_dir: dir.path().join("state"),
            agent: None,
            machine_id: "test".to_owned(),
            log_level: LogLevel::default(),
            managed: false,
            path: None,
            network: mcpshim::config::Network::default(),
            project_dir: None,
            client_session: None,
        };
        Self { dir, config }
    }

    fn refresh(&self, unix_s: u64) -> Result<Refreshed, FetchError> {
        self.refresh_within(unix_s, &Patience::default())
    }

    fn refresh_within(&self, unix_s: u64, patience: &Patience) -> Result<Refreshed, FetchError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let clock = FixedClock::at(unix_s);
        runtime.block_on(fetch::refresh_within(&self.config, &clock, patience))
    }

    fn state(&self) -> PathBuf {
        Store::of(&self.config).path().to_owned()
    }

    /// What the machine has, in one line.
    fn has(&self, unix_s: u64) -> String {
        match fetch::load(&self.config, &at(unix_s)) {
            Ok(loaded) => {
                let v = loaded.registry.version;
                let mut out = format!(
                    "{:?}: root {}, timestamp {}, snapshot {}, targets {}\n",
                    loaded.freshness, v.root, v.timestamp, v.snapshot, v.targets
                );
                for warning in &loaded.warnings {
                    writeln!(out, "warning: {warning}").unwrap();
                }
                out
            }
            Err(error) => told(&error),
        }
    }
}

/// An error as a person meets it.
fn told(error: &FetchError) -> String {
    format!(
        "{}\n",
        Failure::from_error(Exit::Registry, error).hint(error.hint())
    )
}

fn file_url(dir: &Path) -> String {
    format!("file://{}/", dir.display())
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (from, name) = (entry.as_ref().unwrap().path(), entry.unwrap().file_name());
        if from.is_dir() {
            fs::create_dir_all(to.join(&name)).unwrap();
            copy(&from, &to.join(name));
        } else {
            fs::copy(from, to.join(name)).unwrap();
        }
    }
}

// ---- the zoo ---------------------------------------------------------------------------------

fn zoo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry")
}

/// Lays a case over `good`, as a source would serve it.
fn lay(case: &str, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    fs::create_dir_all(to).unwrap();
    copy(&zoo().join("good"), to);
    copy(&zoo().join(case), to);
}

/// Runs a case: what the machine says of it, and what it then has.
fn visit(case: &str, seen: Option<&str>) -> String {
    let root = fs::read(zoo().join("root.json")).unwrap();
    let source = tempfile::tempdir().unwrap();
    let repository = source.path().join("repository");
    let machine = Machine::new("acme", &root, file_url(&repository));
    if let Some(seen) = seen {
        lay(seen, &repository);
        machine
            .refresh(ZOO_S)
            .unwrap_or_else(|e| panic!("{seen}: {}", told(&e)));
    }
    let before = machine.has(ZOO_S);
    lay(case, &repository);
    let said = machine.refresh(ZOO_S);
    let after = machine.has(ZOO_S);
    let mut out = match said {
        Ok(refreshed) => format!("{refreshed:?}\n"),
        Err(error) => told(&error),
    };
    if after == before {
        out.push_str("the machine keeps what it had\n");
    } else {
        write!(out, "the machine has {after}").unwrap();
    }
    out
}

/// Every directory of the zoo is a case with its expectation in `case.txt`.
///
/// `MCPSHIM_BLESS=1` writes what was said below the first line; read the difference before you
/// commit it.
#[test]
fn every_repository_of_the_zoo_is_told_apart() {
    let mut cases: Vec<PathBuf> = fs::read_dir(zoo())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(cases.len() > 50, "the zoo is empty");
    // most of the time goes into syncing files: a few at once
    let wrong: String = std::thread::scope(|scope| {
        let threads: Vec<_> = cases
            .chunks(cases.len().div_ceil(8))
            .map(|cases| scope.spawn(|| cases.iter().map(|path| judge(path)).collect::<String>()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(wrong.is_empty(), "{wrong}");
}

/// Shows one case to a machine; what is not as `case.txt` says.
fn judge(path: &Path) -> String {
    let case = path.file_name().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path.join("case.txt")).unwrap_or_default();
    let (first, expected) = text.split_once('\n').unwrap_or(("seen: nothing", ""));
    let seen = first
        .strip_prefix("seen: ")
        .unwrap_or_else(|| panic!("{case}: first line"));
    let said = visit(case, (seen != "nothing").then_some(seen));
    if seen == "older" {
        // a machine that has nothing yet is told the same
        let cause = |said: &str| said.split("the machine").next().unwrap().to_owned();
        assert_eq!(cause(&visit(case, None)), cause(&said), "{case}");
    }
    if said == expected {
        return String::new();
    }
    if std::env::var_os("MCPSHIM_BLESS").is_some() {
        fs::write(path.join("case.txt"), format!("{first}\n{said}")).unwrap();
        return String::new();
    }
    format!("{case}\n expected {expected}\n found    {said}\n")
}

/// Every defect again, through the state file: what a machine stored is proved as strictly as
/// what it fetches. Every 37th byte is changed in turn.
#[test]
fn no_changed_byte_of_the_state_goes_unnoticed() {
    let root = fs::read(zoo().join("root.json")).unwrap();
    let source = tempfile::tempdir().unwrap();
    let repository = source.path().join("repository");
    lay("three-new-roots", &repository);
    let machine = Machine::new("acme", &root, file_url(&repository));
    machine.refresh(ZOO_S).unwrap();
    let good = fs::read(machine.state()).unwrap();
    let org = OrgId::parse("acme").unwrap();
    let trust = mcpshim::registry::Trust {
        root: &root,
        org: &org,
        min_root_version: 0,
        min_timestamp_version: 0,
    };
    load(&good, &trust, &at(ZOO_S)).unwrap();
    for index in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[index] ^= 0x20;
        fuzz_metadata(&bad);
        assert!(
            load(&bad, &trust, &at(ZOO_S)).is_err(),
            "byte {index} is free to change"
        );
    }
    for end in [0, 1, 20, 100, good.len() / 2, good.len() - 1] {
        assert!(
            load(&good[..end], &trust, &at(ZOO_S)).is_err(),
            "cut at {end}"
        );
    }
}

// ---- a source that misbehaves ----------------------------------------------------------------

/// A static file server on loopback that can be told to misbehave.
struct Source {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    requests: Mutex<Vec<String>>,
    manners: Mutex<Manners>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    Good,
    /// Answers everything with this status.
    Status(&'static str),
    /// Answers a next root with this status, the rest well.
    RootStatus(&'static str),
    /// Sends the timestamp without end.
    Endless,
    /// Sends one byte of the timestamp every 50 ms.
    Slow,
    /// Takes the request and says nothing.
    Silent,
    /// Has every root, and nothing else yet.
    RootsOnly,
    /// Closes in the middle of every file.
    Cut,
}

impl Source {
    fn serve(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            requests: Mutex::default(),
            manners: Mutex::new(Manners::Good),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&served);
                // ends with its connection; the listener with the process of the test
                std::thread::spawn(move || shared.answer(&stream.unwrap()));
            }
        });
        Self { address, shared }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    fn behave(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap() = manners;
    }

    /// The requests since the last call, each with the status it got.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }
}

impl Shared {
    /// Serves one connection until the client is done with it or gone.
    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            let path = head
                .first()?
                .split(' ')
                .nth(1)?
                .trim_start_matches('/')
                .to_owned();
            let manners = *self.manners.lock().unwrap();
            let tag = head
                .iter()
                .find_map(|line| line.strip_prefix("if-none-match: "));
            let body = fs::read(self.dir.join(&path)).ok();
            let etag = body
                .as_ref()
                .map(|body| format!("\"{}\"", mcpshim::ids::Digest::of(body)));
            let status = match manners {
                Manners::Status(status) => status,
                Manners::RootStatus(status) if path.ends_with(".root.json") => status,
                Manners::RootsOnly if !path.ends_with(".root.json") => "503 Not Yet",
                _ if body.is_none() => "404 Not Found",
                _ if tag.is_some() && tag == etag.as_deref() => "304 Not Modified",
                _ => "200 OK",
            };
            self.requests
                .lock()
                .unwrap()
                .push(format!("{path} {status}"));
            let mut out = stream;
            let etag = etag.unwrap_or_default();
            if status != "200 OK" {
                let location = "location: http://127.0.0.1:1/\r\n";
                write!(out, "HTTP/1.1 {status}\r\netag: {etag}\r\n{location}").ok()?;
                write!(out, "content-length: 0\r\n\r\n").ok()?;
                continue;
            }
            let body = body?;
            let timestamp = path.ends_with("timestamp.json");
            match manners {
                Manners::Silent => std::thread::sleep(Duration::from_secs(20)),
                Manners::Endless if timestamp => {
                    write!(out, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").ok()?;
                    loop {
                        out.write_all(&[b' '; 4096]).ok()?;
                    }
                }
                Manners::Slow if timestamp => {
                    write!(
                        out,
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    )
                    .ok()?;
                    for byte in body {
                        out.write_all(&[byte]).ok()?;
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
                Manners::Cut => {
                    write!(
                        out,
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    )
                    .ok()?;
                    out.write_all(&body[..body.len() / 2]).ok()?;
                    return None;
                }
                _ => {
                    write!(out, "HTTP/1.1 200 OK\r\netag: {etag}\r\ncontent-length: ").ok()?;
                    write!(out, "{}\r\n\r\n", body.len()).ok()?;
                    out.write_all(&body).ok()?;
                }
            }
        }
    }
}

/// A source that serves `good`, and a machine that has not asked yet.
fn good_source() -> (tempfile::TempDir, Source, Machine) {
    let dir = tempfile::tempdir().unwrap();
    lay("good", &dir.path().join("repository"));
    let source = Source::serve(&dir.path().join("repository"));
    let root = fs::read(zoo().join("root.json")).unwrap();
    let machine = Machine::new("acme", &root, source.url());
    (dir, source, machine)
}

const HASTE: Patience = Patience {
    total_ms: 3000,
    stall_ms: 400,
    stall_bytes: 4096,
};

#[test]
fn an_unchanged_registry_costs_two_small_requests() {
    let (_dir, source, machine) = good_source();
    assert!(matches!(machine.refresh(ZOO_S), Ok(Refreshed::Updated(_))));
    let first = source.requests();
    assert_eq!(first.len(), 8, "{first:?}");
    let written = fs::read(machine.state()).unwrap();

    assert_eq!(machine.refresh(ZOO_S + 30).unwrap(), Refreshed::Unchanged);
    assert_eq!(
        source.requests(),
        [
            "metadata/2.root.json 404 Not Found",
            "metadata/timestamp.json 304 Not Modified"
        ]
    );
    assert_eq!(
        fs::read(machine.state()).unwrap(),
        written,
        "nothing is written for nothing"
    );

    // once an hour the time of the last check is worth a write
    assert_eq!(machine.refresh(ZOO_S + 3600).unwrap(), Refreshed::Unchanged);
    assert_ne!(fs::read(machine.state()).unwrap(), written);
}

#[test]
fn only_404_410_and_403_end_the_walk_along_the_roots() {
    for status in ["410 Gone", "403 Forbidden"] {
        let (_dir, source, machine) = good_source();
        source.behave(Manners::RootStatus(status));
        let refreshed = machine.refresh(ZOO_S);
        assert!(matches!(refreshed, Ok(Refreshed::Updated(_))), "{status}");
    }
    let (_dir, source, machine) = good_source();
    assert!(matches!(machine.refresh(ZOO_S), Ok(Refreshed::Updated(_))));
    let kept = machine.has(ZOO_S);
    for status in [
        "401 Unauthorized",
        "500 Oops",
        "302 Found",
        "204 No Content",
        "407 Proxy",
    ] {
        source.behave(Manners::RootStatus(status));
        let said = told(&machine.refresh(ZOO_S).unwrap_err());
        assert!(said.contains("2.root.json could not be fetched"), "{said}");
        assert!(said.contains(&status[..3]), "{said}");
        assert_eq!(machine.has(ZOO_S), kept);
    }
}

#[test]
fn endless_data_is_cut_off_at_the_limit() {
    let (_dir, source, machine) = good_source();
    source.behave(Manners::Endless);
    let said = told(&machine.refresh(ZOO_S).unwrap_err());
    assert!(said.contains("it has more than 1048576 bytes"), "{said}");
    assert!(
        machine
            .has(ZOO_S)
            .contains("no registry has been fetched on this machine yet")
    );
}

#[test]
fn slow_retrieval_is_given_up() {
    let (_dir, source, machine) = good_source();
    for manners in [Manners::Slow, Manners::Silent] {
        source.behave(manners);
        let start = Instant::now();
        let said = told(&machine.refresh_within(ZOO_S, &HASTE).unwrap_err());
        assert!(said.contains("could not be fetched"), "{said}");
        assert!(said.contains("0.4 s"), "{said}");
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "{:?}",
            start.elapsed()
        );
    }
}

#[test]
fn the_whole_refresh_has_a_deadline() {
    let (_dir, source, machine) = good_source();
    source.behave(Manners::Slow);
    let patience = Patience {
        total_ms: 500,
        stall_ms: 300,
        stall_bytes: 1,
    };
    let said = told(&machine.refresh_within(ZOO_S, &patience).unwrap_err());
    assert!(
        said.contains("the refresh took longer than 500 ms"),
        "{said}"
    );
}

#[test]
fn a_source_that_is_down_or_cut_leaves_the_old_registry() {
    let (dir, source, machine) = good_source();
    machine.refresh(ZOO_S).unwrap();
    let kept = machine.has(ZOO_S);
    lay("fast-forward-recovered", &dir.path().join("repository"));
    for manners in [Manners::Cut, Manners::Status("502 Bad Gateway")] {
        source.behave(manners);
        let said = told(&machine.refresh(ZOO_S).unwrap_err());
        assert!(said.contains("could not be fetched"), "{said}");
        assert_eq!(machine.has(ZOO_S), kept);
    }
    let mut gone = Machine::new(
        "acme",
        &machine.config.root,
        "http://127.0.0.1:1/".to_owned(),
    );
    gone.config.state_dir = machine.config.state_dir.clone();
    let said = told(&gone.refresh(ZOO_S).unwrap_err());
    assert!(said.contains("2.root.json could not be fetched"), "{said}");
    assert_eq!(gone.has(ZOO_S), kept);
    source.behave(Manners::Good);
    assert!(matches!(machine.refresh(ZOO_S), Ok(Refreshed::Updated(_))));
}

/// A new root without what its keys sign: seen while a publication is uploaded, or made so by
/// whoever withholds the rest.
#[test]
fn a_root_that_only_changes_online_keys_waits_for_the_rest_of_its_publication() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    lay("older", &repository);
    let source = Source::serve(&repository);
    let root = fs::read(zoo().join("root.json")).unwrap();
    let machine = Machine::new("acme", &root, source.url());
    machine.refresh(ZOO_S).unwrap();

    lay("fast-forward-recovered", &repository);
    source.behave(Manners::RootsOnly);
    let said = told(&machine.refresh(ZOO_S).unwrap_err());
    assert!(said.contains("the source answers 503"), "{said}");
    assert!(
        machine.has(ZOO_S).starts_with("Fresh: root 1"),
        "{}",
        machine.has(ZOO_S)
    );

    // roots that change no key are kept at once: nothing is lost by it
    lay("three-new-roots", &repository);
    machine.refresh(ZOO_S).unwrap_err();
    assert!(machine.has(ZOO_S).starts_with("Fresh: root 4, timestamp 1"));

    // a root that takes targets keys back ends what they signed, whatever else is withheld
    let machine = Machine::new("acme", &root, source.url());
    lay("older", &repository);
    source.behave(Manners::Good);
    machine.refresh(ZOO_S).unwrap();
    lay("one-key-under-two-ids", &repository);
    source.behave(Manners::RootsOnly);
    machine.refresh(ZOO_S).unwrap_err();
    assert!(
        machine
            .has(ZOO_S)
            .starts_with("error: registry metadata targets.json is signed by too few keys")
    );
    lay("older", &repository);
    source.behave(Manners::Good);
    machine.refresh(ZOO_S).unwrap_err();
    assert!(
        machine.has(ZOO_S).starts_with("error: "),
        "hiding the root again does not help"
    );
}

#[test]
fn urls_that_anyone_could_listen_to_or_that_hold_a_secret_are_refused() {
    let root = fs::read(zoo().join("root.json")).unwrap();
    for url in [
        "http://registry.example/",
        "http://127.0.0.1.example/",
        "https://user:secret@registry.example/",
        "https://registry.example/?token=1",
        "ftp://registry.example/",
        "registry.example",
    ] {
        let error = Machine::new("acme", &root, url.to_owned())
            .refresh(ZOO_S)
            .unwrap_err();
        assert!(matches!(error, FetchError::Url { .. }), "{url}: {error}");
    }
}

// ---- the machine's own state -----------------------------------------------------------------

#[test]
fn damaged_state_fails_closed_and_refresh_mends_it_without_forgetting() {
    let (dir, source, machine) = good_source();
    machine.refresh(ZOO_S).unwrap();
    let good = fs::read(machine.state()).unwrap();
    // the last document is cut: the metadata above it is whole
    fs::write(machine.state(), &good[..good.len() - 10]).unwrap();
    assert!(
        machine
            .has(ZOO_S)
            .starts_with("error: trusted registry state on this machine is damaged")
    );

    // one byte of a document: the rest still says which versions were seen
    let mut bent = good.clone();
    *bent.last_mut().unwrap() ^= 1;
    fs::write(machine.state(), &bent).unwrap();
    assert!(machine.has(ZOO_S).contains("is damaged"));
    lay("rollback-timestamp", &dir.path().join("repository"));
    let said = told(&machine.refresh(ZOO_S).unwrap_err());
    assert!(
        said.contains("timestamp has version 1, version 2 was seen before"),
        "{said}"
    );

    lay("good", &dir.path().join("repository"));
    source.requests();
    assert!(matches!(machine.refresh(ZOO_S), Ok(Refreshed::Updated(_))));
    let asked = source.requests();
    assert_eq!(
        asked.len(),
        3,
        "only what is damaged is fetched again: {asked:?}"
    );
    assert!(machine.has(ZOO_S).starts_with("Fresh: root 1, timestamp 2"));
}

#[test]
fn a_lost_state_does_not_make_the_machine_forget() {
    let (dir, _source, machine) = good_source();
    machine.refresh(ZOO_S).unwrap();
    machine.refresh(ZOO_S + 3600).unwrap();
    for damage in [None, Some(b"\0".as_slice())] {
        match damage {
            None => fs::remove_file(machine.state()).unwrap(),
            Some(bytes) => fs::write(machine.state(), bytes).unwrap(),
        }
        assert!(machine.has(ZOO_S).starts_with("error: "));
        lay("rollback-timestamp", &dir.path().join("repository"));
        let said = told(&machine.refresh(ZOO_S + 3700).unwrap_err());
        assert!(
            said.contains("version 1, version 2 was seen before"),
            "{said}"
        );
        assert!(
            machine.has(ZOO_S).starts_with("error: "),
            "an old registry is no way out"
        );
        lay("good", &dir.path().join("repository"));
        machine.refresh(ZOO_S + 3700).unwrap();
        assert!(
            machine
                .has(ZOO_S + 3700)
                .starts_with("Fresh: root 1, timestamp 2")
        );
    }
}

#[test]
fn minimum_versions_hold_where_the_state_is_lost() {
    let (dir, _source, mut machine) = good_source();
    machine.config.min_timestamp_version = 2;
    lay("rollback-timestamp", &dir.path().join("repository"));
    let said = told(&machine.refresh(ZOO_S).unwrap_err());
    assert!(
        said.contains("timestamp has version 1, at least 2 is required"),
        "{said}"
    );
    lay("good", &dir.path().join("repository"));
    machine.refresh(ZOO_S).unwrap();
    machine.config.min_root_version = 2;
    assert!(
        machine
            .has(ZOO_S)
            .contains("root has version 1, at least 2 is required")
    );
    lay("three-new-roots", &dir.path().join("repository"));
    machine.refresh(ZOO_S).unwrap();
    assert!(machine.has(ZOO_S).starts_with("Fresh: root 4"));
}

#[test]
fn a_newer_pinned_root_takes_over_from_the_stored_chain() {
    let (dir, _source, mut machine) = good_source();
    lay("three-new-roots", &dir.path().join("repository"));
    machine.refresh(ZOO_S).unwrap();
    let old_pin = machine.config.root.clone();
    machine.config.root = fs::read(dir.path().join("repository/metadata/3.root.json")).unwrap();
    assert!(machine.has(ZOO_S).starts_with("Fresh: root 4"));
    machine.config.root = fs::read(dir.path().join("repository/metadata/4.root.json")).unwrap();
    assert!(machine.has(ZOO_S).starts_with("Fresh: root 4"));
    machine.refresh(ZOO_S + 4000).unwrap();
    // that state no longer reaches from the first root to the fourth: the first is all it proves
    machine.config.root = old_pin;
    assert!(
        machine
            .has(ZOO_S + 4000)
            .starts_with("Fresh: root 1, timestamp 2")
    );
    machine.refresh(ZOO_S + 8000).unwrap();
    assert!(machine.has(ZOO_S + 8000).starts_with("Fresh: root 4"));
}

#[test]
fn time_narrows_and_a_wrong_clock_does_not_brick() {
    let (_dir, _source, machine) = good_source();
    machine.refresh(ZOO_S).unwrap();
    let expires = ZOO_S + 31 * DAY_S; // 2027-01-01, grace 72 h
    let tier = |unix_s: u64| fetch::load(&machine.config, &at(unix_s)).unwrap().freshness;
    assert_eq!(tier(expires - 1), Freshness::Fresh);
    assert_eq!(tier(expires), Freshness::Grace);
    assert_eq!(tier(expires + 3 * DAY_S - 1), Freshness::Grace);
    assert_eq!(tier(expires + 3 * DAY_S), Freshness::Lapsed);
    assert_eq!(tier(u64::MAX / 1_000_000), Freshness::Lapsed);
    // the alarm at half of a timestamp's life comes before anything narrows
    assert_eq!(machine.has(expires - 4 * DAY_S).lines().count(), 1);
    assert!(
        machine
            .has(expires - 3 * DAY_S)
            .contains("warning: the registry expires at 2027-01-01")
    );
    // one day back is tolerated with a warning, more is stale
    assert_eq!(tier(ZOO_S - DAY_S), Freshness::Fresh);
    assert!(
        machine
            .has(ZOO_S - DAY_S)
            .contains("warning: the clock is 86400 s behind")
    );
    assert_eq!(tier(ZOO_S - DAY_S - 1), Freshness::Grace);
    assert_eq!(tier(0), Freshness::Grace);
    assert!(
        machine
            .has(0)
            .contains("it is treated as stale until the next one")
    );

    // a machine that once stood in the future, and was stale for it, recovers with the next check
    machine.refresh(expires - 1).unwrap();
    assert_eq!(tier(ZOO_S), Freshness::Grace);
    machine.refresh(ZOO_S).unwrap();
    assert_eq!(tier(ZOO_S), Freshness::Fresh);

    // an expired registry is not taken anew, but the one that is there is not thrown away
    let said = told(&machine.refresh(expires + 1).unwrap_err());
    assert!(said.contains("1.root.json has expired"), "{said}");
    assert_eq!(tier(expires + 1), Freshness::Grace);
}

#[test]
fn a_clock_that_is_put_right_counts_from_the_next_check_on() {
    let (_dir, _source, machine) = good_source();
    machine.refresh(ZOO_S).unwrap();
    let checked = || {
        let loaded = fetch::load(&machine.config, &at(ZOO_S)).unwrap();
        loaded.registry.checked
    };
    // ten years ahead nothing is current, so that nothing of it is kept
    machine.refresh(ZOO_S + 3650 * DAY_S).unwrap_err();
    assert_eq!(checked(), ZOO_S);
    // two hours ahead is kept, and held against: an end in between is past
    machine.refresh(ZOO_S + 7200).unwrap();
    assert_eq!(checked(), ZOO_S + 7200);
    let loaded = fetch::load(&machine.config, &at(ZOO_S)).unwrap();
    assert!(loaded.registry.latest(&at(ZOO_S)).is_past(ZOO_S + 3600));
    // the next check by the right clock ends that, by however little it goes back
    machine.refresh(ZOO_S + 7199).unwrap();
    assert_eq!(checked(), ZOO_S + 7199);
    machine.refresh(ZOO_S).unwrap();
    let loaded = fetch::load(&machine.config, &at(ZOO_S)).unwrap();
    assert!(!loaded.registry.latest(&at(ZOO_S)).is_past(ZOO_S + 1));
}

#[test]
fn state_is_private_and_is_replaced_whole() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let (dir, _source, machine) = good_source();
    machine.refresh(ZOO_S).unwrap();
    let before = fs::metadata(machine.state()).unwrap();
    assert_eq!(before.permissions().mode() & 0o777, 0o600);
    let parent = machine.state().parent().unwrap().to_owned();
    assert_eq!(
        fs::metadata(&parent).unwrap().permissions().mode() & 0o777,
        0o700
    );
    lay("three-new-roots", &dir.path().join("repository"));
    machine.refresh(ZOO_S).unwrap();
    assert_ne!(fs::metadata(machine.state()).unwrap().ino(), before.ino());
    let mut left: Vec<_> = fs::read_dir(&parent)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(
        left,
        [
            "registry.state",
            "registry.state.lock",
            "registry.state.previous"
        ]
    );
}

#[test]
fn a_second_refresh_waits_for_the_first_and_gives_up_politely() {
    let (_dir, _source, machine) = good_source();
    let store = Store::of(&machine.config);
    let held = store.try_lock().unwrap().unwrap();
    let patience = Patience {
        total_ms: 200,
        ..Patience::default()
    };
    let error = machine.refresh_within(ZOO_S, &patience).unwrap_err();
    assert!(matches!(error, FetchError::Busy), "{error}");
    drop(held);
    assert!(matches!(machine.refresh(ZOO_S), Ok(Refreshed::Updated(_))));
}

// ---- publishing ------------------------------------------------------------------------------

/// An organisation's keys and documents, without the YAML.
struct Org {
    dir: tempfile::TempDir,
    set: TargetSet,
    roots: Vec<Vec<u8>>,
    keys: KeyRing,
}

impl Org {
    fn new(signers: u32, threshold: u32, now_s: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let made = keys::create_all(
            &keys,
            signers,
            threshold,
            &at(now_s),
            &mut CountingEntropy(7),
        )
        .unwrap();
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(zoo().join("good/targets")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            files.insert(name[65..].to_owned(), fs::read(&path).unwrap());
        }
        Self {
            keys: KeyRing::read(&[keys]).unwrap(),
            set: TargetSet {
                org: OrgId::parse("acme").unwrap(),
                files,
            },
            roots: vec![made.root],
            dir,
        }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    fn publish(&self, now_s: u64) -> Result<Published, PublishError> {
        publish::publish(&self.set, &self.roots, &self.keys, &self.out(), &at(now_s))
    }

    fn edit(&mut self, name: &str, from: &str, to: &str) {
        let file = self.set.files.get_mut(name).unwrap();
        let text = String::from_utf8(file.clone()).unwrap();
        assert!(text.contains(from));
        *file = text.replace(from, to).into_bytes();
    }

    fn machine(&self) -> Machine {
        Machine::new("acme", &self.roots[0], file_url(&self.out()))
    }

    /// Every file of the repository and its content.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        ["metadata", "targets"]
            .iter()
            .flat_map(|part| fs::read_dir(self.out().join(part)).unwrap())
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }
}

fn versions(published: &Published) -> [u64; 4] {
    let v = published.version;
    [v.root, v.timestamp, v.snapshot, v.targets]
}

#[test]
fn publishing_is_idempotent_and_versions_only_grow_with_content() {
    let mut org = Org::new(1, 1, ZOO_S);
    assert_eq!(versions(&org.publish(ZOO_S).unwrap()), [1, 1, 1, 1]);
    let machine = org.machine();
    machine.refresh(ZOO_S).unwrap();
    let before = org.files();
    assert!(!org.publish(ZOO_S + DAY_S).unwrap().updated);
    assert_eq!(org.files(), before);

    org.edit("org.json", "#help-mcp", "#ask-here");
    let Published {
        updated,
        version,
        changed,
        ..
    } = org.publish(ZOO_S + DAY_S).unwrap();
    assert!(updated);
    assert_eq!(changed, ["org.json"]);
    assert_eq!((version.timestamp, version.targets), (2, 2));
    // what old readers are reading is still there, byte for byte
    let after = org.files();
    for (path, bytes) in &before {
        assert!(
            path.ends_with("timestamp.json") || after.get(path) == Some(bytes),
            "{path:?}"
        );
    }
    machine.refresh(ZOO_S + DAY_S).unwrap();
    assert!(
        machine
            .has(ZOO_S + DAY_S)
            .starts_with("Fresh: root 1, timestamp 2, snapshot 2, targets 2")
    );

    // a lost document is put back without a new version
    let lost = after
        .keys()
        .find(|path| path.to_str().unwrap().ends_with("policy.json"))
        .unwrap();
    fs::remove_file(lost).unwrap();
    assert!(!org.publish(ZOO_S + DAY_S).unwrap().updated);
    assert_eq!(org.files(), after);
}

#[test]
fn what_has_to_be_signed_soon_is_told_from_half_of_its_life_on() {
    let org = Org::new(1, 1, ZOO_S);
    assert_eq!(org.publish(ZOO_S).unwrap().warnings, [""; 0]);
    assert_eq!(org.publish(ZOO_S + 3 * DAY_S).unwrap().warnings, [""; 0]);
    let said = org.publish(ZOO_S + 4 * DAY_S).unwrap();
    assert!(!said.updated);
    assert!(said.warnings[0].starts_with("more than half of the timestamp's life is over"));
    let said = publish::refresh(&org.keys, &org.out(), &at(ZOO_S + 91 * DAY_S)).unwrap();
    assert_eq!(
        said.warnings,
        [
            "the targets metadata expires at 2027-05-30T00:00:00Z: publish again with the targets keys"
        ]
    );
    // publishing with the targets keys is that cure, though no document has changed
    let said = org.publish(ZOO_S + 91 * DAY_S).unwrap();
    assert_eq!(
        (said.updated, said.version.targets, said.changed.len()),
        (true, 2, 0)
    );
    assert_eq!(said.warnings, [""; 0]);
    let said = publish::refresh(&org.keys, &org.out(), &at(ZOO_S + 400 * DAY_S)).unwrap();
    assert!(
        said.warnings[1].starts_with("the root metadata expires at 2028-11-30"),
        "{said:?}"
    );
}

#[test]
fn refresh_needs_the_online_keys_only_and_keeps_the_registry_current() {
    let org = Org::new(1, 1, ZOO_S);
    org.publish(ZOO_S).unwrap();
    let online = org.dir.path().join("online");
    fs::create_dir(&online).unwrap();
    for name in ["snapshot-1.pem", "timestamp-1.pem"] {
        fs::copy(org.dir.path().join("keys").join(name), online.join(name)).unwrap();
    }
    let online = KeyRing::read(&[online]).unwrap();
    let machine = org.machine();
    machine.refresh(ZOO_S).unwrap();
    let mut seen = Vec::new();
    for day in (5..60).step_by(5) {
        let now_s = ZOO_S + day * DAY_S;
        seen.push(versions(
            &publish::refresh(&online, &org.out(), &at(now_s)).unwrap(),
        ));
        machine.refresh(now_s).unwrap();
        assert!(
            machine.has(now_s).starts_with("Fresh: "),
            "{}",
            machine.has(now_s)
        );
    }
    assert_eq!(seen.first(), Some(&[1, 2, 1, 1]));
    assert_eq!(
        seen.last(),
        Some(&[1, 12, 4, 1]),
        "the snapshot is renewed at half of its life"
    );

    let error = publish::publish(
        &org.set,
        &org.roots,
        &online,
        &org.out(),
        &at(ZOO_S + 120 * DAY_S),
    );
    let error = error.unwrap_err();
    assert_eq!(
        error.to_string(),
        "0 of 1 required targets keys found in --keys"
    );
    let empty = tempfile::tempdir().unwrap();
    let error = publish::refresh(&online, empty.path(), &at(ZOO_S)).unwrap_err();
    assert!(
        error.to_string().starts_with("there is no repository in"),
        "{error}"
    );
}

#[test]
fn a_threshold_is_demanded_when_signing_and_when_reading() {
    let org = Org::new(3, 2, ZOO_S);
    let some = org.dir.path().join("some");
    fs::create_dir(&some).unwrap();
    for name in ["targets-1.pem", "snapshot-1.pem", "timestamp-1.pem"] {
        fs::copy(org.dir.path().join("keys").join(name), some.join(name)).unwrap();
    }
    let few = KeyRing::read(std::slice::from_ref(&some)).unwrap();
    let error = publish::publish(&org.set, &org.roots, &few, &org.out(), &at(ZOO_S)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1 of 2 required targets keys found in --keys"
    );
    assert!(!org.out().join("metadata/timestamp.json").exists());
    fs::copy(
        org.dir.path().join("keys/targets-3.pem"),
        some.join("targets-3.pem"),
    )
    .unwrap();
    let enough = KeyRing::read(&[some]).unwrap();
    publish::publish(&org.set, &org.roots, &enough, &org.out(), &at(ZOO_S)).unwrap();
    let machine = org.machine();
    machine.refresh(ZOO_S).unwrap();
    assert!(machine.has(ZOO_S).starts_with("Fresh: "));
}

#[test]
fn what_machines_would_refuse_is_not_published() {
    let mut org = Org::new(1, 1, ZOO_S);
    org.publish(ZOO_S).unwrap();
    let before = org.files();
    org.edit("policy.json", "\"read\": 0", "\"read\": 7");
    let error = org.publish(ZOO_S).unwrap_err();
    assert!(
        matches!(&error, PublishError::Refused(RegistryError::Document { file, .. }) if file == "policy.json"),
        "{error}"
    );
    org.edit("policy.json", "\"read\": 7", "\"read\": 0");
    org.set.org = OrgId::parse("globex").unwrap();
    assert!(matches!(
        org.publish(ZOO_S).unwrap_err(),
        PublishError::Refused(RegistryError::OtherOrganisation { .. })
    ));
    org.set.org = OrgId::parse("acme").unwrap();
    // another organisation's keys and root over this repository
    let mut other = Org::new(1, 1, ZOO_S + 1);
    std::mem::swap(&mut other.set.files, &mut org.set.files);
    let stranger = keys::create_all(
        &other.dir.path().join("k"),
        1,
        1,
        &at(ZOO_S),
        &mut CountingEntropy(99),
    );
    let roots = [stranger.unwrap().root];
    let ring = KeyRing::read(&[other.dir.path().join("k")]).unwrap();
    let error = publish::publish(&other.set, &roots, &ring, &org.out(), &at(ZOO_S)).unwrap_err();
    assert!(matches!(error, PublishError::Previous { .. }), "{error}");
    assert_eq!(org.files(), before);
}

#[test]
fn a_root_that_has_expired_is_not_published_under() {
    let org = Org::new(1, 1, ZOO_S);
    let error = org.publish(ZOO_S + 731 * DAY_S).unwrap_err();
    assert!(
        matches!(error, PublishError::Root(RegistryError::Expired { .. })),
        "{error}"
    );
}

#[test]
fn a_private_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let org = Org::new(1, 1, ZOO_S);
    let dir = org.dir.path().join("keys");
    let key = dir.join("root-1.pem");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let error = KeyRing::read(std::slice::from_ref(&dir)).unwrap_err();
    assert!(error.to_string().ends_with("(mode 0640)"), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(
        &key,
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    )
    .unwrap();
    let error = KeyRing::read(std::slice::from_ref(&dir)).unwrap_err();
    assert!(
        error.to_string().contains("is not an Ed25519 private key"),
        "{error}"
    );
    // and no key is ever overwritten
    let again = keys::create_all(&dir, 1, 1, &at(ZOO_S), &mut CountingEntropy(7)).unwrap_err();
    assert!(again.to_string().ends_with("exists already"), "{again}");
}

// ---- python-tuf ------------------------------------------------------------------------------

/// One of `tests/peers/tuf` in the Python environment that `scripts/peers` made.
pub(crate) fn python_command(script: &str, args: &[&Path]) -> Command {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(home.join("target"), PathBuf::from);
    let python = target.join("peers/python/bin/python");
    assert!(
        python.exists(),
        "python-tuf is not installed: run `scripts/peers python`"
    );
    let mut command = Command::new(python);
    command
        .arg(home.join("tests/peers/tuf").join(script))
        .args(args);
    command
}

/// Runs it to its end.
fn python(script: &str, args: &[&Path]) -> String {
    let output = python_command(script, args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The program as people run it, over TLS: nobody is trusted but the system's store, the CA that the
/// settings name, and the signatures; variables are not asked.
#[test]
fn the_program_fetches_over_tls_from_those_the_system_trusts() {
    let now_s = SystemClock::new().now().unix_s();
    let org = Org::new(1, 1, now_s);
    org.publish(now_s).unwrap();
    let (root, ca) = (
        org.dir.path().join("root.json"),
        org.dir.path().join("ca.pem"),
    );
    fs::write(&root, &org.roots[0]).unwrap();
    let mut server = python_command("https.py", &[&org.out(), &ca])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut url)
        .unwrap();
    let config = org.dir.path().join("config.toml");
    let settings = format!(
        "org = \"acme\"\nregistry_url = \"{}\"\nroot = \"{}\"\nstate_dir = \"{}\"\n",
        url.trim(),
        root.display(),
        org.dir.path().join("state").display()
    );
    let refresh = |settings: String| {
        fs::write(&config, settings).unwrap();
        let mut command = Command::new(super::support::laptop());
        command
            .args(["registry", "refresh"])
            .env_clear()
            .env("MCPSHIM_CONFIG", &config)
            .env("SSL_CERT_FILE", &ca)
            // a proxy named by the environment would not answer
            .env("HTTPS_PROXY", "http://127.0.0.1:1/")
            .env("ALL_PROXY", "http://127.0.0.1:1/");
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), errors)
    };
    let (code, said) = refresh(settings.clone());
    assert_eq!(code, Some(5), "{said}");
    assert!(
        said.contains("could not be fetched") && said.contains("certificate"),
        "{said}"
    );
    let (code, said) = refresh(format!("{settings}ca_file = \"ca.pem\"\n"));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    // its input closed, the server ends by itself
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_private_ca_that_is_none_is_told() {
    for pem in [
        "",
        "nonsense",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = fetch::client(&mcpshim::config::Network::default(), Some(pem)).unwrap_err();
        assert!(
            matches!(error, FetchError::Client { .. }),
            "{pem:?}: {error}"
        );
    }
    fetch::client(&mcpshim::config::Network::default(), None).unwrap();
}

#[test]
fn python_tuf_verifies_and_downloads_what_we_publish() {
    let now_s = SystemClock::new().now().unix_s();
    let mut org = Org::new(3, 2, now_s);
    org.publish(now_s).unwrap();
    let source = Source::serve(&org.out());
    let (root, client) = (
        org.dir.path().join("root.json"),
        org.dir.path().join("client"),
    );
    fs::write(&root, &org.roots[0]).unwrap();
    let url = source.url();
    let download = || python("download.py", &[&root, Path::new(&url), &client]);
    assert_eq!(
        download(),
        "org.json\npolicy.json\nrevocations.json\nserver-files.json\n"
    );
    for (name, bytes) in &org.set.files {
        assert_eq!(&fs::read(client.join("targets").join(name)).unwrap(), bytes);
    }
    // and follows, with the state it kept, what changes
    org.edit("org.json", "#help-mcp", "#ask-here");
    org.publish(now_s).unwrap();
    publish::refresh(&org.keys, &org.out(), &at(now_s)).unwrap();
    download();
    assert_eq!(
        &fs::read(client.join("targets/org.json")).unwrap(),
        &org.set.files["org.json"]
    );
}

#[test]
fn we_verify_and_download_what_python_tuf_publishes() {
    let now_s = SystemClock::new().now().unix_s();
    let dir = tempfile::tempdir().unwrap();
    let (documents, out) = (dir.path().join("documents"), dir.path().join("repository"));
    fs::create_dir(&documents).unwrap();
    for (name, bytes) in Org::new(1, 1, now_s).set.files {
        fs::write(documents.join(name), bytes).unwrap();
    }
    // plain names and no digests, as python-tuf does by default; then consistent snapshots with
    // digests, new keys for every role, and a root walk over them
    let root =
        fs::read(python("publish.py", &[&documents, &out, Path::new("plain")]).trim()).unwrap();
    let machine = Machine::new("acme", &root, file_url(&out));
    assert!(matches!(
        machine.refresh(now_s).unwrap(),
        Refreshed::Updated(_)
    ));
    assert!(
        machine
            .has(now_s)
            .starts_with("Fresh: root 1, timestamp 1, snapshot 1, targets 1")
    );
    python("publish.py", &[&documents, &out, Path::new("rotate")]);
    assert!(matches!(
        machine.refresh(now_s).unwrap(),
        Refreshed::Updated(_)
    ));
    assert!(
        machine
            .has(now_s)
            .starts_with("Fresh: root 3, timestamp 2, snapshot 2, targets 2"),
        "{}",
        machine.has(now_s)
    );
    drop(machine.dir);
}
