//! Managed machines: nothing that a user or a project can set bends what their managers decided.
//!
//! Each test has a machine of its own: a mount namespace in which `/etc` is a directory of the
//! test, with an account database and managed settings. That needs root; without, the tests say
//! that they were skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::{Ended, Grant, Org, Server, Shim, program, run, skipped, wait_for};

/// A machine under management.
struct Machine {
    org: Org,
    /// What is `/etc` there.
    etc: PathBuf,
    /// The only account's home.
    home: PathBuf,
    /// Processes that are not its own.
    spared: Vec<u32>,
}

impl Machine {
    /// A machine that is managed for this organisation, with further lines of settings. None
    /// where it cannot be made.
    fn of(org: Org, extra: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skipped("managed settings can be tried by root only");
            return None;
        }
        let (etc, home) = (org.path().join("etc"), org.path().join("account"));
        let spared = org.processes();
        let machine = Self {
            org,
            etc,
            home,
            spared,
        };
        std::fs::create_dir_all(machine.etc.join("mcpshim")).unwrap();
        std::fs::create_dir(&machine.home).unwrap();
        for dir in ["", "mcpshim"] {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(machine.etc.join(dir), mode).unwrap();
        }
        let account = format!("root:x:0:0:root:{}:/bin/sh\n", machine.home.display());
        machine.write("passwd", &account);
        machine.write("machine-id", "0123456789abcdef0123456789abcdef\n");
        machine.write("nsswitch.conf", "passwd: files\nhosts: files\n");
        machine.write("hosts", "127.0.0.1 localhost collector.test\n");
        let root = std::fs::read_to_string(machine.org.sources().join("trust/root.json"));
        machine.write("mcpshim/root.json", &root.unwrap());
        machine.manage(extra);
        Some(machine)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.etc.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Writes the managed settings.
    fn manage(&self, extra: &str) {
        let text = format!(
            "org = \"it.example\"\nregistry_url = \"file://{}/\"\nroot = \"root.json\"\n\
             agent = \"ci\"\nagent_key = \"{}\"\n{extra}\n",
            self.org.repository().display(),
            self.org.agent_key("ci").display(),
        );
        self.write("mcpshim/managed.toml", &text);
    }

    /// A command on this machine: before `mcpshim` come these words.
    fn command(&self, before: &[String]) -> Command {
        let mut command = Command::new("unshare");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", &self.home)
            // something that is left behind, whatever else is set
            .env("INDIFFERENT", "1")
            .current_dir(self.org.path())
            .args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc && exec \"$@\""])
            .arg(&self.etc)
            .args(before)
            .arg(program("mcpshim"));
        command
    }

    #[track_caller]
    fn run<const N: usize>(&self, words: [&str; N]) -> Ended {
        run(self.command(&[]).args(words))
    }

    /// Ends what still runs for this machine.
    fn calm(&self) {
        let left = || {
            let mut left = self.org.processes();
            left.retain(|pid| !self.spared.contains(pid));
            left
        };
        for pid in left() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
            rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL).ok();
        }
        wait_for("everything to end", || left().is_empty().then_some(()));
    }
}

/// What a run was seen to do.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    settings: Value,
    files: BTreeSet<String>,
    peers: BTreeSet<String>,
    /// The environment that a server said it has.
    server: BTreeMap<String, String>,
}

/// The traces of one run, from the moment on that mcpshim had started over.
fn traced(machine: &Machine, dir: &Path, given: &[(String, String)]) -> Seen {
    std::fs::remove_dir_all(&machine.home).unwrap();
    std::fs::create_dir(&machine.home).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    let strace = |name: &str| {
        let mut words: Vec<String> = ["strace", "-f", "-v", "-s", "65536", "-e", "signal=none"]
            .map(str::to_owned)
            .into();
        words.extend(["-e".to_owned(), "trace=%file,%network".to_owned()]);
        for (name, value) in given {
            words.extend(["-E".to_owned(), format!("{name}={value}")]);
        }
        words.extend(["-o".to_owned(), dir.join(name).display().to_string()]);
        words
    };
    let mut shim = Shim::start(machine.command(&strace("serve")).arg("serve"));
    shim.initialize();
    shim.names("tools");
    let server = shim.call("up_environment", json!({})).text().to_owned();
    shim.close_input();
    // leaves the process that delivers alone if it is already at work
    let flushed = run(machine
        .command(&strace("flush"))
        .args(["audit", "flush", "--wait", "30"]));
    flushed.ok();
    let keychain = run(machine
        .command(&strace("keychain"))
        .args(["credential", "test", "kept"]));
    assert!(!keychain.status.success(), "{keychain:?}");
    drop(shim);
    machine.calm();

    let config = run(machine
        .command(&strace("config"))
        .args(["config", "--json"]))
    .ok();
    let mut settings = config.json();
    // says what was not read
    settings["warnings"].take();
    let mut seen = Seen {
        settings,
        files: BTreeSet::new(),
        peers: BTreeSet::new(),
        server: environment(&server),
    };
    for name in ["serve", "flush", "keychain", "config"] {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        look(&text, name != "config", &mut seen);
    }
    seen
}

/// What the server printed, by name.
fn environment(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines.map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// Files and peers that a trace names.
fn look(trace: &str, starts_over: bool, seen: &mut Seen) {
    let mut starts = 0;
    for line in trace.lines() {
        if line.contains("execve(") {
            starts += 1;
        }
        // the first start carries what was given; the second must not
        if starts_over && starts < 2 {
            continue;
        }
        if let Some((_, rest)) = line.split_once("sa_family=") {
            if line.contains("connect(") || line.contains("sendto(") {
                seen.peers
                    .insert(rest.split('}').next().unwrap().to_owned());
            }
            continue;
        }
        let named = line.split('"').skip(1).step_by(2);
        seen.files
            .extend(named.filter(|name| name.starts_with('/')).map(plain));
    }
    assert!(!starts_over || starts >= 2, "it did not start over");
}

/// Without what differs from run to run: numbers, ids, random names.
fn plain(text: &str) -> String {
    let parts = text.split(['/', '.', '-', '_', '=', ' ']).map(|part| {
        let digits = part.bytes().filter(u8::is_ascii_digit).count();
        let hex = part.len() >= 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
        if hex || digits >= 3 || (digits > 0 && digits == part.len()) {
            "#"
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Settings of the environment that would each bend something, somewhere.
fn hostile(evil: &Path, proxy: &str) -> Vec<(String, String)> {
    let at = |name: &str| evil.join(name).display().to_string();
    let proxy = |name: &str| (name.to_owned(), proxy.to_owned());
    let mut all: Vec<(String, String)> = [
        "HOME",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
        "XDG_CONFIG_DIRS",
        "TMPDIR",
        "TMP",
        "TEMP",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
        "MCPSHIM_CONFIG",
        "MCPSHIM_STATE",
        "MCPSHIM_AGENT_KEY",
        "CREDENTIALS_DIRECTORY",
        "HOSTALIASES",
        "RESOLV_HOST_CONF",
        "LOCPATH",
        "NLSPATH",
        "GCONV_PATH",
        "TZDIR",
        "BROWSER",
        "SHELL",
        "PYTHONPATH",
        "OPENSSL_CONF",
        "MALLOC_TRACE",
    ]
    .map(|name| (name.to_owned(), at(name)))
    .into();
    all.extend(
        [
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ]
        .map(proxy),
    );
    for (name, value) in [
        ("NO_PROXY", "collector.test".to_owned()),
        ("no_proxy", "*".to_owned()),
        ("MCPSHIM_AGENT", "evil".to_owned()),
        ("MCPSHIM_LOG", "trace".to_owned()),
        ("RUST_LOG", "trace".to_owned()),
        ("RUST_BACKTRACE", "full".to_owned()),
        ("RES_OPTIONS", "ndots:9 attempts:5".to_owned()),
        ("LOCALDOMAIN", "evil.test".to_owned()),
        ("USER", "evil".to_owned()),
        ("LOGNAME", "evil".to_owned()),
        (
            "DBUS_SESSION_BUS_ADDRESS",
            format!("unix:path={}", at("bus")),
        ),
        ("NODE_OPTIONS", format!("--require={}", at("evil.js"))),
        ("TZ", format!(":{}", at("zone"))),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3".to_owned()),
    ] {
        all.push((name.to_owned(), value));
    }
    let path = std::env::var("PATH").unwrap();
    all.push(("PATH".to_owned(), format!("evil:.::{path}")));
    all
}

/// Everything hostile at once, and each alone: the settings that hold, the files touched, the
/// peers spoken to and what a server is given are those of a run without any of it.
#[test]
fn no_variable_bends_a_managed_machine() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is missing: what a hostile environment bends is not looked at");
    }
    let org = Org::new();
    org.server(&Server::counting("up", []));
    org.server(
        &Server::counting("kept", [])
            .with("credential: {id: kept, inject: {env: KEPT_TOKEN}, obtain: ask the tests}"),
    );
    org.agent("ci");
    org.role(
        "tester",
        &["ci"],
        &[("up", Grant::ALL), ("kept", Grant::ALL)],
    );
    org.publish();
    crate::collector::certificate(org.path(), "DNS:collector.test");
    let at = |name: &str| org.path().join(name).display().to_string();
    let collector = crate::collector::Server::start(
        &org,
        "collector",
        &[
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            &at("leaf.pem"),
            "--tls-key",
            &at("leaf.key"),
        ],
    );
    std::fs::copy(at("ca.pem"), org.sources().join("ca.pem")).unwrap();
    let text = std::fs::read_to_string(org.sources().join("org.yaml")).unwrap();
    let port = collector.address().port();
    org.write(
        "org.yaml",
        &format!("{text}collector:\n  url: https://collector.test:{port}\n  ca: ca.pem\n"),
    );
    org.republish();
    std::fs::remove_file(org.config()).unwrap();
    let evil = org.path().join("evil");
    std::fs::create_dir(&evil).unwrap();
    let proxy = Proxy::start();
    let url = format!("http://evil:evil@127.0.0.1:{}", proxy.port);
    let Some(machine) = Machine::of(org, "") else {
        return;
    };

    let traces = machine.org.path().join("traces");
    let quiet = traced(&machine, &traces.join("quiet"), &[]);
    assert!(quiet.settings["managed"] == true && quiet.settings["usable"] == true);
    assert_eq!(quiet.server["HOME"], machine.home.display().to_string());
    assert!(
        !quiet.peers.is_empty() && quiet.files.len() > 20,
        "{quiet:#?}"
    );
    let all = hostile(&evil, &url);
    assert!(all.len() >= 30);
    let alone = all.iter().map(|one| (one.0.clone(), vec![one.clone()]));
    let together = [("everything".to_owned(), all.clone())];
    for (name, given) in together.into_iter().chain(alone) {
        let seen = traced(&machine, &traces.join(&name), &given);
        assert_eq!(seen.settings, quiet.settings, "{name}");
        assert_eq!(seen.server, quiet.server, "{name}");
        assert_eq!(seen.peers, quiet.peers, "{name}");
        let mut more: BTreeSet<_> = seen.files.difference(&quiet.files).cloned().collect();
        if !more.is_empty() {
            // what a variable does, it does again; what comes by chance of timing does not
            let again = traced(&machine, &traces.join(format!("{name}-again")), &given);
            more.retain(|file| again.files.contains(file));
        }
        assert!(more.is_empty(), "{name} makes it touch {more:#?}");
        let touched = std::fs::read_dir(&evil).unwrap().count();
        assert_eq!(touched, 0, "{name} makes it write");
        assert!(proxy.asked().is_empty(), "{name}: {:?}", proxy.asked());
    }
}

/// A proxy that remembers what it was asked for and leads everything to loopback.
struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&asked);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let to = Arc::clone(&to);
                std::thread::spawn(move || carry(client, &to));
            }
        });
        Self { port, asked }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn carry(mut client: TcpStream, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read_exact(&mut byte).is_err() {
            break;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    asked.lock().unwrap().push(line.clone());
    let port = line
        .strip_prefix("CONNECT ")
        .and_then(|rest| rest.split_whitespace().next()?.rsplit(':').next());
    let Some(port) = port.and_then(|port| port.parse::<u16>().ok()) else {
        return;
    };
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let up = std::thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut to));
        drop(to.shutdown(std::net::Shutdown::Write));
    });
    drop(std::io::copy(&mut server, &mut client));
    drop(client.shutdown(std::net::Shutdown::Both));
    up.join().unwrap();
}

/// The settings choose the proxy, and nothing else does; loopback never goes through one.
#[test]
fn a_proxy_is_chosen_by_the_settings_only() {
    let org = Org::with(Server::counting("up", []));
    let ca = org.path().join("ca.pem");
    let mut server = crate::registry::python_command("https.py", &[&org.repository(), &ca])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(server.stdout.take().unwrap()),
        &mut url,
    )
    .unwrap();
    let port = url.trim().trim_end_matches('/').rsplit(':').next().unwrap();
    let proxy = Proxy::start();
    let refresh = |host: &str, extra: &str| {
        let text = format!(
            "org = \"it.example\"\nregistry_url = \"https://{host}:{port}/\"\nroot = {:?}\n\
             ca_file = \"ca.pem\"\n{extra}\n",
            org.sources().join("trust/root.json"),
        );
        std::fs::write(org.config(), text).unwrap();
        let mut command = org.laptop();
        for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, proxy.url());
        }
        run(command.args(["registry", "refresh"]))
    };
    let through = format!("proxy = \"{}\"", proxy.url());

    // registry.test is known to the proxy only
    refresh("registry.test", "").refused(5, "could not be fetched");
    refresh("registry.test", "proxy = \"none\"").refused(5, "could not be fetched");
    refresh("registry.test", "proxy = \"system\"").refused(5, "could not be fetched");
    let except = format!("{through}\nno_proxy = \".test\"");
    refresh("registry.test", &except).refused(5, "could not be fetched");
    refresh("127.0.0.1", &through).ok();
    assert_eq!(proxy.asked(), [""; 0]);
    std::fs::remove_dir_all(org.state()).unwrap();

    refresh("registry.test", &through).ok();
    let asked = proxy.asked();
    assert!(!asked.is_empty());
    for line in asked {
        assert_eq!(line, format!("CONNECT registry.test:{port} HTTP/1.1"));
    }
    // its input closed, the server ends by itself
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
}

/// A server that speaks TLS as `certificate` has it, and answers each request so; its port.
fn tls_server(dir: &Path, answer: &'static str) -> u16 {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_file(dir.join("leaf.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(dir.join("leaf.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(session, client);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    // somebody who does not trust us
                    Ok(_) | Err(_) => break,
                }
            }
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    port
}

/// Calls to servers go where everything else goes: by the chosen proxy, to whom it trusts.
#[test]
fn a_server_is_reached_by_the_chosen_proxy_too() {
    use mcpshim::config::{self, Network};
    use mcpshim::fetch::{DialError, dialer};

    let dir = tempfile::tempdir().unwrap();
    crate::collector::certificate(dir.path(), "DNS:remote.test");
    let port = tls_server(dir.path(), "HTTP/1.1 204 No Content\r\n\r\n");
    let ca = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
    let proxy = Proxy::start();
    let through = |proxy: config::Proxy, no_proxy: &str| Network {
        proxy,
        no_proxy: no_proxy.to_owned(),
        ..Network::default()
    };
    let chosen = || config::Proxy::Fixed(proxy.url());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dial = |network: &Network, ca: Option<&str>, host: &str| {
        let dialer = dialer(network, ca).unwrap();
        let to = format!("https://{host}:{port}/").parse().unwrap();
        runtime.block_on(async {
            let mut sender = dialer.dial(&to).await?;
            let request = hyper::Request::get("/").header("host", host);
            let answer = sender.try_send_request(request.body(Default::default()).unwrap());
            Ok::<_, DialError>(answer.await.unwrap().status().as_u16())
        })
    };
    let why = |error: DialError| {
        let cause = std::error::Error::source(&error).unwrap();
        cause.to_string()
    };

    // remote.test is known to the proxy only
    for network in [
        through(config::Proxy::Direct, ""),
        through(config::Proxy::System, ""),
        through(chosen(), ".test"),
    ] {
        let failed = dial(&network, Some(&ca), "remote.test").unwrap_err();
        assert!(matches!(failed, DialError::Name(_)), "{failed:?}");
    }
    let here = dial(&through(chosen(), ""), Some(&ca), "127.0.0.1").unwrap_err();
    assert!(why(here).contains("not valid for name"));
    assert_eq!(proxy.asked(), [""; 0]);

    let network = through(chosen(), "");
    let distrusted = dial(&network, None, "remote.test").unwrap_err();
    assert!(why(distrusted).contains("UnknownIssuer"));
    assert_eq!(dial(&network, Some(&ca), "remote.test").unwrap(), 204);
    let connect = format!("CONNECT remote.test:{port} HTTP/1.1");
    assert_eq!(proxy.asked(), [&*connect, &*connect]);
}

/// What settings name may be anything: nothing waits for it.
#[test]
fn pipes_and_devices_in_the_place_of_files_hold_nothing_up() {
    let org = Org::with(Server::counting("up", []));
    let pipe = org.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refresh = |url: &str, root: &Path, extra: &str| {
        let text =
            format!("org = \"it.example\"\nregistry_url = \"{url}\"\nroot = {root:?}\n{extra}\n");
        std::fs::write(org.config(), text).unwrap();
        run(org.laptop().args(["registry", "refresh"]))
    };
    let root = org.sources().join("trust/root.json");
    let good = format!("file://{}/", org.repository().display());
    for odd in [
        pipe.as_path(),
        Path::new("/dev/zero"),
        Path::new("/dev/null"),
        org.path(),
    ] {
        refresh(&good, odd, "").refused(5, "not a regular file");
        let ca = format!("ca_file = {odd:?}");
        refresh(&good, &root, &ca).refused(5, "not a regular file");
        let mut command = org.laptop();
        command.env("MCPSHIM_CONFIG", odd);
        run(command.arg("config")).refused(5, "not a regular file");
    }
    // a registry that is a pipe, file by file
    let odd = org.path().join("odd");
    std::fs::create_dir_all(odd.join("metadata")).unwrap();
    for name in ["timestamp.json", "2.root.json"] {
        let at = odd.join("metadata").join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    }
    refresh(&format!("file://{}/", odd.display()), &root, "").refused(5, "not a regular file");
    refresh(&good, &root, "").ok();
}

/// The note that a machine was managed is found whatever the environment says.
#[test]
fn management_that_is_gone_is_an_error_wherever_home_is_said_to_be() {
    let Some(machine) = Machine::of(Org::with(Server::counting("up", [])), "") else {
        return;
    };
    machine.run(["registry", "refresh"]).ok();
    std::fs::remove_file(machine.etc.join("mcpshim/managed.toml")).unwrap();
    let elsewhere = machine.org.path().join("elsewhere");
    let gone = "the managed configuration of this machine is gone";
    for names in [
        &["HOME"][..],
        &["XDG_DATA_HOME"],
        &["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"],
    ] {
        let mut command = machine.command(&[]);
        for name in names {
            command.env(name, &elsewhere);
        }
        command.env("MCPSHIM_CONFIG", machine.org.config());
        run(command.arg("tools")).refused(5, gone);
    }
    // and the shim says so itself
    let mut shim = Shim::start(machine.command(&[]).env("HOME", &elsewhere).arg("serve"));
    shim.initialize();
    let status = shim.call("mcpshim_status", json!({}));
    assert!(status.text().contains(gone), "{}", status.0);
    drop(shim);
    machine.manage("");
    machine.run(["tools"]).ok();
}

/// A client that only looks costs nothing, on a machine without an id of its own as well; the id that
/// was made up for it is kept from the first real work on.
#[test]
fn a_probe_writes_nothing_where_there_is_no_machine_id() {
    let Some(machine) = Machine::of(Org::with(Server::counting("up", [])), "") else {
        return;
    };
    std::fs::remove_file(machine.etc.join("machine-id")).unwrap();
    let state_dir = || {
        let said = machine.run(["config", "state_dir"]).ok().stdout;
        PathBuf::from(said.trim())
    };
    let mut shim = Shim::start(machine.command(&[]).arg("serve"));
    shim.discover();
    drop(shim);
    let made_up = state_dir();
    assert_eq!(std::fs::read_dir(&machine.home).unwrap().count(), 0);

    machine.run(["registry", "refresh"]).ok();
    let kept = machine.home.join(".local/share/mcpshim/machine-id");
    let id = std::fs::read_to_string(&kept).unwrap();
    assert!(made_up.to_str().unwrap().contains(&id));
    assert_eq!(state_dir(), made_up);
    // it is read from there, whatever would be made up now
    std::fs::write(&kept, "f".repeat(32)).unwrap();
    assert!(state_dir().to_str().unwrap().contains(&"f".repeat(32)));
}

/// One bad setting of the managers stops everything where it matters, and is named.
#[test]
fn a_managed_setting_that_cannot_be_read_fails_closed() {
    let Some(machine) = Machine::of(Org::with(Server::counting("up", [])), "") else {
        return;
    };
    for (line, said) in [
        (
            "proxy = \"http://p\"",
            "`proxy` is \"http://p\", expected none",
        ),
        (
            "ca_file = \"gone.pem\"",
            "names /etc/mcpshim/gone.pem, which does not exist",
        ),
        (
            "ca_file = \"root.json\"",
            "holds no certificate in PEM form",
        ),
        ("ca_file = \"/proc/self/environ\"", "cannot be used"),
        ("path = \"bin\"", "expected absolute directories"),
        ("no_proxy = \"*\"", "`no_proxy` names \"*\""),
        ("min_root_version = \"many\"", "expected a number from 0 on"),
    ] {
        machine.manage(line);
        machine.run(["registry", "refresh"]).refused(5, said);
    }
    machine.manage("log_level = \"loud\"");
    machine.run(["registry", "refresh"]).ok();
    // a root that others could have written
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(machine.etc.join("mcpshim/root.json"), mode).unwrap();
    machine
        .run(["registry", "refresh"])
        .refused(5, "can be written by others than root");
}

/// Managers choose where programs are looked for; then no `PATH` does.
#[test]
fn the_managers_path_is_the_servers_path() {
    let org = Org::with(Server::counting("up", []));
    let Some(machine) = Machine::of(org, "path = \"/usr/bin:/bin\"\nproxy = \"http://p:1\"") else {
        return;
    };
    let mut command = machine.command(&[]);
    command.env("PATH", format!("/evil:{}", std::env::var("PATH").unwrap()));
    let mut shim = Shim::start(command.arg("serve"));
    shim.initialize();
    let said = environment(shim.call("up_environment", json!({})).text());
    assert_eq!(said["PATH"], "/usr/bin:/bin");
    assert_eq!(said["HTTPS_PROXY"], "http://p:1");
    assert_eq!(said["NO_PROXY"], "localhost,127.0.0.0/8,::1");
    assert!(!said.contains_key("INDIFFERENT"));
    drop(shim);
    machine.calm();
}
