//! Real clients against real servers: what a client sees through mcpshim is what it sees direct,
//! after the edits of `docs/formats/edits.md`.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{
    Grant, Org, Recording, Running, Server, Tap, program, run, skipped, wait_for,
};

/// Where `scripts/peers` installed them.
pub(crate) fn installed(path: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let path = target.join("peers").join(path);
    assert!(
        path.exists(),
        "{} is missing: run scripts/peers",
        path.display()
    );
    path
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(path)
}

pub(crate) fn on_path(program: &str) -> PathBuf {
    std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|dir| dir.join(program))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{program} is not installed: run scripts/peers"))
}

/// The clients, each with the way it opens.
pub(crate) fn client(name: &str) -> Command {
    let (kind, mode) = name.split_once('-').unwrap();
    let mut command = match kind {
        "typescript" => {
            let mut command = Command::new(on_path("node"));
            command.arg(installed("npm/client.mjs"));
            command
        }
        "python" => {
            let mut command = Command::new(installed("python/bin/python"));
            command.arg(source("client.py"));
            command
        }
        "rmcp" => Command::new(installed("rmcp/debug/peer-rmcp")),
        other => panic!("no client {other}"),
    };
    command.arg(mode);
    command
}

/// The servers: the command that starts one, given a directory it may use.
pub(crate) fn server(name: &str, sandbox: &Path) -> (PathBuf, Vec<String>) {
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let npm = |package: &str| {
        let path = format!("npm/node_modules/@modelcontextprotocol/{package}/dist/index.js");
        text(installed(&path))
    };
    match name {
        "everything" => (on_path("node"), vec![npm("server-everything")]),
        "filesystem" => {
            let sandbox = sandbox.canonicalize().unwrap();
            (
                on_path("node"),
                vec![npm("server-filesystem"), text(sandbox)],
            )
        }
        "typescript" => (on_path("node"), vec![text(installed("npm/upstream.mjs"))]),
        "python" => (
            installed("python/bin/python"),
            vec![text(source("upstream.py"))],
        ),
        "rmcp" => (installed("rmcp/debug/peer-rmcp"), vec!["serve".to_owned()]),
        other => panic!("no server {other}"),
    }
}

/// Runs a client's script against a command and gives what it printed, a value a step.
fn walk(
    mut client: Command,
    script: &str,
    prefix: &str,
    command: &Path,
    args: &[String],
) -> Vec<Value> {
    client
        .arg(source(&format!("scripts/{script}.json")))
        .arg(prefix)
        .arg("--")
        .arg(command)
        .args(args);
    run(&mut client).ok().json_lines()
}

/// The same against mcpshim, recorded.
fn walk_through(client: Command, script: &str, prefix: &str, recording: &Recording) -> Vec<Value> {
    let (command, args) = recording.client(program("mcpshim"), &["serve".to_owned()]);
    walk(client, script, prefix, &command, &args)
}

/// Takes back the documented edits, so that what is left must be equal.
pub(crate) fn plain(step: &Value, script: &Value, prefix: &str) -> Value {
    let mut step = step.clone();
    if let Some(error) = step.get_mut("error") {
        // a name that leads nowhere is answered by mcpshim, in its own words and for every era
        // alike; elsewhere the server's words and code must come through
        if unknown(script) {
            return json!({"do": script["do"], "unknown": true});
        }
        drop(error.as_object_mut().unwrap().remove("data"));
        return step;
    }
    let Some(result) = step.get_mut("result").and_then(Value::as_object_mut) else {
        return step;
    };
    if unknown(script) && result.get("isError") == Some(&json!(true)) {
        // servers of the handshake era say it in the result
        return json!({"do": script["do"], "unknown": true});
    }
    // eras and caches
    for key in ["resultType", "ttlMs", "cacheScope"] {
        result.remove(key);
    }
    if let Some(meta) = result.get_mut("_meta").and_then(Value::as_object_mut) {
        meta.remove("io.modelcontextprotocol/serverInfo");
        if meta.is_empty() {
            result.remove("_meta");
        }
    }
    // names
    for list in ["tools", "prompts"] {
        let Some(entries) = result.get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        entries.retain(|entry| entry["name"] != json!("mcpshim_status"));
        for entry in entries {
            let name = entry["name"].as_str().unwrap();
            entry["name"] = json!(name.strip_prefix(prefix).unwrap_or(name));
            // the TypeScript SDK deletes it from what it reads in the stateless era
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("execution");
            }
        }
    }
    if script["volatile"] == json!(true) {
        for entry in result["contents"].as_array_mut().into_iter().flatten() {
            for key in ["text", "blob"] {
                if let Some(value) = entry.get_mut(key) {
                    *value = json!("…");
                }
            }
        }
    }
    step
}

/// The TypeScript SDK handles a response at once and a notification in the next microtask: a last
/// progress that is read together with the result finds its handler gone, direct or not.
pub(crate) fn without_the_last_progress(direct: &mut Value, through: &mut Value) {
    let (Some(direct), Some(through)) = (
        direct["progress"].as_array_mut(),
        through["progress"].as_array_mut(),
    ) else {
        return;
    };
    let common = direct.len().min(through.len());
    if direct.len().abs_diff(through.len()) == 1 && common > 0 {
        direct.truncate(common);
        through.truncate(common);
    }
}

/// Whether a step names something that does not exist.
fn unknown(script: &Value) -> bool {
    script["name"]
        .as_str()
        .is_some_and(|name| name.starts_with("no-such"))
        || script["uri"]
            .as_str()
            .is_some_and(|uri| uri.starts_with("elsewhere:"))
}

/// Step by step, what was seen through mcpshim is what was seen direct.
fn compare(
    client_name: &str,
    script: &[Value],
    (direct, through): (&[Value], &[Value]),
    prefix: &str,
) {
    assert_eq!(direct.len(), script.len(), "a step is missing, direct");
    assert_eq!(
        through.len(),
        script.len(),
        "a step is missing, through mcpshim"
    );
    let mut differ = BTreeMap::new();
    for (at, step) in script.iter().enumerate() {
        let mut seen = (
            plain(&direct[at], step, ""),
            plain(&through[at], step, prefix),
        );
        if client_name.starts_with("typescript") {
            without_the_last_progress(&mut seen.0, &mut seen.1);
        }
        if seen.0 != seen.1 {
            differ.insert(
                at,
                format!("{step}\n  direct:  {}\n  through: {}", seen.0, seen.1),
            );
        }
    }
    assert!(
        differ.is_empty(),
        "{}",
        differ.into_values().collect::<Vec<_>>().join("\n")
    );
}

fn same_direct_and_through(client_name: &str, server_name: &str) {
    let org = Org::new();
    let sandbox = org.path().join("sandbox");
    std::fs::create_dir(&sandbox).unwrap();
    let (command, args) = server(server_name, &sandbox);
    let recording = Recording::new(&org);
    let org = {
        let (command, args) = recording.upstream(server_name, &command, &args);
        // its clients declare nothing, and some servers show more tools to those that do
        let entry = Server::new(server_name, command)
            .args(args)
            .with("elicitation: false");
        org.server(&entry);
        org.agent("ci");
        org.role("tester", &["ci"], &[(server_name, Grant::ALL)]);
        org.publish();
        org
    };

    let script: Vec<Value> = serde_json::from_slice(
        &std::fs::read(source(&format!("scripts/{server_name}.json"))).unwrap(),
    )
    .unwrap();
    let mut direct = client(client_name);
    org.environment(&mut direct);
    direct.current_dir(&sandbox);
    let direct = walk(direct, server_name, "", &command, &args);

    let mut through = client(client_name);
    org.environment_as(&mut through, "ci");
    through.current_dir(&sandbox);
    let prefix = format!("{server_name}_");
    let through = walk_through(through, server_name, &prefix, &recording);

    compare(client_name, &script, (&direct, &through), &prefix);
    recording.validate_calls(&[]);
    // the client is gone: nothing of the shim's may be left but the shipper, which lingers
    wait_for("the upstream to be gone", || {
        let left = org.processes().into_iter().filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            !line.is_empty() && !line.windows(6).any(|w| w == b"__ship")
        });
        (left.count() == 0).then_some(())
    });
}

/// A free port on loopback. Somebody else may take it before it is used; then the test fails.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// One of the servers, over HTTP on loopback.
pub(crate) struct Listening {
    _process: Running,
    port: u16,
}

impl Listening {
    pub(crate) fn start(org: &Org, name: &str) -> Self {
        Self::start_by(org, name, "http")
    }

    /// The same by HTTP+SSE.
    fn start_sse(org: &Org, name: &str) -> Self {
        Self::start_by(org, name, "sse")
    }

    fn start_by(org: &Org, name: &str, transport: &str) -> Self {
        let port = free_port();
        let text = port.to_string();
        let (program, mut args) = match name {
            "fastmcp" => {
                let script = source("fast.py").to_str().unwrap().to_owned();
                (installed("python/bin/python"), vec![script])
            }
            "stateless" => (on_path("node"), vec![installed_text("npm/upstream.mjs")]),
            name => server(name, org.path()),
        };
        match name {
            "everything" if transport == "sse" => args.push("sse".to_owned()),
            "everything" => args.push("streamableHttp".to_owned()),
            "fastmcp" => args.push(text.clone()),
            "stateless" => args.extend(["stateless".to_owned(), text.clone()]),
            _ => args.extend([transport.to_owned(), text.clone()]),
        }
        let mut command = Command::new(program);
        org.environment(&mut command);
        command
            .args(args)
            .env("PORT", &text)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = Running::start(&mut command);
        wait_for("the server to listen", || {
            TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
        });
        Self {
            _process: process,
            port,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    /// A way to it that keeps what is said.
    pub(crate) fn tapped(&self, recording: &Recording, name: &str) -> Tap {
        recording.remote(name, self.port)
    }
}

pub(crate) fn installed_text(path: &str) -> String {
    installed(path).to_str().unwrap().to_owned()
}

/// The same over HTTP: a client that speaks to the server's address itself, and one that speaks
/// to it through mcpshim.
fn same_direct_and_through_http(client_name: &str, direct_name: &str, server_name: &str) {
    let org = Org::new();
    let script_name = match server_name {
        "stateless" => "typescript",
        name => name,
    };
    let script: Vec<Value> = serde_json::from_slice(
        &std::fs::read(source(&format!("scripts/{script_name}.json"))).unwrap(),
    )
    .unwrap();
    let direct = {
        let listening = Listening::start(&org, server_name);
        let mut direct = client(direct_name);
        org.environment(&mut direct);
        walk(direct, script_name, "", Path::new(&listening.url()), &[])
    };
    // another one: it counts what was taken back
    let listening = Listening::start(&org, server_name);
    let recording = Recording::new(&org);
    let tap = listening.tapped(&recording, "remote");
    org.server(&Server::http("remote", &tap.url()).with("elicitation: false"));
    org.agent("ci");
    org.role("tester", &["ci"], &[("remote", Grant::ALL)]);
    org.publish();
    let mut through = client(client_name);
    org.environment_as(&mut through, "ci");
    let through = walk_through(through, script_name, "remote_", &recording);
    compare(client_name, &script, (&direct, &through), "remote_");
    recording.validate_calls(&[]);
}

/// The same by HTTP+SSE, which no client of the tests speaks: the measure is the same server on its
/// standard streams.
fn same_direct_and_through_sse(client_name: &str, server_name: &str) {
    let org = Org::new();
    let script: Vec<Value> = serde_json::from_slice(
        &std::fs::read(source(&format!("scripts/{server_name}.json"))).unwrap(),
    )
    .unwrap();
    let (command, args) = server(server_name, org.path());
    let mut direct = client(client_name);
    org.environment(&mut direct);
    let direct = walk(direct, server_name, "", &command, &args);
    let listening = Listening::start_sse(&org, server_name);
    let recording = Recording::new(&org);
    let tap = listening.tapped(&recording, "remote");
    let url = format!("http://127.0.0.1:{}/sse", tap.port());
    org.server(&Server::http("remote", &url).with("elicitation: false"));
    org.agent("ci");
    org.role("tester", &["ci"], &[("remote", Grant::ALL)]);
    org.publish();
    let mut through = client(client_name);
    org.environment_as(&mut through, "ci");
    let through = walk_through(through, server_name, "remote_", &recording);
    compare(client_name, &script, (&direct, &through), "remote_");
    recording.validate_calls(&[]);
}

mod sse {
    #[test]
    fn everything_typescript_legacy() {
        super::same_direct_and_through_sse("typescript-legacy", "everything");
    }

    #[test]
    fn python_python_auto() {
        super::same_direct_and_through_sse("python-auto", "python");
    }

    #[test]
    fn python_rmcp_legacy() {
        super::same_direct_and_through_sse("rmcp-legacy", "python");
    }
}

macro_rules! remote_pairs {
    ($($name:ident: $client:literal, $direct:literal, $server:literal;)*) => {
        mod http {
            $(#[test]
            fn $name() {
                super::same_direct_and_through_http($client, $direct, $server);
            })*
        }
    };
}

// Without a session a server cannot tell which call of the handshake era is taken back, so where
// that is so the client of the newer era is the measure.
remote_pairs! {
    everything_python_auto: "python-auto", "python-auto", "everything";
    everything_typescript_legacy: "typescript-legacy", "typescript-legacy", "everything";
    python_python_auto: "python-auto", "python-auto", "python";
    python_python_legacy: "python-legacy", "python-auto", "python";
    python_typescript_legacy: "typescript-legacy", "typescript-auto", "python";
    stateless_python_legacy: "python-legacy", "python-auto", "stateless";
    stateless_typescript_auto: "typescript-auto", "typescript-auto", "stateless";
    typescript_typescript_auto: "typescript-auto", "typescript-auto", "typescript";
    typescript_typescript_legacy: "typescript-legacy", "typescript-auto", "typescript";
}

/// A CA of the organisation's own, and a certificate by it for 127.0.0.1 only.
fn certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        run(command.args(arguments.split(' ')).current_dir(dir)).ok();
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=Peers -days 2"
    ));
    openssl(&format!(
        "req {key} -keyout leaf.key -out leaf.csr -subj /CN=peer"
    ));
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 2 \
         -extfile names",
    );
}

/// nginx before a server, with TLS; it lets in who has the token.
fn nginx(dir: &Path, upstream: u16) -> (Running, u16) {
    let port = free_port();
    std::fs::write(
        dir.join("nginx.conf"),
        format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
             fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
             server {{ listen 127.0.0.1:{port} ssl; ssl_certificate leaf.pem;\n\
             ssl_certificate_key leaf.key;\n\
             location /mcp {{ if ($http_authorization != 'Bearer letmein-please') {{ return 401; }}\n\
             proxy_http_version 1.1; proxy_set_header Connection '';\n\
             proxy_pass http://127.0.0.1:{upstream}; }} }} }}\n"
        ),
    )
    .unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command
        .arg("-p")
        .arg(dir)
        .args(["-c", "nginx.conf", "-e", "stderr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let process = Running::start(&mut command);
    wait_for("nginx to listen", || {
        TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
    });
    (process, port)
}

#[test]
fn a_server_behind_nginx_with_tls_by_a_private_authority() {
    if !Path::new("/usr/sbin/nginx").exists() {
        return skipped("nginx is not installed (apt-get install nginx-light)");
    }
    let org = Org::new();
    let dir = org.path().join("nginx");
    std::fs::create_dir(&dir).unwrap();
    certificates(&dir);
    let listening = Listening::start(&org, "python");
    let recording = Recording::new(&org);
    let tap = listening.tapped(&recording, "remote");
    let (_nginx, port) = nginx(&dir, tap.port());
    org.settings("secret_stores: {key_file: true}");
    org.write(
        "trust/ca.pem",
        &std::fs::read_to_string(dir.join("ca.pem")).unwrap(),
    );
    let entry = |host: &str| {
        Server::http("remote", &format!("https://{host}:{port}/mcp"))
            .credential("front-door", "bearer")
    };
    let pin = || {
        let mut command = Command::new(program("mcpshim-admin"));
        command.arg("pin").arg(org.sources());
        crate::support::run_with(
            command.args(["remote", "--credential-stdin"]),
            "letmein-please\n",
        )
    };
    org.agent("ci");
    org.role("tester", &["ci"], &[("remote", Grant::ALL)]);
    for (server, says) in [
        (
            entry("127.0.0.1"),
            "signed by an authority that this machine does not know",
        ),
        (entry("localhost").ca("trust/ca.pem"), "is for another name"),
    ] {
        org.server(&server);
        let ended = pin();
        assert!(ended.stdout.contains(says), "{says}: {ended:#?}");
    }
    org.server(&entry("127.0.0.1").ca("trust/ca.pem"));
    pin().ok();
    org.republish();
    org.mcpshim("ci", ["registry", "refresh"]).ok();
    let mut set = org.laptop_as("ci");
    set.args(["credential", "set", "remote"]);
    crate::support::run_with(&mut set, "letmein-please\n").ok();
    let mut shim = org.serve("ci");
    shim.initialize();
    let answer = shim.call("remote_echo", json!({"message": "through TLS"}));
    assert_eq!(answer.text(), "through TLS");
    // progress comes while the call runs, not when it is over
    let params = json!({"name": "remote_slow", "arguments": {"steps": 3},
        "_meta": {"progressToken": 7}});
    assert_eq!(shim.request("tools/call", params).text(), "done");
    let progressed = shim
        .others
        .iter()
        .filter(|m| m["method"] == "notifications/progress");
    assert_eq!(progressed.count(), 3);
    shim.close();
    recording.validate(&[]);
}

macro_rules! filesystem {
    ($($name:ident: $client:literal;)*) => {
        mod filesystem {
            $(#[test]
            fn $name() {
                super::same_direct_and_through($client, "filesystem");
            })*
        }
    };
}

// the other servers on standard streams are in `matrix`
filesystem! {
    python_auto: "python-auto";
    python_legacy: "python-legacy";
    rmcp_auto: "rmcp-auto";
    rmcp_legacy: "rmcp-legacy";
    typescript_auto: "typescript-auto";
    typescript_legacy: "typescript-legacy";
}

/// Two comparisons that pass because they compare nothing would be worse than none.
#[test]
fn a_difference_is_seen() {
    let script = json!({"do": "call", "name": "echo"});
    let step = |text: &str| json!({"step": 0, "do": "call", "result": {"content": [{"type": "text", "text": text}]}});
    assert_eq!(
        plain(&step("a"), &script, ""),
        plain(&step("a"), &script, "x_")
    );
    assert_ne!(
        plain(&step("a"), &script, ""),
        plain(&step("b"), &script, "x_")
    );
    let list =
        |name: &str| json!({"result": {"tools": [{"name": name}, {"name": "mcpshim_status"}]}});
    let script = json!({"do": "list", "what": "tools"});
    assert_eq!(
        plain(&list("echo"), &script, ""),
        plain(&list("x_echo"), &script, "x_")
    );
    assert_ne!(
        plain(&list("echo"), &script, ""),
        plain(&list("y_echo"), &script, "x_")
    );
}
