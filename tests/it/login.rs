//! Signing in at a real OpenID provider, through its own pages.
//!
//! `tests/peers/oidc`: npm `oidc-provider` behind a front that counts and spoils, and a person at a
//! browser who fills its forms.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{Value, json};

use super::support::{
    Collector, Ended, Grant, Issuer, Org, Running, Server, Shim, files, run, skipped, wait_for,
};

/// A second provider would cost each test what one costs: this is the whole of it.
const PATIENCE: Duration = Duration::from_secs(30);

fn installed(path: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let path = target.join("peers/oidc").join(path);
    path.exists().then_some(path)
}

/// The provider, as long as it is held.
#[derive(Debug)]
struct Provider {
    issuer: String,
    jwks: String,
    _process: Running,
    _stdin: ChildStdin,
}

impl Provider {
    /// `None` when it is not installed, which is said.
    fn start() -> Option<Self> {
        let script = installed("provider.mjs").filter(|_| installed("node_modules").is_some());
        let Some(script) = script else {
            skipped("the OpenID provider is not installed (scripts/peers oidc)");
            return None;
        };
        let mut command = Command::new("node");
        command
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Running::start(&mut command);
        let stdin = process.stdin();
        let mut line = String::new();
        BufReader::new(process.stdout())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("{e}: {line:?} {}", process.stderr()));
        Some(Self {
            issuer: ready["issuer"].as_str().unwrap().to_owned(),
            jwks: ready["jwks"].to_string(),
            _process: process,
            _stdin: stdin,
        })
    }

    fn address(&self) -> SocketAddr {
        self.issuer
            .strip_prefix("http://")
            .unwrap()
            .parse()
            .unwrap()
    }

    /// Changes what it does; see `provider.mjs`.
    #[track_caller]
    fn set(&self, settings: Value) {
        let body = settings.to_string();
        let (status, _, _) = exchange(
            self.address(),
            &format!(
                "POST /control HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
        );
        assert_eq!(status, 200);
    }

    /// How often something was asked of it.
    #[track_caller]
    fn count(&self, what: &str) -> u64 {
        self.told()["counts"][what].as_u64().unwrap_or_default()
    }

    #[track_caller]
    fn told(&self) -> Value {
        let request = "GET /control HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let (_, _, body) = exchange(self.address(), request);
        let start = body.find('{').unwrap();
        let end = body.rfind('}').unwrap();
        serde_json::from_str(&body[start..=end]).unwrap()
    }

    /// Whether it still takes a refresh token; taking it makes another of it.
    #[track_caller]
    fn takes(&self, refresh_token: &str) -> bool {
        let form =
            format!("grant_type=refresh_token&client_id=mcpshim&refresh_token={refresh_token}");
        let (status, _, body) = exchange(
            self.address(),
            &format!(
                "POST /token HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
                self.address(),
                form.len()
            ),
        );
        if status != 200 {
            assert!(body.contains("invalid_grant"), "{status} {body}");
        }
        status == 200
    }
}

/// Sends bytes, and reads status, head and body of the answer.
#[track_caller]
fn exchange(address: SocketAddr, request: &str) -> (u16, String, String) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // an answer may come, and the connection close, before all was written
    drop(socket.write_all(request.as_bytes()));
    let mut answer = Vec::new();
    drop(socket.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

/// An organisation whose people sign in at a provider, with one server for the role `eng`.
struct Site {
    provider: Provider,
    org: Org,
}

impl Site {
    fn new() -> Option<Self> {
        Self::with(&["device_flow: true"], "")
    }

    fn with(issuer: &[&str], settings: &str) -> Option<Self> {
        let provider = Provider::start()?;
        let org = Org::new();
        let mut more = vec!["scopes: [profile, groups]"];
        more.extend_from_slice(issuer);
        org.issuers(&[Issuer {
            url: &provider.issuer,
            client_id: "mcpshim",
            groups_claim: "groups",
            jwks: &provider.jwks,
            more: &more,
        }]);
        org.settings("secret_stores: {key_file: true}");
        if !settings.is_empty() {
            org.settings(settings);
        }
        org.server(&Server::counting("counting", []));
        org.role_of("eng", &["g-eng"], &[], &[("counting", Grant::ALL)]);
        org.publish();
        run(org.laptop().args(["registry", "refresh"])).ok();
        Some(Self { provider, org })
    }

    /// Starts `mcpshim login --no-browser` and waits for the address it prints.
    #[track_caller]
    fn login(&self) -> Login {
        Login::start(self.org.laptop().args(["login", "--no-browser"]))
    }

    /// Signs in as a person, all the way.
    #[track_caller]
    fn sign_in(&self, name: &str) -> (Ended, Value) {
        let login = self.login();
        let page = browse(&login.url, name, &[]);
        (login.ended(), page)
    }

    /// The refresh token that the provider gave last.
    #[track_caller]
    fn refresh_token(&self) -> String {
        let told = self.provider.told();
        told["last"]["refresh_token"].as_str().unwrap().to_owned()
    }

    fn claims(&self) -> PathBuf {
        self.org.state().join("session.claims")
    }
}

/// A sign-in under way.
struct Login {
    process: Running,
    /// The address to open.
    url: String,
    /// Further lines of standard error.
    lines: Receiver<String>,
}

impl Login {
    #[track_caller]
    fn start(command: &mut Command) -> Self {
        Self::start_with(command, Stdio::null())
    }

    #[track_caller]
    fn start_with(command: &mut Command, stdin: Stdio) -> Self {
        let mut process = Running::start(
            command
                .stdin(stdin)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let lines = process.stderr_lines();
        let mut seen = Vec::new();
        let url = loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with("http") => break line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no address: {seen:?}"),
            }
        };
        Self {
            process,
            url,
            lines,
        }
    }

    /// Where the browser is to come back to.
    fn callback(&self) -> SocketAddr {
        let at = self.url.find("127.0.0.1%3A").expect("a redirect URI");
        let rest = &self.url[at + "127.0.0.1%3A".len()..];
        let port = rest.split('%').next().unwrap().parse().unwrap();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn parameter(&self, name: &str) -> String {
        let start = self.url.find(&format!("&{name}=")).unwrap() + name.len() + 2;
        self.url[start..].split('&').next().unwrap().to_owned()
    }

    /// Opens a page of the listener.
    #[track_caller]
    fn get(&self, target: &str) -> (u16, String, String) {
        let host = self.callback();
        exchange(
            host,
            &format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        )
    }

    #[track_caller]
    fn note(&self, words: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.contains(words) {
                return;
            }
            seen.push(line);
        }
        panic!("no {words:?} in {seen:?}");
    }

    #[track_caller]
    fn ended(mut self) -> Ended {
        let mut stdout = String::new();
        let status = self.process.ended();
        self.process.stdout().read_to_string(&mut stdout).unwrap();
        let stderr: Vec<String> = self.lines.iter().collect();
        Ended {
            status,
            stdout,
            stderr: stderr.join("\n"),
        }
    }
}

/// A person at a browser; gives the last page.
#[track_caller]
fn browse(address: &str, name: &str, flags: &[&str]) -> Value {
    let mut command = Command::new("node");
    command
        .arg(installed("browser.mjs").unwrap())
        .args([address, name])
        .args(flags);
    let ended = run(&mut command).ok();
    ended.json()
}

/// The address the provider sends the browser back to, not opened.
#[track_caller]
fn redirect(login: &Login, name: &str) -> String {
    let page = browse(&login.url, name, &["--stop"]);
    let url = page["url"].as_str().unwrap();
    let at = url.find("/callback?").unwrap();
    url[at..].to_owned()
}

#[test]
fn person_signs_in_through_the_providers_pages_and_may_call() {
    let Some(site) = Site::new() else { return };
    let status = run(site.org.laptop().args(["status"]));
    assert!(status.stdout.contains("run `mcpshim login`"), "{status:?}");
    let (ended, page) = site.sign_in("ann");
    let ended = ended.ok();
    assert!(
        ended.stdout.contains("signed in as Ann, roles: eng\n"),
        "{ended:?}"
    );
    assert!(ended.stdout.contains("renewed silently"), "{ended:?}");
    let body = page["body"].as_str().unwrap();
    assert!(body.contains("<h1>Signed in as Ann</h1>"), "{body}");
    assert!(body.contains("Roles: eng. Until "), "{body}");
    assert!(!body.contains("<script"), "{body}");
    let policy = page["headers"]["content-security-policy"].as_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    use std::os::unix::fs::PermissionsExt as _;
    for file in ["session.claims", "session.enrol"] {
        let mode = site
            .org
            .state()
            .join(file)
            .metadata()
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600, "{file}");
    }
    let mut shim = Shim::start(site.org.laptop().arg("serve"));
    shim.initialize();
    assert_eq!(shim.call("counting_count", json!({"id": "1"})).text(), "1");
    shim.close();
    // the tokens are nowhere in clear
    let refresh = site.refresh_token();
    for file in files(&site.org.state()) {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes
            .windows(refresh.len())
            .any(|w| w == refresh.as_bytes());
        assert!(!found, "{}", file.display());
    }
}

#[test]
fn what_is_not_the_answer_is_refused_and_the_sign_in_goes_on() {
    let Some(site) = Site::new() else { return };
    let login = site.login();
    assert_eq!(login.parameter("code_challenge_method"), "S256");
    let address = login.callback();
    let state = login.parameter("state");
    // another path, another method, another host
    assert_eq!(login.get("/").0, 404);
    assert_eq!(login.get("/favicon.ico").0, 404);
    assert_eq!(
        login.get(&format!("/callback/?code=x&state={state}")).0,
        404
    );
    let (status, _, _) = exchange(
        address,
        &format!("POST /callback?code=x&state={state} HTTP/1.1\r\nHost: {address}\r\n\r\n"),
    );
    assert_eq!(status, 404);
    for host in [
        "evil.example",
        "localhost:1",
        &format!("localhost:{}", address.port()),
    ] {
        let request =
            format!("GET /callback?code=x&state={state} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(exchange(address, &request).0, 404, "{host}");
    }
    // another sign-in's answer
    let (status, _, body) = login.get("/callback?code=x&state=guessed");
    assert_eq!(status, 400);
    assert!(body.contains("not the answer to your sign-in"), "{body}");
    login.note("its `state` is not ours");
    let (status, _, _) = login.get(&format!("/callback?code=x&state={state}&state={state}"));
    assert_eq!(status, 400);
    login.note("says something twice");
    // too long, not HTTP, and so slow that it never ends
    let long = format!(
        "GET /callback?code={} HTTP/1.1\r\nHost: {address}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    assert_eq!(exchange(address, &long).0, 431);
    assert_eq!(exchange(address, "hello\r\n\r\n").0, 400);
    let mut slow = TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /callback?code=").unwrap();
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(address).unwrap());
    }
    // all of that changed nothing
    let page = browse(&login.url, "ann", &[]);
    assert_eq!(page["status"], 200, "{page}");
    login.ended().ok();
    drop((slow, idle));
}

#[test]
fn answer_of_another_issuer_is_refused_and_shows_nothing_of_it() {
    let Some(site) = Site::new() else { return };
    let wrong = [
        (
            "&iss=https%3A%2F%2Fevil.example",
            "says it comes from \"https://evil.example\"",
        ),
        ("", "does not say from whom it comes"),
    ];
    for (issuer, words) in wrong {
        let login = site.login();
        let state = login.parameter("state");
        let (_, _, body) = login.get(&format!(
            "/callback?error=login_required&error_description=call%20555&state={state}{issuer}"
        ));
        assert!(body.contains("You are not signed in"), "{body}");
        assert!(!body.contains("555") && !body.contains("evil"), "{body}");
        let ended = login.ended().refused(4, words);
        assert!(!ended.stderr.contains("555"), "{ended:?}");
    }
    assert!(!site.claims().exists());
    assert_eq!(site.provider.count("authorization_code"), 0);
}

#[test]
fn one_answer_is_taken_and_the_next_finds_nothing() {
    let Some(site) = Site::new() else { return };
    let login = site.login();
    let target = redirect(&login, "ann");
    let address = login.callback();
    let (first, second) = std::thread::scope(|scope| {
        let ask = || {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\n\r\n");
            let mut socket = TcpStream::connect(address).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            drop(socket.read_to_string(&mut answer));
            answer
        };
        let (one, two) = (scope.spawn(ask), scope.spawn(ask));
        (one.join().unwrap(), two.join().unwrap())
    });
    let mut titles = [first, second].map(|answer| match answer {
        answer if answer.contains("Signed in as Ann") => "signed in",
        answer if answer.contains("404 Not Found") => "nothing",
        other => panic!("{other:?}"),
    });
    titles.sort_unstable();
    assert_eq!(titles, ["nothing", "signed in"]);
    login.ended().ok();
    assert_eq!(site.provider.count("authorization_code"), 1);
}

#[test]
fn refusals_of_the_provider_are_told_on_the_page_and_in_the_terminal() {
    let Some(site) = Site::new() else { return };
    let login = site.login();
    let page = browse(&login.url, "ann", &["--abort"]);
    let body = page["body"].as_str().unwrap();
    assert!(body.contains("You are not signed in"), "{body}");
    assert!(body.contains("access_denied"), "{body}");
    let ended = login.ended().refused(4, "access_denied");
    assert!(ended.stderr.contains("hint:"), "{ended:?}");
    // words of a stranger cannot play with the terminal or the page
    let login = site.login();
    let state = login.parameter("state");
    let issuer = site.provider.issuer.replace(':', "%3A").replace('/', "%2F");
    let (_, _, body) = login.get(&format!(
        "/callback?error=%1B%5B2Jx&error_description=%3Cscript%3E%E2%80%AE&state={state}&iss={issuer}"
    ));
    assert!(
        body.contains("&lt;script&gt;") && !body.contains("<script"),
        "{body}"
    );
    let ended = login.ended().refused(4, "<script>");
    assert!(
        !ended.stderr.contains('\u{1b}') && !ended.stderr.contains('\u{202e}'),
        "{ended:?}"
    );
    assert!(!site.claims().exists());
}

#[test]
fn code_or_token_of_another_sign_in_is_refused() {
    let Some(site) = Site::new() else { return };
    // a code that was given to another sign-in: the provider checks the proof key
    let (one, two) = (site.login(), site.login());
    let stolen = redirect(&one, "mallory");
    let swapped = stolen.replace(&one.parameter("state"), &two.parameter("state"));
    two.get(&swapped);
    two.ended().refused(4, "invalid_grant");
    drop(one);
    // a token whose nonce is another's
    site.provider.set(json!({"nonce": "another"}));
    let login = site.login();
    browse(&login.url, "ann", &[]);
    login
        .ended()
        .refused(4, "its nonce is not the one that was sent");
    assert!(!site.claims().exists());
}

#[test]
fn providers_that_are_not_what_the_registry_says_are_refused() {
    let Some(site) = Site::new() else { return };
    let cases = [
        (
            json!({"issuer": format!("{}/", site.provider.issuer)}),
            "its metadata are those of",
        ),
        (
            json!({"code_challenge_methods_supported": ["plain"]}),
            "names other methods",
        ),
        (
            json!({"code_challenge_methods_supported": null}),
            "does not say that it checks proof keys",
        ),
        (
            json!({"token_endpoint": "http://idp.example/token"}),
            "token_endpoint is not an https:// URL",
        ),
        (
            json!({"authorization_endpoint": "file:///etc/passwd"}),
            "authorization_endpoint is not",
        ),
    ];
    for (metadata, words) in cases {
        site.provider.set(json!({"metadata": metadata}));
        run(site.org.laptop().args(["login", "--no-browser"])).refused(4, words);
    }
    site.provider.set(json!({"down": true}));
    run(site.org.laptop().args(["login", "--no-browser"])).refused(4, "status 503");
    // the registry says, signed, that this one checks proof keys all the same
    let Some(entra) = Site::with(&["pkce_unadvertised: true"], "") else {
        return;
    };
    entra.provider.set(json!({"metadata": {
        "code_challenge_methods_supported": null,
        "authorization_response_iss_parameter_supported": null,
    }}));
    entra.sign_in("ann").0.ok();
}

#[test]
fn roles_that_cannot_be_known_are_refused_and_no_role_is_said() {
    let Some(site) = Site::new() else { return };
    let many = |n: usize| (0..n).map(|i| format!("g-{i}")).collect::<Vec<_>>();
    let cases = [
        (json!({"groups": null}), "has no claim `groups`"),
        (json!({"groups": many(100)}), "exactly 100"),
        (json!({"groups": many(200)}), "exactly 200"),
        (
            json!({"groups": null, "extra": {
                "_claim_names": {"groups": "src1"},
                "_claim_sources": {"src1": {"endpoint": "https://graph.example/"}},
            }}),
            "`_claim_names`",
        ),
        (
            json!({"groups": null, "extra": {"hasgroups": true}}),
            "`hasgroups`",
        ),
    ];
    for (settings, words) in cases {
        site.provider.set(settings);
        let (ended, page) = site.sign_in("ann");
        ended.refused(4, words);
        let body = page["body"].as_str().unwrap();
        assert!(body.contains("You are not signed in"), "{body}");
        assert!(!site.claims().exists());
    }
    site.provider
        .set(json!({"groups": ["others"], "extra": {}}));
    let (ended, page) = site.sign_in("ann");
    assert!(ended.ok().stdout.contains("none of your groups has a role"));
    assert!(page["body"].as_str().unwrap().contains("ask #help"));
}

#[test]
fn signing_in_as_somebody_else_replaces_and_says_so() {
    let Some(site) = Site::new() else { return };
    site.sign_in("ann").0.ok();
    let before = site.refresh_token();
    let (ended, _) = site.sign_in("bob");
    let ended = ended.ok();
    assert!(ended.stdout.starts_with("Ann is signed out\n"), "{ended:?}");
    assert!(ended.stdout.contains("signed in as Bob"), "{ended:?}");
    assert!(!site.provider.takes(&before), "Ann's tokens were revoked");
    let (ended, _) = site.sign_in("bob");
    assert!(!ended.ok().stdout.contains("signed out"));
}

#[test]
fn signing_in_at_another_provider_ends_the_first_sign_in() {
    let (Some(one), Some(two)) = (Provider::start(), Provider::start()) else {
        return;
    };
    let org = Org::new();
    org.issuers(&[&one, &two].map(|provider| Issuer {
        url: &provider.issuer,
        client_id: "mcpshim",
        groups_claim: "groups",
        jwks: &provider.jwks,
        more: &["scopes: [profile, groups]"],
    }));
    org.settings("secret_stores: {key_file: true}");
    org.republish();
    let sign_in = |provider: &Provider| {
        let mut command = org.laptop();
        command.args(["login", "--no-browser", "--issuer", &provider.issuer]);
        let login = Login::start(&mut command);
        browse(&login.url, "ann", &[]);
        login.ended().ok();
    };
    sign_in(&one);
    let first = one.told()["last"]["refresh_token"]
        .as_str()
        .unwrap()
        .to_owned();
    sign_in(&two);
    assert!(!one.takes(&first), "revoked");
    let out = run(org.laptop().args(["logout", "--json"])).ok();
    let told = out.json();
    assert_eq!(
        told["revoked"],
        json!([two.issuer]),
        "nothing of the first is left"
    );
}

#[test]
fn logout_revokes_and_wipes_and_wipes_even_when_the_provider_is_away() {
    let Some(site) = Site::new() else { return };
    site.sign_in("ann").0.ok();
    let refresh = site.refresh_token();
    let out = run(site.org.laptop().arg("logout")).ok();
    assert!(out.stdout.contains("tokens revoked"), "{out:?}");
    assert!(!site.claims().exists() && !site.org.state().join("session.enrol").exists());
    assert!(!site.provider.takes(&refresh));
    assert_eq!(site.provider.count("revocation"), 2);
    let out = run(site.org.laptop().arg("logout")).ok();
    assert!(out.stdout.contains("nobody was signed in"), "{out:?}");
    site.sign_in("ann").0.ok();
    site.provider.set(json!({"down": true}));
    let out = run(site.org.laptop().arg("logout")).ok();
    assert!(out.stderr.contains("not revoked"), "{out:?}");
    assert!(!site.claims().exists());
    let out = run(site.org.laptop().args(["logout", "--json"])).ok();
    let told = out.json();
    assert_eq!(told["was_signed_in"], json!(false));
}

#[test]
fn sign_in_by_device_code_where_the_registry_allows_it() {
    let Some(site) = Site::new() else { return };
    let start = || {
        let mut command = site.org.laptop();
        let mut process = Running::start(
            command
                .args(["login", "--device"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let lines = process.stderr_lines();
        let first = lines.recv_timeout(PATIENCE).unwrap();
        let page = first.split(' ').nth(1).unwrap().to_owned();
        let code = lines.recv_timeout(PATIENCE).unwrap();
        let login = Login {
            process,
            url: page,
            lines,
        };
        (login, code)
    };
    let (login, code) = start();
    let page = browse(&login.url, "ann", &["--code", &code]);
    assert!(
        page["body"].as_str().unwrap().contains("Sign-in Success"),
        "{page}"
    );
    let ended = login.ended().ok();
    assert!(
        ended.stdout.contains("signed in as Ann, roles: eng"),
        "{ended:?}"
    );
    let (login, code) = start();
    browse(&login.url, "ann", &["--code", &code, "--abort"]);
    login.ended().refused(4, "access_denied");
    let Some(strict) = Site::with(&[], "") else {
        return;
    };
    run(strict.org.laptop().args(["login", "--device"]))
        .refused(4, "signing in by device code is not allowed");
}

#[test]
fn an_address_pasted_from_another_machine_signs_in_and_is_judged_like_any_answer() {
    let Some(site) = Site::new() else { return };
    let start = |more: &[&str]| {
        Login::start_with(site.org.laptop().arg("login").args(more), Stdio::piped())
    };
    let mut login = start(&["--code"]);
    let answer = redirect(&login, "ann");
    let mut stdin = login.process.stdin();
    let mut paste = |text: &str| writeln!(stdin, "{text}").unwrap();
    let whole = format!("http://{}{answer}", login.callback());
    paste("SplxlOBeZQQYbYS6WxSbIA");
    login.note("that is not the address the browser ended at");
    paste(&whole.replace(&login.parameter("state"), "another"));
    login.note("an answer to another sign-in came");
    paste(&whole);
    let ended = login.ended().ok();
    assert!(ended.stdout.contains("signed in as Ann"), "{ended:?}");
    // an answer of somebody else's provider ends it, pasted or not
    let mut login = start(&["--code"]);
    let answer = redirect(&login, "ann").replace("iss=http", "iss=https");
    let whole = format!("http://{}{answer}", login.callback());
    writeln!(login.process.stdin(), "{whole}").unwrap();
    let ended = login.ended().refused(4, "does not come from");
    // whoever was signed in still is
    let still = "you are not signed in anew; you are still Ann";
    assert!(ended.stderr.contains(still), "{ended:?}");
    run(site.org.laptop().arg("status")).ok();

    // a port that was chosen for a tunnel, and the browser that comes back through it
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let chosen = ["--no-browser", "--port", &port.to_string()];
    let taken = run(site.org.laptop().arg("login").args(chosen));
    let taken = taken.refused(4, &format!("cannot listen on port {port} of 127.0.0.1"));
    assert!(
        taken.stderr.contains("name another with `--port`"),
        "{taken:?}"
    );
    drop(free);
    let login = start(&chosen);
    assert_eq!(login.callback().port(), port);
    browse(&login.url, "bob", &[]);
    let ended = login.ended().ok();
    assert!(ended.stdout.starts_with("Ann is signed out"), "{ended:?}");
    // a provider in trouble is not one that was configured wrongly
    site.provider.set(json!({"down": true}));
    let ended = run(site.org.laptop().args(["login", "--device"]));
    let ended = ended.refused(4, "is down: it answers with status 503");
    assert!(
        ended.stderr.contains("try again in a few minutes"),
        "{ended:?}"
    );
    assert!(!ended.stderr.contains("org.yaml"), "{ended:?}");
    assert!(ended.stderr.contains("you are still Bob"), "{ended:?}");
}

#[test]
fn broken_off_sign_in_leaves_everything_as_it_was() {
    let Some(site) = Site::new() else { return };
    site.sign_in("ann").0.ok();
    let before = std::fs::read(site.claims()).unwrap();
    let login = site.login();
    let address = login.callback();
    login.process.signal(rustix::process::Signal::INT);
    login.ended().refused(1, "the sign-in was broken off");
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
    assert_eq!(std::fs::read(site.claims()).unwrap(), before);
    let out = run(site.org.laptop().args(["login", "--renew"])).ok();
    assert!(out.stdout.contains("still lasts until"), "{out:?}");
}

#[test]
fn one_of_several_providers_has_to_be_named() {
    let org = Org::new();
    let jwks = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let issuer = |url| Issuer {
        url,
        client_id: "mcpshim",
        groups_claim: "groups",
        jwks,
        more: &[],
    };
    org.issuers(&[issuer("https://one.example"), issuer("https://two.example")]);
    org.republish();
    let login = |more: &[&str]| run(org.laptop().args(["login", "--no-browser"]).args(more));
    let ended = login(&[]).refused(2, "names several identity providers");
    assert!(
        ended
            .stderr
            .contains("https://one.example, https://two.example"),
        "{ended:?}"
    );
    login(&["--issuer", "https://two.example/"]).refused(2, "does not name the issuer");
}

#[test]
fn machine_of_an_agent_needs_no_sign_in() {
    let org = Org::new();
    org.agent("ci");
    org.republish();
    let out = org.mcpshim("ci", ["login"]).ok();
    assert!(out.stdout.contains("runs as agent ci"), "{out:?}");
    // nor can anybody sign in where the registry names no provider
    run(org.laptop().args(["login", "--no-browser"])).refused(1, "names no identity provider");
}

/// A sign-in whose end is so near that it is due for renewal, with a provider that from now on
/// gives tokens of an hour.
#[track_caller]
fn due(site: &Site) {
    site.provider.set(json!({"ttl": 8}));
    site.sign_in("ann").0.ok();
    site.provider.set(json!({"ttl": 3600}));
    // due in the second half of its life
    std::thread::sleep(Duration::from_millis(4_500));
}

#[test]
fn ten_processes_renew_once_and_nobody_is_signed_out() {
    let Some(site) = Site::new() else { return };
    for round in 1..=3 {
        due(&site);
        let renewals: Vec<Value> = std::thread::scope(|scope| {
            let renew = || {
                let mut command = site.org.laptop();
                let out = run(command.args(["login", "--renew", "--json"])).ok();
                out.json()
            };
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(renew)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let renewed = renewals.iter().filter(|r| r["renewed"] == json!(true));
        assert_eq!(renewed.count(), 1, "{renewals:?}");
        assert_eq!(site.provider.count("refresh_token"), round);
        assert!(renewals.iter().all(|r| r["until"] == renewals[0]["until"]));
        run(site.org.laptop().arg("status")).ok();
    }
    // what is kept is the token that is good
    assert!(site.provider.takes(&site.refresh_token()));
}

#[test]
fn renewals_that_fail_say_how_and_throw_nothing_away_that_is_good() {
    let Some(site) = Site::new() else { return };
    let renew = || run(site.org.laptop().args(["login", "--renew"]));
    renew().refused(4, "nobody is signed in");
    due(&site);
    // the network, or the provider: later
    site.provider.set(json!({"down": true}));
    renew().refused(4, "not renewed now");
    site.provider.set(json!({"down": false, "ttl": 8}));
    renew().ok();
    std::thread::sleep(Duration::from_millis(4_500));
    // a refresh that brings no ID token: the sign-in lasts until its end; the refresh token it
    // brought is kept
    site.provider.set(json!({"token": {"id_token": null}}));
    renew().refused(4, "gave no ID token");
    site.provider.set(json!({"token": {}, "ttl": 3600}));
    renew().ok();
    // another person's token is not taken for a renewal
    due(&site);
    let other = Site::new().unwrap();
    other.sign_in("bob").0.ok();
    let bobs = other.provider.told()["last"]["id_token"].clone();
    site.provider.set(json!({"token": {"id_token": bobs}}));
    renew().refused(4, "the sign-in cannot be renewed silently");
    site.provider.set(json!({"token": {}}));
    // signed out at the provider
    due(&site);
    let refresh = site.refresh_token();
    assert!(
        site.provider.takes(&refresh),
        "used elsewhere: the provider takes it as stolen"
    );
    renew().refused(4, "ended by the provider");
    renew().refused(4, "gave nothing to renew the sign-in with");
    site.sign_in("ann").0.ok();
    renew().ok();
}

/// As [`Site::new`], with a collector that the registry names.
fn with_collector() -> Option<(Site, Collector)> {
    let site = Site::new()?;
    let collector = site.org.collector();
    site.org
        .settings(&format!("collector: {{url: '{}'}}", collector.url));
    site.org.republish();
    run(site.org.laptop().args(["registry", "refresh"])).ok();
    Some((site, collector))
}

#[test]
fn records_name_the_person_whose_installation_sent_them() {
    let Some((site, collector)) = with_collector() else {
        return;
    };
    let ended = site.sign_in("ann").0.ok();
    assert!(!ended.stderr.contains("warning"), "{ended:?}");
    let mut shim = Shim::start(site.org.laptop().arg("serve"));
    shim.initialize();
    assert_eq!(shim.call("counting_count", json!({"id": "1"})).text(), "1");
    shim.close();
    run(site.org.laptop().args(["audit", "flush"])).ok();
    let calls = wait_for("the call at the collector", || {
        let lines = collector.read(["query", "--json"]).ok().json_lines();
        let calls: Vec<Value> = lines
            .into_iter()
            .filter(|record| record.to_string().contains("counting"))
            .collect();
        (!calls.is_empty()).then_some(calls)
    });
    for call in &calls {
        assert!(
            call.to_string().contains("\"ann\"") || call.to_string().contains("Ann"),
            "{call}"
        );
        assert_eq!(call["attested"], json!(true), "{call}");
    }
    let devices = collector.read(["devices"]).ok().stdout;
    assert!(devices.contains("  Ann\n"), "{devices}");
}

#[test]
fn further_installations_and_people_are_enrolled_and_told() {
    let Some((site, _collector)) = with_collector() else {
        return;
    };
    let alerts = || {
        let log = site.org.path().join("collector/log/alerts.jsonl");
        std::fs::read_to_string(log).unwrap_or_default()
    };
    site.sign_in("ann").0.ok();
    site.sign_in("ann").0.ok();
    assert_eq!(alerts(), "", "the same person again is nothing to tell");
    let other = site.org.path().join("other");
    let mut command = site.org.laptop();
    command
        .env("MCPSHIM_STATE", &other)
        .args(["login", "--no-browser"]);
    let login = Login::start(&mut command);
    browse(&login.url, "ann", &[]);
    login.ended().ok();
    assert!(
        alerts().contains("Ann enrolled another installation, beside 1"),
        "{}",
        alerts()
    );
    site.sign_in("bob").0.ok();
    assert!(
        alerts().contains("Bob enrolled an installation of Ann"),
        "{}",
        alerts()
    );
}

#[test]
fn renewed_token_of_ann_enrols_no_other_installation() {
    let Some((site, collector)) = with_collector() else {
        return;
    };
    site.sign_in("ann").0.ok();
    // a thief with Ann's files but the installation key, on a machine of their own
    let thief = site.org.path().join("thief");
    std::fs::create_dir_all(&thief).unwrap();
    for file in ["session.claims", "session.enrol"] {
        std::fs::copy(site.org.state().join(file), thief.join(file)).unwrap();
    }
    let mut command = site.org.laptop();
    command.env("MCPSHIM_STATE", &thief);
    let mut shim = Shim::start(command.arg("serve"));
    shim.initialize();
    shim.call("counting_count", json!({"id": "1"}));
    shim.close();
    let mut command = site.org.laptop();
    let flushed = run(command
        .env("MCPSHIM_STATE", &thief)
        .args(["audit", "flush"]));
    let devices = wait_for("the second device", || {
        let devices = collector.read(["devices"]).ok().stdout;
        devices.contains("not enrolled").then_some(devices)
    });
    // her own, and no other
    assert_eq!(
        devices.matches("  Ann\n").count(),
        1,
        "{devices} {flushed:?}"
    );
}
