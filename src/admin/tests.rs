//! One good organisation, and one mistake at a time: every rule with its message.

use std::fs;
use std::path::PathBuf;

use insta::assert_snapshot;

use super::pins::PinFile;
use super::*;
use crate::clock::CountingEntropy;
use crate::pin::{Kind, entry};
use crate::registry::doc::{PolicyDoc, ServerDoc, Surface};
use crate::text;

const ORG: &str = "\
org: acme
name: Acme
help: '#help'
grace_hours: 72
min_client: 0.1.0
collector:
  url: https://audit.acme.example
  ca: trust/ca.pem
audit_keys: [audit/*.json]
issuers:
  - issuer: https://login.acme.example
    client_id: mcpshim
    groups_claim: groups
    groups: [engineering]
    jwks: trust/jwks.json
";

const GIT: &str = "\
id: github
key: gh
owner: platform
on_call: platform
purpose: code
hosted: vendor
environment: prod
zone: internet
data_classes: [source]
transport:
  type: stdio
  command: npx
  args: [\"-y\", \"@acme/mcp-github@1.2.3\", --read-only]
  env:
    LOG_LEVEL: info
  package: npm:@acme/mcp-github@1.2.3
limits:
  call_seconds: 60
audit:
  class: disk
  tools:
    write: {results: full}
isolation: session
stateful: no
";

const ENG: &str = "\
title: engineers
groups: [engineering]
agents: [ci]
servers:
  gh:
    tools: [read_*, write]
    prompts: [review]
    resources: ['repo://*']
    approved_by: jane
    approved_at: 2026-11-20
    expires: 2027-11-20
";

const CI: &str = "\
owner: platform
public_key: jP6kMDX8pTPQvGFEWg9AWHeBvyVVq5DR9QImLMFXFQ4=
";

/// The key of HPKE's first test vector (RFC 9180 A.1), with its digest.
const AUDIT: &str = r#"{"id": "ID", "suite": "x25519-hkdf-sha256/chacha20poly1305", "public": "OUjPrRtgUQRRiSNLhLY8XRKzWJWVdJJu2kSrB6Nms3M=", "not_before": 1, "not_after": 2000000000}"#;

/// A self-signed certificate, for nothing else.
const CA: &str = include_str!("../../tests/data/ca.pem");

pub(super) const NOW: u64 = 1_795_250_000; // 2026-11-21

/// Sources in a directory of their own.
pub(super) struct Org {
    dir: tempfile::TempDir,
}

impl Org {
    pub(super) fn new() -> Self {
        let org = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        org.write("org.yaml", ORG);
        org.write(
            "servers/github.yaml",
            &GIT.replace("stateful: no", "stateful: false"),
        );
        org.write("roles/eng.yaml", ENG);
        org.write("agents/ci.yaml", CI);
        org.write("trust/ca.pem", CA);
        org.write("trust/jwks.json", r#"{"keys": [{"kty": "OKP"}]}"#);
        let public = data_encoding::BASE64
            .decode(b"OUjPrRtgUQRRiSNLhLY8XRKzWJWVdJJu2kSrB6Nms3M=")
            .unwrap();
        let id = crate::ids::Digest::of(&public).to_string();
        org.write("audit/2026.json", &AUDIT.replace("ID", &id));
        org.pin(&["read_file", "read_tree", "write"]);
        org
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces text that must be there.
    pub(super) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} does not contain {from:?}");
        self.write(name, &text.replace(from, to));
    }

    pub(super) fn pin(&self, tools: &[&str]) -> Vec<Pinning> {
        pin(self.dir.path(), &[], &mut |_| Ok(surface(tools))).unwrap()
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Pins every server with this surface.
    pub(super) fn pin_as(&self, surface: &Surface) {
        pin(self.dir.path(), &[], &mut |_| Ok(surface.clone())).unwrap();
    }

    pub(super) fn check(&self) -> String {
        let now = Now {
            wall_us: NOW * 1_000_000,
            mono_us: 0,
        };
        check(self.dir.path(), &now).to_string()
    }

    pub(super) fn compile(&self) -> TargetSet {
        compile(self.dir.path()).unwrap()
    }
}

pub(super) fn surface(tools: &[&str]) -> Surface {
    let make = |kind, text: String| entry(kind, serde_json::from_str(&text).unwrap()).unwrap();
    let tool = |name: &&str| {
        make(
            Kind::Tool,
            format!(
                r#"{{"name":"{name}","description":"Does {name}.","inputSchema":{{"type":"object"}}}}"#
            ),
        )
    };
    Surface {
        protocol: "2025-11-25".to_owned(),
        tools: tools.iter().map(tool).collect(),
        prompts: vec![make(Kind::Prompt, r#"{"name":"review"}"#.to_owned())],
        templates: vec![make(
            Kind::Template,
            r#"{"uriTemplate":"repo://{owner}/{name}","name":"repository"}"#.to_owned(),
        )],
        ..Surface::default()
    }
}

/// The problems after one edit of the good organisation.
fn after(file: &str, from: &str, to: &str) -> String {
    let org = Org::new();
    org.edit(file, from, to);
    org.check()
}

#[test]
fn a_good_organisation_has_no_problem() {
    assert_eq!(Org::new().check(), "");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let org = Org::new();
    org.edit("org.yaml", "grace_hours", "grace-hours");
    org.edit("servers/github.yaml", "owner: platform\n", "");
    org.edit("roles/eng.yaml", "write]", "wriet]");
    org.edit("agents/ci.yaml", "jP6k", "");
    org.write("roles/Bad Name.yaml", "title: x\nservers: {}\n");
    assert_snapshot!(org.check(), @r#"
agents/ci.yaml:2:13: error: public_key is not an Ed25519 public key: 32 bytes in base64 [public-key]
  fix: make a key with `mcpshim-admin agent new NAME --key FILE`
org.yaml:4:1: error: the organisation has no key `grace-hours` [unknown-key]
  fix: did you mean `grace_hours`?
roles/Bad Name.yaml: error: the file's name is not a role name [file-name]
  fix: rename it, using 1 to 64 of a-z 0-9 -
roles/eng.yaml:6:21: error: `wriet` is not a pinned tool of `gh` [unknown-tool]
  fix: did you mean `write`?
servers/github.yaml:1:1: error: the server has no `owner` [missing-key]
  fix: name the team that answers for it
"#);
}

#[test]
fn keys_are_known_and_present() {
    assert_snapshot!(after("org.yaml", "help:", "hlep:"), @r#"
org.yaml:3:1: error: the organisation has no key `hlep` [unknown-key]
  fix: did you mean `help`?
"#);
    assert_snapshot!(after("servers/github.yaml", "  call_seconds: 60", "  call_ms: 60"), @r#"
servers/github.yaml:18:3: error: limits has no key `call_ms` [unknown-key]
  fix: use `call_seconds`, `idle_seconds`, `in_flight`, `repeat` or `tools`
"#);
    assert_snapshot!(after("roles/eng.yaml", "    approved_by: jane\n", ""), @r#"
roles/eng.yaml:6:5: error: the grant has no `approved_by` [missing-key]
  fix: name the person who approved it
"#);
    assert_snapshot!(after("servers/github.yaml", "  type: stdio\n", ""), @r#"
servers/github.yaml:11:3: error: transport has no `type` [missing-key]
  fix: write `type: stdio` or `type: http`
"#);
}

#[test]
fn values_are_what_their_key_expects() {
    assert_snapshot!(after("servers/github.yaml", "stateful: false", "stateful: no"), @r#"
servers/github.yaml:24:11: error: stateful is `no` [wrong-type]
  fix: write `true` or `false`
"#);
    assert_snapshot!(after("org.yaml", "grace_hours: 72", "grace_hours: 072"), @r#"
org.yaml:4:14: error: grace_hours is `072` [wrong-type]
  fix: write a whole number from 0 to 8784
"#);
    assert_snapshot!(after("servers/github.yaml", "hosted: vendor", "hosted: vendro"), @r#"
servers/github.yaml:6:9: error: hosted is `vendro` [choice]
  fix: did you mean `vendor`? It is `self` or `vendor`
"#);
    assert_snapshot!(after("servers/github.yaml", "owner: platform", "owner: ~"), @r#"
servers/github.yaml:3:8: error: owner is `~` [wrong-type]
  fix: write a text
"#);
    assert_snapshot!(after("servers/github.yaml", "key: gh", "key: GitHub"), @r#"
servers/github.yaml:2:6: error: key is `GitHub` [name]
  fix: use 1 to 16 of a-z 0-9 -
"#);
    assert_snapshot!(after("roles/eng.yaml", "tools: [read_*, write]", "tools: read_*"), @r#"
roles/eng.yaml:6:12: error: tools is `read_*` [wrong-type]
  fix: write a list, such as `[a, b]`
"#);
    assert_snapshot!(after("roles/eng.yaml", "expires: 2027-11-20", "expires: 2027-02-30"), @r#"
roles/eng.yaml:11:14: error: expires is `2027-02-30`, which is no date [date]
  fix: write a day such as `2027-01-31`, or `2027-01-31T18:00:00Z`; both are UTC
"#);
    assert_snapshot!(after("org.yaml", "min_client: 0.1.0", "min_client: 0.1"), @r#"
org.yaml:5:13: error: min_client is `0.1` [version]
  fix: write three numbers, such as `0.1.0`
"#);
}

#[test]
fn a_text_that_other_readers_would_turn_into_something_else_stays_a_text() {
    let org = Org::new();
    org.edit("servers/github.yaml", "zone: internet", "zone: no");
    org.edit("servers/github.yaml", "LOG_LEVEL: info", "LOG_LEVEL: 010");
    org.pin(&["read_file", "read_tree", "write"]);
    assert_eq!(org.check(), "");
    let server: ServerDoc =
        serde_json::from_slice(&org.compile().files["server-github.json"]).unwrap();
    assert_eq!(server.zone, "no");
    let json = serde_json::to_string(&server.transport).unwrap();
    assert!(json.contains(r#""LOG_LEVEL":"010""#), "{json}");
}

#[test]
fn files_are_called_what_they_hold() {
    let org = Org::new();
    fs::rename(
        org.path("servers/github.yaml"),
        org.path("servers/gitlab.yaml"),
    )
    .unwrap();
    assert_snapshot!(org.check(), @r#"
servers/gitlab.yaml:1:5: error: the id is `github` but the file is called `gitlab.yaml` [file-name]
  fix: rename the file to `github.yaml`
"#);
    let org = Org::new();
    fs::rename(org.path("roles/eng.yaml"), org.path("roles/eng.yml")).unwrap();
    org.write("policy.yaml", "a: b\n");
    assert_snapshot!(org.check(), @r#"
agents/ci.yaml: warning: the agent `ci` has no role, so it may use nothing [unused-agent]
  fix: name it under `agents` of a role, or delete it
org.yaml:14:14: warning: no role maps the group `engineering` [unmapped-group]
  fix: name it in a role, or take it out
policy.yaml: error: no file of this name is read here [not-read]
  fix: move it to servers/, roles/ or agents/, or out of the registry
roles/eng.yml: error: only `roles/*.yaml` is read; this file is not [not-read]
  fix: rename it to end in `.yaml`, or move it elsewhere
"#);
}

#[test]
fn ids_and_keys_are_given_once() {
    let org = Org::new();
    let twin = org
        .read("servers/github.yaml")
        .replace("id: github", "id: github2");
    org.write("servers/github2.yaml", &twin);
    org.edit(
        "servers/github2.yaml",
        "zone: internet",
        "zone: internet\npin: off",
    );
    org.edit(
        "servers/github2.yaml",
        "environment: prod",
        "environment: dev",
    );
    assert_snapshot!(org.check(), @r#"
servers/github2.yaml:2:6: error: the key `gh` is already that of servers/github.yaml [duplicate-key-of-server]
  fix: choose another one: it begins every tool name
"#);
    assert_snapshot!(after("servers/github.yaml", "key: gh", "key: mcpshim"), @r#"
pins/github.json:19:1: error: `gh_read_file` does not begin with the key `mcpshim_` [exposed-name]
  fix: run `mcpshim-admin pin DIR mcpshim`
pins/github.json:20:1: error: `gh_read_tree` does not begin with the key `mcpshim_` [exposed-name]
  fix: run `mcpshim-admin pin DIR mcpshim`
pins/github.json:21:1: error: `gh_write` does not begin with the key `mcpshim_` [exposed-name]
  fix: run `mcpshim-admin pin DIR mcpshim`
pins/github.json:24:1: error: `gh_review` does not begin with the key `mcpshim_` [exposed-name]
  fix: run `mcpshim-admin pin DIR mcpshim`
roles/eng.yaml:5:3: error: no server has the key `gh` [unknown-server]
  fix: use `mcpshim`; or add the server to servers/
servers/github.yaml:2:6: error: the key `mcpshim` is reserved [reserved-key]
  fix: choose another one: `mcpshim_…` are mcpshim's own tools
"#);
}

/// The good organisation with a further, remote server that is not pinned.
fn remote(more: &str) -> String {
    let org = Org::new();
    org.write(
        "servers/wiki.yaml",
        &format!(
            "id: wiki\nkey: wiki\nowner: platform\non_call: platform\npurpose: pages\n\
             hosted: self\nenvironment: dev\nzone: internet\ndata_classes: []\npin: off\n\
             transport:\n  type: http\n  url: https://wiki.acme.example/mcp\n{more}"
        ),
    );
    org.check()
}

/// The good organisation whose server has these further lines.
fn local(more: &str) -> String {
    after(
        "servers/github.yaml",
        "isolation: session",
        &format!("isolation: session\n{more}"),
    )
}

#[test]
fn a_pin_that_was_made_under_other_flags_is_stale() {
    assert_snapshot!(local("roots: true\nsampling: true"), @r#"
pins/github.json: error: the pin of `gh` is out of date: its entry says `roots: true`, `sampling: true` now, and servers offer other tools to clients that can be asked for other things [stale-pin]
  fix: run `mcpshim-admin pin DIR gh`
"#);
}

#[test]
fn a_credential_names_itself_its_way_and_where_to_get_it() {
    assert_eq!(
        local("credential: {id: github, inject: {env: GITHUB_TOKEN}, obtain: x}"),
        ""
    );
    for inject in ["bearer", "{header: X-Api-Key}"] {
        let text = format!(
            "  ca: trust/ca.pem\ncredential:\n  id: wiki\n  inject: {inject}\n  obtain: ask IT\n  \
             rotate_days: 90\n"
        );
        assert_eq!(remote(&text), "");
    }
    assert_snapshot!(local("credential: {id: GitHub, inject: token, rotate_days: 0}"), @r#"
servers/github.yaml:24:13: error: the credential has no `obtain` [missing-key]
  fix: tell people where to get one: a URL or a sentence
servers/github.yaml:24:18: error: credential.id is `GitHub` [name]
  fix: use 1 to 64 of a-z 0-9 - . _
servers/github.yaml:24:34: error: inject does not say one way to hand the credential over [inject]
  fix: write `inject: bearer`, `inject: {header: NAME}` or `inject: {env: NAME}`
servers/github.yaml:24:54: error: rotate_days is `0` [wrong-type]
  fix: write a whole number from 1 to 3650
"#);
    assert_snapshot!(local("credential: {id: github, inject: {haeder: X}, obtain: x}"), @r#"
servers/github.yaml:24:35: error: inject has no way `haeder` [inject]
  fix: did you mean `header`?
"#);
}

#[test]
fn a_credential_goes_where_its_server_can_take_it() {
    let env = |name: &str| {
        local(&format!(
            "credential: {{id: gh, inject: {{env: {name}}}, obtain: x}}"
        ))
    };
    let header = |name: &str| {
        remote(&format!(
            "credential: {{id: w, inject: {{header: {name}}}, obtain: x}}\n"
        ))
    };
    assert_snapshot!(local("credential: {id: gh, inject: bearer, obtain: x}"), @r#"
servers/github.yaml:24:30: error: a stdio server has no headers [inject]
  fix: write `inject: {env: NAME}` with the variable it reads
"#);
    assert_snapshot!(remote("credential: {id: w, inject: {env: TOKEN}, obtain: x}\n"), @r#"
servers/wiki.yaml:14:29: error: an http server has no environment to put `TOKEN` into [inject]
  fix: write `inject: bearer` or `inject: {header: NAME}`
"#);
    assert_snapshot!(env("log_level"), @r#"
servers/github.yaml:24:30: error: `env` sets `LOG_LEVEL`, which the credential is put into [inject]
  fix: take it out of `env`
"#);
    assert_snapshot!(env("A=B"), @r#"
servers/github.yaml:24:36: error: `A=B` is no name of a variable [inject]
  fix: use the variable that the server's documentation names, letters, digits and `_`
"#);
    for name in [
        "PATH",
        "Path",
        "LD_PRELOAD",
        "LD_AUDIT",
        "DYLD_INSERT_LIBRARIES",
        "NODE_OPTIONS",
        "HOME",
        "PYTHONPATH",
        "BASH_ENV",
        "HTTPS_PROXY",
        "SSLKEYLOGFILE",
        "MCPSHIM_CONFIG",
        "LC_ALL",
    ] {
        let found = env(name);
        assert!(found.contains("[reserved-name]"), "{name}: {found}");
    }
    for name in [
        "Host",
        "CONNECTION",
        "Transfer-Encoding",
        "Content-Length",
        "Mcp-Session-Id",
        "Authorization",
        "MCP-Protocol-Version",
        "Mcp-Param-X",
        "Proxy-Authorization",
        "Last-Event-ID",
        "Accept",
    ] {
        let found = header(name);
        assert!(found.contains("[reserved-name]"), "{name}: {found}");
    }
    assert_snapshot!(header("'X Key'"), @r#"
servers/wiki.yaml:14:38: error: `X Key` is no name of a header [inject]
  fix: use the header that the server's documentation names, such as `X-Api-Key`
"#);
    assert_snapshot!(header("authorization"), @r#"
servers/wiki.yaml:14:38: error: `Authorization` is set by `inject: bearer` [reserved-name]
  fix: write `inject: bearer` in its place
"#);
}

#[test]
fn every_variable_that_children_inherit_is_reserved() {
    for name in crate::upstream::Environment::names() {
        let found = local(&format!(
            "credential: {{id: g, inject: {{env: {name}}}, obtain: x}}"
        ));
        // one with brackets is no name that could be set
        let refused = found.contains("[reserved-name]") || found.contains("[inject]");
        assert!(refused, "{name}: {found}");
    }
}

#[test]
fn one_secret_in_two_hands_is_said() {
    let org = Org::new();
    org.edit(
        "servers/github.yaml",
        "isolation: session",
        "isolation: session\ncredential: {id: shared, inject: {env: TOKEN}, obtain: x}",
    );
    let twin = org
        .read("servers/github.yaml")
        .replace("id: github", "id: github2")
        .replace("key: gh", "key: gh2");
    org.write("servers/github2.yaml", &twin);
    org.pin(&["read_file", "read_tree", "write"]);
    assert_eq!(org.check(), "");
    org.edit("servers/github2.yaml", "zone: internet", "zone: laptop");
    assert_snapshot!(org.check(), @r#"
servers/github2.yaml:24:18: warning: the credential `shared` is also that of servers/github.yaml, and the two have different zones: each gets the same secret [shared-credential]
  fix: give it an id of its own, unless both are meant to see one secret
"#);
}

#[test]
fn certificates_are_certificates() {
    let org = Org::new();
    org.write("trust/ca.pem", &CA.replace("MIIBRDCB", "MIIBRDCC"));
    assert_snapshot!(org.check(), @r#"
org.yaml:8:7: error: `trust/ca.pem` holds a certificate that cannot be used: invalid peer certificate: BadEncoding [certificate]
  fix: name a file with the CA's certificate in PEM form
"#);
    assert_snapshot!(remote("  ca: trust/jwks.json\n"), @r#"
servers/wiki.yaml:14:7: error: `trust/jwks.json` holds no certificate [certificate]
  fix: name a file with the CA's certificate in PEM form
"#);
    assert_snapshot!(remote("  ca: ../ca.pem\n"), @r#"
servers/wiki.yaml:14:7: error: transport.ca names `../ca.pem`, which is not a file of this registry [no-such-file]
  fix: write a path relative to org.yaml, without `..`
"#);
}

#[test]
fn the_project_stands_where_it_is_put_in() {
    let line = |from: &str, to: &str| {
        let org = Org::new();
        org.edit("servers/github.yaml", from, to);
        org.pin(&["read_file", "read_tree", "write"]);
        org.check()
    };
    for cwd in [
        "/srv/x",
        "'C:\\work'",
        "'{project_dir}'",
        "'{project_dir}/sub/dir'",
    ] {
        // `npx` in a project runs what the project says
        let own = match cwd.contains('{') {
            true => "  program_from_project: true\n",
            false => "",
        };
        let found = line("  env:", &format!("  cwd: {cwd}\n{own}  env:"));
        assert_eq!(found, "", "{cwd}");
    }
    assert_eq!(
        line("--read-only", "'--root={project_dir}/src', '{\"a\": 1}'"),
        ""
    );
    for cwd in [
        "src",
        "'{project_dir}x'",
        "'{project_dir}/../x'",
        "'{project}/x'",
        "/a/../b",
        "'C:x'",
    ] {
        let found = line("  env:", &format!("  cwd: {cwd}\n  env:"));
        assert!(found.contains("[cwd]"), "{cwd}: {found}");
    }
    assert_snapshot!(line("--read-only", "'{projectdir}'"), @r#"
servers/github.yaml:13:42: warning: `{projectdir}` is passed as it stands [not-expanded]
  fix: did you mean `{project_dir}`?
"#);
    assert_snapshot!(line("--read-only", "'--roots=/a:{project_dir}/b'"), @r#"
servers/github.yaml:13:42: warning: `--roots=/a:{project_dir}/b` is passed as it stands [not-expanded]
  fix: write `{project_dir}` or `{project_dir}/…` alone, or behind `--option=`
"#);
    assert_snapshot!(line("LOG_LEVEL: info", "ROOT: '{project_dir}'"), @r#"
servers/github.yaml:15:11: warning: `{project_dir}` is passed as it stands here [not-expanded]
  fix: use it in `args` or `cwd`
"#);
    assert_snapshot!(line("LOG_LEVEL: info", "LOG-LEVEL: info"), @r#"
pins/github.json: error: the pin of `gh` is out of date: its env changed [stale-pin]
  fix: run `mcpshim-admin pin DIR gh`
servers/github.yaml:15:5: error: `LOG-LEVEL` is no name of a variable [env]
  fix: use letters, digits and `_`
"#);
}

#[test]
fn a_program_that_a_project_brings_is_an_error_unless_the_entry_says_so() {
    let check = |command: &str, more: &str| {
        let org = Org::new();
        let program = "command: npx\n  args: [\"-y\", \"@acme/mcp-github@1.2.3\", --read-only]";
        org.edit("servers/github.yaml", program, command);
        let package = "  package: npm:@acme/mcp-github@1.2.3\n";
        org.edit("servers/github.yaml", package, more);
        org.pin(&["read_file", "read_tree", "write"]);
        org.check()
    };
    let own = "  cwd: '{project_dir}'\n";
    assert_snapshot!(check("command: ./tools/mem", own), @r#"
    servers/github.yaml:12:12: error: it would run ./tools/mem, which lies in the client's project [program-from-project]
      fix: name a program that is installed, by a whole path or found on the PATH, and start it elsewhere; `program_from_project: true` in `transport` lets every cloned project choose the program
    "#);
    assert_snapshot!(check("command: tools/mem", ""), @r#"
    servers/github.yaml:12:12: error: `tools/mem` is a relative path, so where it leads is not signed [relative-program]
      fix: write the whole path, or a name that is found on the PATH
    "#);
    for command in [
        "command: python3\n  args: [server.py]",
        "command: ./tools/mem",
    ] {
        let allowed = format!("{own}  program_from_project: true\n");
        assert!(
            check(command, own).contains("[program-from-project]"),
            "{command}"
        );
        assert_eq!(check(command, &allowed), "", "{command}");
    }
    for command in [
        "command: /opt/acme/mcp",
        "command: acme-mcp",
        "command: python3\n  args: [/opt/acme/mcp.py]",
    ] {
        assert_eq!(check(command, own), "", "{command}");
    }
}

#[test]
fn sign_in_and_secret_stores_are_what_is_written() {
    let org = Org::new();
    let doc = |org: &Org| -> crate::registry::doc::OrgDoc {
        serde_json::from_slice(&org.compile().files["org.json"]).unwrap()
    };
    let plain = doc(&org);
    assert!(!plain.secret_stores.key_file && !plain.secret_stores.systemd_credential);
    assert!(!plain.issuers[0].device_flow && plain.issuers[0].scopes.is_empty());
    org.edit(
        "org.yaml",
        "    jwks:",
        "    scopes: [profile, 'api://x/.default']\n    device_flow: true\n    pkce_unadvertised: true\n    jwks:",
    );
    org.edit(
        "org.yaml",
        "grace_hours",
        "secret_stores: {key_file: true, systemd_credential: false}\ngrace_hours",
    );
    assert_eq!(org.check(), "");
    let doc = doc(&org);
    assert!(doc.secret_stores.key_file && !doc.secret_stores.systemd_credential);
    assert!(doc.issuers[0].device_flow && doc.issuers[0].pkce_unadvertised);
    assert_eq!(doc.issuers[0].scopes, ["profile", "api://x/.default"]);
    org.edit("org.yaml", "key_file: true", "keyfile: true");
    org.edit("org.yaml", "[profile, ", "[openid, 'a b', ");
    assert_snapshot!(org.check(), @r#"
org.yaml:4:17: error: secret_stores has no key `keyfile` [unknown-key]
  fix: did you mean `key_file`?
org.yaml:16:14: warning: `openid` is asked for always [scope]
  fix: take it out
org.yaml:16:22: error: `a b` is not one scope [scope]
  fix: write each scope as an item of its own, such as `[profile, email]`
"#);
}

#[test]
fn how_often_the_same_call_may_be_made_is_what_is_written() {
    let org = Org::new();
    let docs = |org: &Org| {
        let set = org.compile();
        let doc: crate::registry::doc::OrgDoc =
            serde_json::from_slice(&set.files["org.json"]).unwrap();
        let server: ServerDoc = serde_json::from_slice(&set.files["server-github.json"]).unwrap();
        move |tool: &str| server.limits.repeat_of(tool, &doc.limits).window()
    };
    let plain = docs(&org);
    assert_eq!(plain("write"), Some((30, 60_000_000)));
    org.edit(
        "org.yaml",
        "grace_hours",
        "limits: {repeat: {calls: 5, seconds: 10}}\ngrace_hours",
    );
    assert_eq!(docs(&org)("write"), Some((5, 10_000_000)));
    org.edit(
        "servers/github.yaml",
        "  call_seconds: 60",
        "  call_seconds: 60\n  repeat: {calls: 7, seconds: 1}\n  tools:\n    write: {repeat: off}",
    );
    assert_eq!(org.check(), "");
    let own = docs(&org);
    assert_eq!(own("write"), None);
    assert_eq!(own("read_file"), Some((7, 1_000_000)));
    org.edit("servers/github.yaml", "    write:", "    wriet:");
    org.edit(
        "servers/github.yaml",
        "{calls: 7, seconds: 1}",
        "{calls: 0}",
    );
    assert_snapshot!(org.check(), @r#"
servers/github.yaml:19:11: error: repeat has no `seconds` [missing-key]
  fix: write in which time, such as `seconds: 60`
servers/github.yaml:19:19: error: calls is `0` [wrong-type]
  fix: write a whole number from 1 to 1000
servers/github.yaml:21:5: error: `wriet` is not a pinned tool of `gh` [unknown-tool]
  fix: did you mean `write`?
servers/github.yaml:25:5: error: `wriet` is not a pinned tool of `gh` [unknown-tool]
  fix: did you mean `write`?
"#);
}

#[test]
fn packages_are_one_exact_version_outside_dev() {
    let check = |package: &str, arg: &str| {
        let org = Org::new();
        org.edit(
            "servers/github.yaml",
            "  package: npm:@acme/mcp-github@1.2.3\n",
            package,
        );
        org.edit("servers/github.yaml", "\"@acme/mcp-github@1.2.3\"", arg);
        org.pin(&["read_file", "read_tree", "write"]);
        org.check()
    };
    assert_snapshot!(check("", "\"@acme/mcp-github\""), @r#"
servers/github.yaml:12:12: error: `npx` runs a package that is not pinned [unpinned-package]
  fix: add `package: npm:NAME@1.2.3`, and the same version in `args`
"#);
    assert_snapshot!(check("  package: npm:@acme/mcp-github@latest\n", "\"@acme/mcp-github@latest\""), @r#"
servers/github.yaml:16:12: error: `npm:@acme/mcp-github@latest` is not one exact version of a package [unpinned-package]
  fix: write `npm:NAME@1.2.3`, `pypi:NAME@1.2.3` or `oci:NAME@sha256:…`, one exact version
"#);
    assert_snapshot!(check("  package: npm:@acme/mcp-github@1.x\n", "\"@acme/mcp-github@1.x\""), @r#"
servers/github.yaml:16:12: error: `npm:@acme/mcp-github@1.x` is not one exact version of a package [unpinned-package]
  fix: write `npm:NAME@1.2.3`, `pypi:NAME@1.2.3` or `oci:NAME@sha256:…`, one exact version
"#);
    assert_snapshot!(check("  package: npm:@acme/mcp-github@1.2.3\n", "\"@acme/mcp-github@1.2.4\""), @r#"
servers/github.yaml:16:12: error: the arguments do not name the package `npm:@acme/mcp-github@1.2.3` [package-mismatch]
  fix: write `@acme/mcp-github@1.2.3` in `args`
"#);
    assert_eq!(
        check(
            "  package: pypi:mcp-github@1.2.3\n",
            "--from=mcp-github==1.2.3"
        ),
        ""
    );
    let org = Org::new();
    org.edit(
        "servers/github.yaml",
        "  package: npm:@acme/mcp-github@1.2.3\n",
        "",
    );
    org.edit(
        "servers/github.yaml",
        "environment: prod",
        "environment: dev",
    );
    org.pin(&["read_file", "read_tree", "write"]);
    assert_eq!(org.check(), "");
}

#[test]
fn secrets_are_found_where_they_stand() {
    let org = Org::new();
    org.edit(
        "servers/github.yaml",
        "    LOG_LEVEL: info",
        "    GITHUB_TOKEN: hunter2hunter2",
    );
    org.edit(
        "servers/github.yaml",
        "--read-only",
        "--api-key, hunter2hunter2, --log=$HOME/x",
    );
    org.edit(
        "org.yaml",
        "name: Acme",
        "name: Acme # AKIAIOSFODNN7EXAMPLE",
    );
    org.write("deploy/id", "-----BEGIN PRIVATE KEY-----\n");
    org.write(
        "trust/jwks.json",
        r#"{"keys": [{"kty": "OKP", "d": "AAAA"}]}"#,
    );
    assert_snapshot!(org.check(), @r#"
deploy/id: error: a private key lies in the registry's sources [secret]
  fix: move it out of the directory and replace it: it is to be taken as known
org.yaml:2:1: error: the line holds what looks like an AWS access key [secret]
  fix: take it out and change it: everyone who has the registry or its history can read it
org.yaml:15:11: error: `trust/jwks.json` holds a private key [secret]
  fix: store the public set only, and change that key: it was in the registry
pins/github.json: error: the pin of `gh` is out of date: its args and env changed [stale-pin]
  fix: run `mcpshim-admin pin DIR gh`
servers/github.yaml:13:53: error: an argument is named like a secret and has a value [secret]
  fix: take it out and change it: everyone who has the registry or its history can read it
servers/github.yaml:13:69: warning: `--log=$HOME/x` is passed as it stands: nothing is expanded [not-expanded]
  fix: write the value itself
servers/github.yaml:15:19: error: the variable `GITHUB_TOKEN` is named like a secret and has a value [secret]
  fix: take it out and change it: everyone who has the registry or its history can read it
"#);
    assert_snapshot!(after("servers/github.yaml", "type: stdio\n  command: npx\n  args: [\"-y\", \"@acme/mcp-github@1.2.3\", --read-only]\n  env:\n    LOG_LEVEL: info\n  package: npm:@acme/mcp-github@1.2.3", "type: http\n  url: https://x.example/mcp?token=hunter2hunter2"), @r#"
pins/github.json: error: the pin of `gh` is out of date: its type of transport changed [stale-pin]
  fix: run `mcpshim-admin pin DIR gh`
servers/github.yaml:12:8: error: the url is named like a secret and has a value [secret]
  fix: take it out and change it: everyone who has the registry or its history can read it
"#);
}

#[test]
fn endpoints_are_encrypted_and_hold_no_password() {
    let url = |url: &str| after("org.yaml", "https://audit.acme.example", url);
    assert_snapshot!(url("http://audit.acme.example"), @r#"
org.yaml:7:8: error: collector.url is not usable: it is not encrypted [url]
  fix: write `https://…`, or `http://127.0.0.1:…` for a server on the same machine
"#);
    assert_snapshot!(url("https://me:pass@audit.acme.example"), @r#"
org.yaml:7:8: error: collector.url is not usable: it holds a user or password [url]
  fix: write `https://…`, or `http://127.0.0.1:…` for a server on the same machine
"#);
    assert_snapshot!(url("audit.acme.example"), @r#"
org.yaml:7:8: error: collector.url is not usable: relative URL without a base [url]
  fix: write `https://…`, or `http://127.0.0.1:…` for a server on the same machine
"#);
    assert_eq!(url("http://127.0.0.1:7444"), "");
}

#[test]
fn grants_name_what_is_there() {
    assert_snapshot!(after("roles/eng.yaml", "write]", "wirte]"), @r#"
roles/eng.yaml:6:21: error: `wirte` is not a pinned tool of `gh` [unknown-tool]
  fix: did you mean `write`?
"#);
    assert_snapshot!(after("roles/eng.yaml", "write]", "gh_write]"), @r#"
roles/eng.yaml:6:21: error: `gh_write` is not a pinned tool of `gh` [unknown-tool]
  fix: did you mean `write`?
"#);
    assert_snapshot!(after("roles/eng.yaml", "write]", "delete_*]"), @r#"
roles/eng.yaml:6:21: error: `delete_*` matches no pinned tool of `gh` [matches-nothing]
  fix: take it out, or correct it; there are `read_file`, `read_tree`, `write`
"#);
    assert_snapshot!(after("roles/eng.yaml", "[review]", "[reveiw]"), @r#"
roles/eng.yaml:7:15: error: `reveiw` is not a pinned prompt of `gh` [unknown-prompt]
  fix: did you mean `review`?
"#);
    assert_snapshot!(after("roles/eng.yaml", "repo://*", "file://*"), @r#"
roles/eng.yaml:8:17: warning: `file://*` matches no resource or template of `gh` [matches-nothing]
  fix: take it out, unless the server has resources that it does not list
"#);
    assert_snapshot!(after("roles/eng.yaml", "  gh:", "  github:"), @r#"
roles/eng.yaml:5:3: error: no server has the key `github` [unknown-server]
  fix: did you mean `gh`?
"#);
    assert_snapshot!(after("roles/eng.yaml", "    tools: [read_*, write]\n    prompts: [review]\n    resources: ['repo://*']\n", ""), @r#"
roles/eng.yaml:6:5: error: the grant for `gh` gives nothing [empty-grant]
  fix: list tools, prompts or resources, or delete it
"#);
    assert_snapshot!(after("roles/eng.yaml", "[read_*, write]", "[write, write]"), @r#"
roles/eng.yaml:6:20: error: `write` stands twice in tools [duplicate-item]
  fix: keep one of them
"#);
    assert_snapshot!(after("servers/github.yaml", "    write: {", "    wriite: {"), @r#"
servers/github.yaml:22:5: error: `wriite` is not a pinned tool of `gh` [unknown-tool]
  fix: did you mean `write`?
"#);
}

#[test]
fn roles_have_somebody_and_agents_have_a_role() {
    let org = Org::new();
    org.edit(
        "roles/eng.yaml",
        "groups: [engineering]\nagents: [ci]\n",
        "",
    );
    assert_snapshot!(org.check(), @r#"
agents/ci.yaml: warning: the agent `ci` has no role, so it may use nothing [unused-agent]
  fix: name it under `agents` of a role, or delete it
org.yaml:14:14: warning: no role maps the group `engineering` [unmapped-group]
  fix: name it in a role, or take it out
roles/eng.yaml: error: nobody has the role `eng`: no groups, no agents [empty-role]
  fix: name groups of the identity provider in `groups`, or agents in `agents`
"#);
    assert_snapshot!(after("roles/eng.yaml", "[engineering]", "[enginering]"), @r#"
org.yaml:14:14: warning: no role maps the group `engineering` [unmapped-group]
  fix: name it in a role, or take it out
roles/eng.yaml:2:10: error: no issuer has the group `enginering` [unknown-group]
  fix: did you mean `engineering`?
"#);
    assert_snapshot!(after("roles/eng.yaml", "agents: [ci]", "agents: [ci, deploy]"), @r#"
roles/eng.yaml:3:14: error: there is no agents/deploy.yaml [unknown-agent]
  fix: make it with `mcpshim-admin agent new deploy --owner TEAM --key FILE DIR`
"#);
    let org = Org::new();
    org.write("agents/ci2.yaml", CI);
    org.edit(
        "agents/ci2.yaml",
        "owner: platform",
        "owner: platform\nexpires: 2026-11-01",
    );
    assert_snapshot!(org.check(), @r#"
agents/ci2.yaml: warning: the agent `ci2` has no role, so it may use nothing [unused-agent]
  fix: name it under `agents` of a role, or delete it
agents/ci2.yaml:2:10: warning: the agent expired at 2026-11-01T00:00:00Z [expired]
  fix: delete it, or set a later day
agents/ci2.yaml:3:13: error: agents/ci.yaml has the same public key [duplicate-public-key]
  fix: make each agent a key of its own: records name the agent by it
"#);
    let org = Org::new();
    let at = ORG.find("issuers:").unwrap();
    org.write("org.yaml", &ORG[..at]);
    assert_snapshot!(org.check(), @r#"
roles/eng.yaml:2:10: warning: nobody can show the group `engineering`: org.yaml has no issuer [no-issuer]
  fix: add your identity provider under `issuers`
"#);
}

#[test]
fn audit_keys_are_keys() {
    assert_snapshot!(after("audit/2026.json", "\"id\": \"", "\"id\": \"0"), @r#"
audit/2026.json:1:8: error: the id is not the SHA-256 of the public key [audit-key]
  fix: paste what `mcpshim-collector auditkey new` printed
"#);
    assert_snapshot!(after("audit/2026.json", "chacha20poly1305", "aes"), @r#"
audit/2026.json:1:85: error: the suite is `x25519-hkdf-sha256/aes`, expected `x25519-hkdf-sha256/chacha20poly1305` [audit-key]
  fix: paste what `mcpshim-collector auditkey new` printed
"#);
    assert_snapshot!(after("audit/2026.json", "2000000000", "0"), @r#"
audit/2026.json:1:212: error: the key ends before it begins [audit-key]
  fix: paste what `mcpshim-collector auditkey new` printed
"#);
    assert_snapshot!(after("audit/2026.json", "OUjP", "OUj"), @r#"
audit/2026.json:1:134: error: public is not an X25519 public key: 32 bytes in base64 [audit-key]
  fix: paste what `mcpshim-collector auditkey new` printed
"#);
    assert_snapshot!(after("org.yaml", "audit/*.json", "audit/2025.json"), @r#"
org.yaml:9:14: error: audit_keys names `audit/2025.json`, which is not a file of this registry [no-such-file]
  fix: write a path such as `audit/2026.json`, or `audit/*.json`
"#);
    assert_snapshot!(after("org.yaml", "audit/*.json", "../audit/*.json"), @r#"
org.yaml:9:14: error: audit_keys names `../audit/*.json`, which is not a file of this registry [no-such-file]
  fix: write a path such as `audit/2026.json`, or `audit/*.json`
"#);
    let org = Org::new();
    let key = org.read("audit/2026.json");
    org.edit("org.yaml", "[audit/*.json]", &format!("[{key}]"));
    assert_eq!(org.check(), "");
    org.edit("org.yaml", "audit_keys: [", "audit_keys: [audit/*.json, ");
    assert_snapshot!(org.check(), @r#"
org.yaml:9:28: error: the audit key f969aff9… is given twice [duplicate-audit-key]
  fix: keep one of them
"#);
}

#[test]
fn pins_are_there_whole_and_of_what_runs() {
    let org = Org::new();
    fs::remove_file(org.path("pins/github.json")).unwrap();
    assert_snapshot!(org.check(), @r#"
servers/github.yaml: error: server `gh` has no pin: nothing is known of its tools [no-pin]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("pins/github.json", "Does write.", "Deletes all."), @r#"
pins/github.json:21:1: error: tool `write` does not have the digest of its definition [pin-edited]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("pins/github.json", "\"write\": \"gh_write\"", "\"write\": \"gh_read_file\""), @r#"
pins/github.json: error: `read_file` and `write` are both exposed as `gh_read_file` [exposed-name]
  fix: run `mcpshim-admin pin DIR gh`
pins/github.json:21:1: error: `write` is exposed as `gh_write`, not as in `names` [exposed-name]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("pins/github.json", "\"exposed\":\"gh_write\"", "\"exposed\":\"gh_x\""), @r#"
pins/github.json:21:1: error: `write` is exposed as `gh_x`, not as in `names` [exposed-name]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("pins/github.json", "\"format\": 1", "\"format\": 2"), @r#"
pins/github.json: error: has format 2, expected 1 [pin-file]
  fix: use the mcpshim-admin that wrote it, or pin again
"#);
    assert_snapshot!(after("pins/github.json", "\"tools\": {", "\"tools\": {\"write\": \"gh_w\", "), @r#"
pins/github.json: error: the key "write" stands twice in one object, the second time at byte 376 [pin-edited]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("pins/github.json", "},\n\"surface\"", "\n\"surface\""), @r#"
pins/github.json:16:1: error: is not a pin file: expected `,` or `}` at line 16 column 1 [pin-file]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("servers/github.yaml", "--read-only", "--read-write"), @r#"
pins/github.json: error: the pin of `gh` is out of date: its args changed [stale-pin]
  fix: run `mcpshim-admin pin DIR gh`
"#);
    assert_snapshot!(after("servers/github.yaml", "stateful: false", "pin: off"), @r#"
servers/github.yaml:24:6: error: `pin: off` in environment `prod` [pin-off]
  fix: use `strict` or `names`; `off` is for environment `dev`
"#);
    let org = Org::new();
    fs::rename(org.path("pins/github.json"), org.path("pins/gitlab.json")).unwrap();
    assert_snapshot!(org.check(), @r#"
pins/gitlab.json: error: there is no servers/gitlab.yaml [orphan-pin]
  fix: delete the pin, or bring the server back
servers/github.yaml: error: server `gh` has no pin: nothing is known of its tools [no-pin]
  fix: run `mcpshim-admin pin DIR gh`
"#);
}

#[test]
fn time_tells() {
    assert_snapshot!(after("roles/eng.yaml", "expires: 2027-11-20", "expires: 2026-11-20"), @r#"
roles/eng.yaml:11:14: warning: the grant for `gh` expired at 2026-11-20T00:00:00Z [expired]
  fix: delete it, or have it approved again
"#);
    assert_snapshot!(after("roles/eng.yaml", "approved_at: 2026-11-20", "approved_at: 2027-11-20"), @r#"
roles/eng.yaml:10:18: error: approved_at is in the future: 2027-11-20 [date]
  fix: write the day it was approved
"#);
}

#[test]
fn revocations_name_what_is_there() {
    let org = Org::new();
    org.write(
        "revocations.yaml",
        "servers: [gh]\nagents: [ci]\ntools: [gh/write]\n",
    );
    assert_eq!(org.check(), "");
    let text = String::from_utf8(org.compile().files["revocations.json"].clone()).unwrap();
    assert_snapshot!(text, @r#"{"format":1,"min_reader":1,"servers":["gh"],"agents":["ci"],"tools":[["gh","write"]]}"#);
    org.write(
        "revocations.yaml",
        "servers: [gx]\nagents: [cy]\ntools: [gh/wirte, write]\nroles: []\n",
    );
    assert_snapshot!(org.check(), @r#"
revocations.yaml:1:11: error: there is no server `gx` to revoke [unknown-revoked]
  fix: did you mean `gh`?
revocations.yaml:2:10: error: there is no agent `cy` to revoke [unknown-revoked]
  fix: did you mean `ci`?
revocations.yaml:3:9: error: there is no tool `gh/wirte` to revoke [unknown-revoked]
  fix: did you mean `gh/write`?
revocations.yaml:3:19: error: there is no tool `write` to revoke [unknown-revoked]
  fix: take it out if it is gone for good
revocations.yaml:4:1: error: the file has no key `roles` [unknown-key]
  fix: use `servers`, `agents` or `tools`
"#);
}

#[test]
fn one_broken_file_is_one_problem() {
    let org = Org::new();
    org.write("servers/github.yaml", "id: [\n");
    org.write("agents/ci.yaml", "owner\n");
    assert_snapshot!(org.check(), @r#"
agents/ci.yaml:1:1: error: the agent is `owner` [wrong-type]
  fix: write a mapping, `key: value` on lines of their own
servers/github.yaml:2:1: error: not YAML: while parsing a node, did not find expected node content [yaml]
  fix: correct the syntax; everything after this line was not read
"#);
    assert_snapshot!(
        check(&org.path("servers"), &Now::default()),
        @r#"
org.yaml: error: there is no org.yaml: this is not a registry [no-organisation]
  fix: name the directory that holds org.yaml, or make one with `mcpshim-admin init DIR`
"#
    );
}

#[cfg(unix)]
#[test]
fn nothing_is_read_through_a_link() {
    let org = Org::new();
    org.write("elsewhere.txt", CI);
    fs::remove_file(org.path("agents/ci.yaml")).unwrap();
    std::os::unix::fs::symlink(org.path("elsewhere.txt"), org.path("agents/ci.yaml")).unwrap();
    assert_snapshot!(org.check(), @r#"
agents/ci.yaml: error: cannot be read: it is not an ordinary file [unreadable]
  fix: put an ordinary, readable file here
"#);
}

#[cfg(unix)]
#[test]
fn no_folder_is_read_through_a_link() {
    let org = Org::new();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(org.path("agents"), elsewhere.path().join("agents")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("agents"), org.path("agents")).unwrap();
    assert!(org.check().starts_with(
        "agents: error: cannot be read: it is, or lies behind, a symbolic link [unreadable]\n"
    ));
    let org = Org::new();
    fs::rename(org.path("trust"), elsewhere.path().join("trust")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("trust"), org.path("trust")).unwrap();
    assert!(org.check().contains(
        "trust/ca.pem: error: cannot be read: it lies behind a symbolic link [unreadable]"
    ));
}

#[test]
fn a_source_cannot_steer_the_terminal_of_its_reviewer() {
    let said = after("org.yaml", "name: Acme", "name: Acme\n\"\\e[2J\": x");
    assert!(said.contains("has no key `\\u{1b}[2J`"), "{said}");
}

#[test]
fn texts_that_a_reviewer_cannot_see_are_not_published() {
    let org = Org::new();
    let mut odd = surface(&["read_file", "read_tree", "write"]);
    odd.instructions = Some("Be kind.\u{e0041}".to_owned());
    let prompt = r#"{"name":"review","description":"x\u202ey"}"#;
    odd.prompts = vec![entry(Kind::Prompt, serde_json::from_str(prompt).unwrap()).unwrap()];
    pin(org.dir.path(), &[], &mut |_| Ok(odd.clone())).unwrap();
    assert_snapshot!(org.check(), @r#"
pins/github.json: error: the instructions must not be offered: it hides text from reviewers: U+E0041 [not-offered]
  fix: have the server's owner take it out, and pin again
"#);
    // moved out of the quarantine by hand
    let org = Org::new();
    let mut odd = surface(&["read_file", "read_tree", "write"]);
    let tool = r#"{"name":"x","description":"\u001b[8m","inputSchema":{"type":"object"}}"#;
    odd.tools
        .push(entry(Kind::Tool, serde_json::from_str(tool).unwrap()).unwrap());
    pin(org.dir.path(), &[], &mut |_| Ok(odd.clone())).unwrap();
    let tool = serde_json::to_string(odd.tools.last().unwrap()).unwrap();
    let tool = tool.replacen(',', ",\"exposed\":\"gh_x\",", 1);
    org.edit(
        "pins/github.json",
        "\"tools\": [\n",
        &format!("\"tools\": [\n{tool},\n"),
    );
    org.edit(
        "pins/github.json",
        "\"read_file\": ",
        "\"x\": \"gh_x\",\n\"read_file\": ",
    );
    let said = org.check();
    let expected = "error: tool `x` must not be offered: it hides text from reviewers: U+001B";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_tool_whose_own_name_is_the_exposed_name_of_another_server_is_refused() {
    let org = Org::new();
    let other = GIT.replace("stateful: no", "stateful: false");
    org.write(
        "servers/tracker.yaml",
        &other
            .replace("id: github", "id: tracker")
            .replace("key: gh", "key: jira"),
    );
    let tools = |server: &ServerDoc| match server.key.as_str() {
        // its own names may begin with its own key, and with another's that exposes no such name
        "jira" => surface(&["gh_write", "gh_other", "jira_write", "write"]),
        _ => surface(&["read_file", "read_tree", "write", "gh_write"]),
    };
    pin(org.dir.path(), &[], &mut |server| Ok(tools(server))).unwrap();
    let said = org.check();
    assert_snapshot!(said, @r"
    pins/tracker.json: error: `jira` calls a tool of its own `gh_write`, the name by which clients know a tool of server `gh` [taken-name]
      fix: have the owner of `jira` rename it, and pin again
    ");
}

#[test]
fn refresh_continues_nothing_that_its_keys_did_not_sign() {
    use crate::registry::Role;
    let now = Now {
        wall_us: NOW * 1_000_000,
        mono_us: 0,
    };
    let dir = tempfile::tempdir().unwrap();
    let [ours, theirs, out] = ["ours", "theirs", "out"].map(|name| dir.path().join(name));
    let mut entropy = CountingEntropy(1);
    let our = keys::create_all(&ours, 1, 1, &now, &mut entropy).unwrap();
    let their = keys::create_all(&theirs, 1, 1, &now, &mut entropy).unwrap();
    let ring = |dirs: &[PathBuf]| keys::KeyRing::read(dirs).unwrap();
    // a root of their own that names our online keys beside theirs
    let ids = |keys: &keys::NewKeys, wanted| -> Vec<_> {
        let of = keys.keys.iter().filter(|(role, _, _)| *role == wanted);
        of.map(|(_, id, _)| id.clone()).collect()
    };
    let roles = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp].map(|role| {
        let mut named = ids(&their, role);
        if matches!(role, Role::Snapshot | Role::Timestamp) {
            named.extend(ids(&our, role));
        }
        (role, (named, 1))
    });
    let all = ring(&[ours.clone(), theirs.clone()]);
    let planted = keys::root(1, &all, &roles.into(), NOW + 86_400);
    let set = Org::new().compile();
    publish::publish(&set, &[planted], &ring(&[theirs]), &out, &now).unwrap();
    let before = fs::read(out.join("metadata/timestamp.json")).unwrap();
    let error = publish::refresh(&ring(&[ours]), &out, &now).unwrap_err();
    assert!(
        matches!(error, publish::PublishError::Previous { .. }),
        "{error}"
    );
    assert_eq!(
        fs::read(out.join("metadata/timestamp.json")).unwrap(),
        before
    );
}

#[test]
fn globs_become_names_and_every_entry_has_its_rule() {
    let set = Org::new().compile();
    let files: Vec<&String> = set.files.keys().collect();
    assert_eq!(
        files,
        [
            "org.json",
            "policy.json",
            "revocations.json",
            "server-github.json"
        ]
    );
    let policy: PolicyDoc = serde_json::from_slice(&set.files["policy.json"]).unwrap();
    assert_snapshot!(serde_json::to_string_pretty(&policy).unwrap(), @r##"
{
  "format": 1,
  "min_reader": 1,
  "roles": {
    "eng": {
      "title": "engineers",
      "groups": [
        "engineering"
      ],
      "ask": "#help"
    }
  },
  "agents": {
    "ci": {
      "owner": "platform",
      "public_key": "jP6kMDX8pTPQvGFEWg9AWHeBvyVVq5DR9QImLMFXFQ4=",
      "roles": [
        "eng"
      ]
    }
  },
  "rules": [
    {
      "id": "eng/gh#1",
      "source": "roles/eng.yaml:5",
      "approved_by": "jane",
      "approved_at": "2026-11-20",
      "not_after": 1826668800
    }
  ],
  "grants": {
    "eng": {
      "gh": {
        "tools": {
          "read_file": 0,
          "read_tree": 0,
          "write": 0
        },
        "prompts": {
          "review": 0
        },
        "resources": [
          [
            "repo://*",
            0
          ]
        ],
        "tool_globs": [],
        "prompt_globs": []
      }
    }
  }
}
"##);
    let pem = CA.replace('\n', "\\n");
    assert_snapshot!(String::from_utf8_lossy(&set.files["org.json"]).replace(&pem, "CA"), @r##"{"format":1,"min_reader":1,"org":"acme","name":"Acme","help":"#help","collector":{"url":"https://audit.acme.example","ca_pem":"CA"},"audit_keys":[{"id":"f969aff93e251bda5572d10912bb2992333e117060371a8bbc4e3faff393d40e","suite":"x25519-hkdf-sha256/chacha20poly1305","public":"OUjPrRtgUQRRiSNLhLY8XRKzWJWVdJJu2kSrB6Nms3M=","not_before":1,"not_after":2000000000}],"issuers":[{"issuer":"https://login.acme.example","client_id":"mcpshim","groups_claim":"groups","scopes":[],"device_flow":false,"jwks":{"keys":[{"kty":"OKP"}]}}],"secret_stores":{"key_file":false,"systemd_credential":false},"grace_hours":72,"min_client":"0.1.0"}"##);
    let server: ServerDoc = serde_json::from_slice(&set.files["server-github.json"]).unwrap();
    let exposed: Vec<_> = server
        .surface
        .unwrap()
        .tools
        .into_iter()
        .map(|t| t.exposed.unwrap().to_string())
        .collect();
    assert_eq!(exposed, ["gh_read_file", "gh_read_tree", "gh_write"]);
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    assert_eq!(Org::new().compile(), Org::new().compile());
}

#[test]
fn nothing_with_an_error_is_compiled_and_warnings_do_not_prevent_it() {
    let org = Org::new();
    org.edit("roles/eng.yaml", "write]", "wirte]");
    assert!(compile(org.dir.path()).is_err());
    org.edit("roles/eng.yaml", "wirte]", "write]");
    org.edit("org.yaml", "audit_keys: [audit/*.json]\n", "");
    assert_eq!(compile(org.dir.path()).map(|_| ()), Ok(()));
}

#[test]
fn of_two_grants_the_one_that_lasts_longer_counts() {
    let org = Org::new();
    org.edit(
        "roles/eng.yaml",
        "  gh:\n",
        "  gh:\n  - {tools: [write], approved_by: joe, approved_at: 2026-01-01, expires: 2027-01-01}\n  -\n",
    );
    assert_eq!(org.check(), "");
    let policy: PolicyDoc = serde_json::from_slice(&org.compile().files["policy.json"]).unwrap();
    let table = policy
        .grants
        .values()
        .next()
        .unwrap()
        .values()
        .next()
        .unwrap();
    let rule = &policy.rules[table.tools["write"] as usize];
    assert_eq!(
        (rule.id.as_str(), rule.approved_by.as_str()),
        ("eng/gh#2", "jane")
    );
    assert_eq!(rule.source, "roles/eng.yaml:8");
}

#[test]
fn patterns_stay_patterns_only_where_nothing_is_pinned() {
    let org = Org::new();
    org.edit(
        "servers/github.yaml",
        "environment: prod",
        "environment: dev\npin: off",
    );
    assert_eq!(org.check(), "");
    let set = org.compile();
    let policy: PolicyDoc = serde_json::from_slice(&set.files["policy.json"]).unwrap();
    let table = policy
        .grants
        .values()
        .next()
        .unwrap()
        .values()
        .next()
        .unwrap();
    assert_eq!(table.tool_globs, [("read_*".to_owned(), 0)]);
    assert_eq!(table.tools, BTreeMap::from([("write".to_owned(), 0)]));
    let server: ServerDoc = serde_json::from_slice(&set.files["server-github.json"]).unwrap();
    assert!(server.surface.is_none());
}

#[test]
fn a_pin_says_what_came_what_changed_and_who_may_use_it_already() {
    let org = Org::new();
    let report = |pinned: &[Pinning]| serde_json::to_string_pretty(pinned).unwrap();
    assert_snapshot!(report(&org.pin(&["read_file", "read_tree", "write"])), @r#"
[
  {
    "server": "gh",
    "file": "pins/github.json",
    "outcome": "unchanged"
  }
]
"#);
    assert_snapshot!(report(&org.pin(&["read_file", "read_secret", "write"])), @r#"
[
  {
    "server": "gh",
    "file": "pins/github.json",
    "outcome": "changed",
    "changes": [
      {
        "sentence": "tool `read_tree` was removed",
        "edits": [],
        "roles": []
      },
      {
        "sentence": "tool `read_secret` was added",
        "edits": [],
        "roles": [
          "eng"
        ]
      }
    ],
    "quarantined": []
  }
]
"#);
    assert_eq!(org.check(), "");
    // the name of a tool that is gone is still its own
    assert!(
        org.read("pins/github.json")
            .contains("\"read_tree\": \"gh_read_tree\"")
    );
    let mut other = surface(&["read_file", "read_secret", "write"]);
    let text =
        r#"{"name":"write","description":"Does wri\u202ete.","inputSchema":{"type":"object"}}"#;
    other.tools[2] = entry(Kind::Tool, serde_json::from_str(text).unwrap()).unwrap();
    other.instructions = Some("Be\nkind.".to_owned());
    let pinned = pin(org.dir.path(), &[], &mut |_| Ok(other.clone())).unwrap();
    assert_snapshot!(report(&pinned), @r#"
[
  {
    "server": "gh",
    "file": "pins/github.json",
    "outcome": "changed",
    "changes": [
      {
        "sentence": "the instructions changed",
        "edits": [
          {
            "path": "instructions",
            "was": null,
            "is": "\"Be\\nkind.\""
          }
        ],
        "roles": []
      }
    ],
    "quarantined": [
      [
        "write",
        "it hides text from reviewers: U+202E"
      ]
    ]
  }
]
"#);
    assert_snapshot!(org.check(), @r#"
roles/eng.yaml:6:21: error: `write` of `gh` is quarantined: it hides text from reviewers: U+202E [quarantined-tool]
  fix: take it out, and tell the server's owner
"#);
}

#[test]
fn a_tool_that_only_runs_as_a_task_is_warned_of() {
    let org = Org::new();
    let mut other = surface(&["read_file", "write"]);
    let text = r#"{"name":"write","inputSchema":{"type":"object"},"execution":{"taskSupport":"required"}}"#;
    other.tools[1] = entry(Kind::Tool, serde_json::from_str(text).unwrap()).unwrap();
    for _ in 0..2 {
        // one that is as it was is warned of again
        let pinned = pin(org.dir.path(), &[], &mut |_| Ok(other.clone())).unwrap();
        assert_eq!(pinned[0].needs_task, ["write"]);
    }
    assert!(org.pin(&["read_file", "write"])[0].needs_task.is_empty());
    pin(org.dir.path(), &[], &mut |_| Ok(other.clone())).unwrap();
    let said = org.check();
    assert!(said.contains("[needs-task]"), "{said}");
    assert!(
        said.contains("`write` of `gh` only runs as a task"),
        "{said}"
    );
}

#[test]
fn a_server_that_fails_keeps_its_pin() {
    let org = Org::new();
    let before = org.read("pins/github.json");
    let run = |org: &Org| {
        let pinned = pin(org.dir.path(), &["gh".to_owned()], &mut |_| {
            Err("server `gh` hangs".to_owned())
        });
        serde_json::to_string(&pinned.unwrap()).unwrap()
    };
    assert_snapshot!(run(&org), @r#"[{"server":"gh","file":"pins/github.json","outcome":"failed","reason":"server `gh` hangs","hint":"start it by hand with the same command, and see what it says"}]"#);
    assert_eq!(org.read("pins/github.json"), before);
    // a pin that cannot be read holds names: it is not replaced
    org.write("pins/github.json", "{");
    let pinned = org.pin(&["read_file"]);
    assert_snapshot!(serde_json::to_string(&pinned).unwrap(), @r#"[{"server":"gh","file":"pins/github.json","outcome":"failed","reason":"pins/github.json cannot be read, and it holds the names that were assigned","hint":"restore it from version control, or delete it to assign all names anew"}]"#);
    assert_eq!(org.read("pins/github.json"), "{");
    // what would be run is not right
    org.edit("servers/github.yaml", "hosted: vendor", "hosted: x");
    assert_snapshot!(run(&org), @r#"[{"server":"gh","file":"pins/github.json","outcome":"failed","reason":"servers/github.yaml:6: hosted is `x`","hint":"use `self` or `vendor`"}]"#);
}

#[test]
fn a_server_that_wants_a_credential_fails_with_the_one_hint_that_fits() {
    let hint = |credential: &str, reason: &str| {
        let org = Org::new();
        let line = format!("isolation: session\n{credential}");
        org.edit("servers/github.yaml", "isolation: session", &line);
        let pinned = pin(org.dir.path(), &[], &mut |_| Err(reason.to_owned())).unwrap();
        match &pinned[0].outcome {
            Outcome::Failed { reason, hint } => format!("{reason} / {hint}"),
            other => panic!("{other:?}"),
        }
    };
    let own = "credential: {id: gh, inject: {env: GH_TOKEN}, obtain: x}";
    let refuses = "server `gh` refuses the credential `gh` (401 Unauthorized); replace it with \
                   `mcpshim credential set gh`";
    assert_snapshot!(hint(own, refuses), @"server `gh` refuses the credential `gh` (401 Unauthorized) / give it one that works: `… | mcpshim-admin pin DIR gh --credential-stdin`");
    let wants = "server `gh` wants the credential `gh`";
    assert_snapshot!(hint(own, wants), @"server `gh` wants the credential `gh` / give it one that works: `… | mcpshim-admin pin DIR gh --credential-stdin`");
    let names_none = "server `gh` wants a credential, and its entry names none (401)";
    assert_snapshot!(hint("", names_none), @"server `gh` wants a credential, and its entry names none (401) / write `credential` into servers/github.yaml, then give it with --credential-stdin");
    // another trouble has another hint
    assert_snapshot!(hint(own, "server `gh` ended"), @"server `gh` ended / start it by hand with the same command, and see what it says");
}

#[test]
fn only_servers_that_exist_are_pinned() {
    let org = Org::new();
    let refused = |key: &str| {
        pin(org.dir.path(), &[key.to_owned()], &mut |_| panic!())
            .unwrap_err()
            .to_string()
    };
    assert_snapshot!(refused("hg"), @r#"
servers: error: no server has the key `hg` [unknown-server]
  fix: did you mean `gh`?
"#);
    assert_snapshot!(refused("gitlab"), @r#"
servers: error: no server has the key `gitlab` [unknown-server]
  fix: use `gh`; or add the server to servers/
"#);
}

#[test]
fn a_pin_file_reads_back_as_it_was_written() {
    let org = Org::new();
    let text = org.read("pins/github.json");
    assert_snapshot!(text, @r#"
{
"format": 1,
"server": "github",
"transport": {"type":"stdio","command":"npx","args":["-y","@acme/mcp-github@1.2.3","--read-only"],"env":{"LOG_LEVEL":"info"},"package":"npm:@acme/mcp-github@1.2.3"},
"declared": {"roots":false,"elicitation":true,"sampling":false,"apps":false},
"names": {
"tools": {
"read_file": "gh_read_file",
"read_tree": "gh_read_tree",
"write": "gh_write"
},
"prompts": {
"review": "gh_review"
}
},
"surface": {
"protocol": "2025-11-25",
"tools": [
{"name":"read_file","exposed":"gh_read_file","digest":"1a1df6e718246c96531ab031cda21f6e8ffdbe89d7e61e203bf5f8a27cd85a22","definition":{"name":"read_file","description":"Does read_file.","inputSchema":{"type":"object"}}},
{"name":"read_tree","exposed":"gh_read_tree","digest":"46b6c97bfaf25a251587d82982c25f8ba6dc1a235d0a54f285be32db4dc46d26","definition":{"name":"read_tree","description":"Does read_tree.","inputSchema":{"type":"object"}}},
{"name":"write","exposed":"gh_write","digest":"1c6d498d11e77b187c1ffb468eea8fe2d354161bd6c9a96f77fe613eeea281c6","definition":{"name":"write","description":"Does write.","inputSchema":{"type":"object"}}}
],
"prompts": [
{"name":"review","exposed":"gh_review","digest":"45c9837e278de4e2709b840991e4b628de25a186af1ff3b877f7b0b54737f840","definition":{"name":"review"}}
],
"templates": [
{"name":"repo://{owner}/{name}","digest":"e7fc00b74fa970616f4044223d94d4b789df3d38673ea8ea7d804cafd79126f1","definition":{"uriTemplate":"repo://{owner}/{name}","name":"repository"}}
],
"resources": []
}
}
"#);
    let mut problems = Problems::default();
    let mut sink = problem::Sink {
        file: "x",
        problems: &mut problems,
    };
    let doc: ServerDoc =
        serde_json::from_slice(&org.compile().files["server-github.json"]).unwrap();
    let pin = PinFile::read(text.as_bytes(), &doc, true, &mut sink).unwrap();
    assert_eq!(pin.write().unwrap(), text);
}

#[test]
fn the_example_needs_only_what_its_steps_announce() {
    let dir = tempfile::tempdir().unwrap();
    let now = Now {
        wall_us: NOW * 1_000_000,
        mono_us: 0,
    };
    let example = Example {
        org: OrgId::parse("acme").unwrap(),
        name: "Acme: \"Ltd\"".to_owned(),
        help: "#help".to_owned(),
        files: PathBuf::from("/srv/my files"),
    };
    init(dir.path(), &example, &now).unwrap();
    let errors = || {
        let mut problems = check(dir.path(), &now);
        problems.0.retain(|problem| problem.level == Level::Error);
        problems.to_string()
    };
    assert_snapshot!(errors(), @r#"
roles/ci.yaml:6:10: error: there is no agents/ci.yaml [unknown-agent]
  fix: make it with `mcpshim-admin agent new ci --owner TEAM --key FILE DIR`
servers/everything.yaml: error: server `everything` has no pin: nothing is known of its tools [no-pin]
  fix: run `mcpshim-admin pin DIR everything`
servers/filesystem.yaml: error: server `fs` has no pin: nothing is known of its tools [no-pin]
  fix: run `mcpshim-admin pin DIR fs`
"#);
    let key = tempfile::tempdir().unwrap();
    let name = crate::ids::AgentName::parse("ci").unwrap();
    let file = key.path().join("ci.key");
    let made = agent(
        dir.path(),
        &name,
        Some("platform"),
        None,
        &file,
        &mut CountingEntropy(1),
    );
    assert_eq!(made.unwrap().roles, ["ci"]);
    let tools = [
        "read_text_file",
        "list_directory",
        "search_files",
        "get_file_info",
        "directory_tree",
        "write_file",
        "edit_file",
        "echo",
    ];
    pin(dir.path(), &[], &mut |_| Ok(surface(&tools))).unwrap();
    assert_eq!(errors(), "");
    assert!(matches!(
        init(dir.path(), &example, &now),
        Err(InitError::Exists(_))
    ));
}

#[test]
fn an_agent_is_made_once_and_only_in_a_registry() {
    let org = Org::new();
    let keys = tempfile::tempdir().unwrap();
    let make = |dir: &Path, name: &str, key: &str, expires| {
        let name = crate::ids::AgentName::parse(name).unwrap();
        let key = keys.path().join(key);
        agent(dir, &name, None, expires, &key, &mut CountingEntropy(1))
            .map(|made| made.owner)
            .map_err(|error| {
                error
                    .to_string()
                    .replace(&*dir.to_string_lossy(), "DIR")
                    .replace(&*keys.path().to_string_lossy(), "KEYS")
            })
    };
    let dir = org.dir.path();
    assert_eq!(make(dir, "deploy", "a", None), Ok("#help".to_owned()));
    assert_eq!(
        make(dir, "deploy", "b", None),
        Err("DIR/agents/deploy.yaml exists already".to_owned())
    );
    assert_eq!(
        make(dir, "nightly", "a", None),
        Err("KEYS/a exists already".to_owned())
    );
    assert_eq!(
        make(dir, "nightly", "c", Some("soon")),
        Err("\"soon\" is no date".to_owned())
    );
    assert!(!keys.path().join("b").exists() && !keys.path().join("c").exists());
    assert!(make(keys.path(), "x", "d", None).is_err());
    assert_snapshot!(org.check(), @r#"
agents/deploy.yaml: warning: the agent `deploy` has no role, so it may use nothing [unused-agent]
  fix: name it under `agents` of a role, or delete it
"#);
}

#[test]
fn text_of_a_server_cannot_steer_a_terminal() {
    assert_eq!(
        text::short("a\u{1b}[2Jb\u{202e}c", 99),
        "a\\u{1b}[2Jb\\u{202e}c"
    );
    assert_eq!(text::short("äöü", 2), "äö…");
}
