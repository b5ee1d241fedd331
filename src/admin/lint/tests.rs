//! What strangers wrote and `check` passed over, or told in words of its own.

use insta::assert_snapshot;

use crate::admin::tests::Org;

const SERVER: &str = "servers/github.yaml";
const COMMAND: &str = "  command: npx\n  args: [\"-y\", \"@acme/mcp-github@1.2.3\", --read-only]";

/// What is said after one edit of the good organisation.
fn after(file: &str, from: &str, to: &str) -> String {
    let org = Org::new();
    org.edit(file, from, to);
    org.check()
}

/// The rules that a server's command breaks, without the pin that does not fit it.
fn command(environment: &str, lines: &str) -> String {
    let org = Org::new();
    org.edit(SERVER, COMMAND, lines);
    org.edit(SERVER, "  package: npm:@acme/mcp-github@1.2.3\n", "");
    org.edit(
        SERVER,
        "environment: prod",
        &format!("environment: {environment}"),
    );
    let mut found = org.check();
    let stale = found.find("pins/github.json").into_iter();
    for at in stale.collect::<Vec<_>>() {
        let end = found[at..].match_indices('\n').nth(1);
        let end = end.map_or(found.len(), |(to, _)| at + to + 1);
        found.replace_range(at..end, "");
    }
    found
}

#[test]
fn a_private_audit_key_is_found_in_any_file_and_never_printed() {
    let key = format!("mcpshim-audit-private-1:{}", "8PXb5YOhk+S9xNir".repeat(2));
    for (file, text) in [
        ("audit/audit.key", key.clone()),
        ("audit/key.json", key.clone()),
        ("audit/private.txt", format!("{key}\n")),
        ("deploy/ci.env", format!("KEY={key}\n")),
        ("org.yaml", format!("org: {key}\n")),
        ("servers/github.yaml", format!("# {key}\n")),
        ("trust/notes.md", format!("the key is {key}, keep it\n")),
    ] {
        let org = Org::new();
        org.write(file, &text);
        let found = org.check();
        assert!(
            found.contains(file) && found.contains("[secret]"),
            "{file}: {found}"
        );
        assert!(!found.contains("8PXb"), "{file}: {found}");
    }
    // the public half, and a text about keys, are what belongs here
    let org = Org::new();
    org.write(
        "trust/notes.md",
        "the public keys are in audit/, the private ones are not here\n",
    );
    assert_eq!(org.check(), "");
}

#[test]
fn a_shell_does_not_hide_the_runner_of_a_package() {
    for lines in [
        "  command: bash\n  args: [-c, \"npx -y some-mcp-server\"]",
        "  command: /bin/sh\n  args: [-c, \"exec uvx server\"]",
        "  command: cmd.exe\n  args: [/c, npx.cmd, -y, server]",
        "  command: env\n  args: [LOG=1, npx, -y, server]",
        "  command: sudo\n  args: [-u, mcp, docker, run, image]",
        "  command: sh\n  args: [-c, 'cd /tmp && npm exec server']",
    ] {
        let found = command("prod", lines);
        assert!(found.contains("[unpinned-package]"), "{lines}: {found}");
        assert!(
            !command("dev", lines).contains("[unpinned-package]"),
            "{lines}"
        );
    }
    for lines in [
        "  command: bash\n  args: [/opt/mcp/run.sh]",
        "  command: sh\n  args: [-c, \"exec /opt/mcp/server --npx-like\"]",
        "  command: env\n  args: [LOG=info, /opt/mcp/server]",
        "  command: timeout\n  args: [\"60\", /opt/mcp/docker-helper]",
    ] {
        assert_eq!(command("prod", lines), "", "{lines}");
    }
}

#[test]
fn a_program_in_somebodys_home_is_no_program_of_all() {
    for program in [
        concat!("/ho", "me/jane/bin/mem"),
        "/Users/jane/mem",
        concat!("/ro", "ot/bin/mem"),
        "~/bin/mem",
        "'C:\\Users\\jane\\mem.exe'",
    ] {
        let lines = format!("  command: {program}\n  args: []");
        let found = command("prod", &lines);
        assert!(
            found.contains("error") && found.contains("[personal-program]"),
            "{found}"
        );
        let found = command("dev", &lines);
        assert!(
            found.contains("warning") && !found.contains("error"),
            "{found}"
        );
    }
    for program in [
        "/opt/mcp/mem",
        "/Users/Shared/mem",
        "'C:\\Users\\Public\\mem.exe'",
        concat!("/usr/local/ho", "me/mem"),
        "mem",
    ] {
        let lines = format!("  command: {program}\n  args: []");
        assert_eq!(command("prod", &lines), "", "{program}");
    }
}

#[test]
fn mistakes_of_yaml_are_told_in_words_of_the_file() {
    assert_snapshot!(after("roles/eng.yaml", "[read_*, write]", "[*]"), @r#"
roles/eng.yaml:6:13: error: not YAML: `*` begins with `*`, which means something to YAML [yaml]
  fix: put it in quotes: `"*"`; everything after this line was not read
"#);
    assert_snapshot!(after(SERVER, "purpose: code", "purpose: read: x"), @r#"
servers/github.yaml:5:14: error: not YAML: `read: x` has a colon in it, which begins another value for YAML [yaml]
  fix: put it in quotes: `"read: x"`; everything after this line was not read
"#);
    assert_snapshot!(after("org.yaml", "help: '#help'", "help: #help"), @r#"
org.yaml:3:5: error: help is nothing [wrong-type]
  fix: write a text; one that begins with `#` needs quotes, as YAML takes it for a comment
"#);
    assert_snapshot!(after("org.yaml", "name: Acme", "\tname: Acme"), @r#"
org.yaml:1:6: error: not YAML: a tab stands where a line begins [yaml]
  fix: indent with blanks; everything after this line was not read
"#);
    for (file, from, to) in [
        ("roles/eng.yaml", "[read_*, write]", "[\"read_*\", write]"),
        (SERVER, "purpose: code", "purpose: \"read: x\""),
        (SERVER, "purpose: code", "purpose: code   # what for: code"),
        ("org.yaml", "name: Acme", "name: Acme, a:b"),
    ] {
        assert_eq!(after(file, from, to), "", "{to}");
    }
}

#[test]
fn an_unreadable_organisation_is_the_only_thing_said_of_it() {
    let org = Org::new();
    org.edit("org.yaml", "name: Acme", "name: [Acme");
    let found = org.check();
    assert_eq!(found.matches("org.yaml").count(), 1, "{found}");
    // one that can be read and has no issuer is still told so
    let org = Org::new();
    let text = org.read("org.yaml");
    let at = text.find("issuers:").unwrap();
    org.write("org.yaml", &text[..at]);
    assert!(org.check().contains("[no-issuer]"), "{}", org.check());
}

#[test]
fn what_has_no_effect_yet_is_said() {
    assert_snapshot!(after(SERVER, "isolation: session", "isolation: user"), @r#"
servers/github.yaml:23:12: warning: `isolation: user` has no effect yet: each session starts a process of its own [isolation]
  fix: take it out, or keep it for a later version
"#);
}

#[test]
fn variables_are_expanded_nowhere() {
    let org = Org::new();
    org.edit(SERVER, "  command: npx", "  command: $HOME/bin/npx");
    assert!(org.check().contains("[not-expanded]"), "{}", org.check());
    let found = after(SERVER, "LOG_LEVEL: info", "LOG_LEVEL: costs 5$ each");
    assert!(!found.contains("[not-expanded]"), "{found}");
}

#[test]
fn patterns_that_add_nothing_and_stars_that_write_are_one_line() {
    let tools = |list: &str| after("roles/eng.yaml", "tools: [read_*, write]", list);
    assert_snapshot!(tools("tools: [\"*\", read_*, read_file]"), @r#"
roles/eng.yaml:6:18: warning: `read_*` adds nothing: `*` has it; `read_file` adds nothing: `*` has it; `*` gives 3 of 3 tools that do more than read [adds-nothing]
  fix: keep what you mean, and take the rest out
"#);
    assert_snapshot!(tools("tools: [read_*, read_file]"), @r#"
roles/eng.yaml:6:21: warning: `read_file` adds nothing: `read_*` has it [adds-nothing]
  fix: keep what you mean, and take the rest out
"#);
    assert_snapshot!(tools("tools: [\"*\"]"), @r#"
roles/eng.yaml:6:13: warning: `*` gives 3 of 3 tools that do more than read [writes-by-star]
  fix: name the tools, unless all of them are meant
"#);
    for list in [
        "tools: [read_*, write]",
        "tools: [read_file, read_tree, write]",
    ] {
        assert_eq!(tools(list), "", "{list}");
    }
    let found = after(
        "roles/eng.yaml",
        "['repo://*']",
        "['repo://*', 'repo://acme/*']",
    );
    assert!(found.contains("`repo://acme/*` adds nothing"), "{found}");
}

#[test]
fn a_star_over_tools_that_only_read_is_not_warned_of() {
    let text = r#"{"name": "look", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}}"#;
    let mut surface = crate::admin::tests::surface(&[]);
    let kind = crate::pin::Kind::Tool;
    surface.tools = vec![crate::pin::entry(kind, serde_json::from_str(text).unwrap()).unwrap()];
    let org = Org::new();
    org.pin_as(&surface);
    org.edit("roles/eng.yaml", "tools: [read_*, write]", "tools: [\"*\"]");
    org.edit(SERVER, "  tools:\n    write: {results: full}\n", "");
    assert_eq!(org.check(), "");
}

#[test]
fn the_configuration_of_a_client_is_one_mistake() {
    for text in [
        r#"{"mcpServers": {"fs": {"command": "npx", "args": ["-y", "server"]}}}"#,
        r#"{"servers": {"fs": {"type": "http", "url": "https://x.example/mcp"}}}"#,
        r#"{"fs": {"command": "npx", "args": []}, "crm": {"url": "https://x.example/mcp"}}"#,
        r#"{"command": "npx", "args": ["-y", "server"], "env": {"A": "b"}}"#,
        "mcpServers:\n  fs:\n    command: npx\n",
    ] {
        let org = Org::new();
        org.write("servers/pasted.yaml", text);
        let found = org.check();
        assert_eq!(found.matches("error").count(), 1, "{found}");
        assert!(found.contains("[client-configuration]"), "{found}");
        assert!(found.contains("mcpshim-admin new server"), "{found}");
    }
    // an entry with a mistake is an entry
    let found = after(SERVER, "id: github\n", "");
    assert!(!found.contains("[client-configuration]"), "{found}");
    let found = after(SERVER, "transport:", "servers:");
    assert!(!found.contains("[client-configuration]"), "{found}");
}

#[test]
fn a_secret_is_reported_once() {
    let token = format!("ghp_{}", "a1B2c3D4e5".repeat(4));
    let org = Org::new();
    org.edit(SERVER, "--read-only", &token);
    let found = org.check();
    assert_eq!(found.matches("[secret]").count(), 1, "{found}");
    assert!(found.contains("an argument holds"), "{found}");
    // in a comment it is found by its line alone, and each line counts
    org.edit(
        SERVER,
        "hosted: vendor",
        &format!("hosted: vendor # {token}"),
    );
    assert_eq!(
        org.check().matches("[secret]").count(),
        2,
        "{}",
        org.check()
    );
}

#[test]
fn what_nobody_filled_in_is_said() {
    assert_snapshot!(after(SERVER, "owner: platform", "owner: nobody yet"), @r#"
servers/github.yaml:1:5: warning: nobody has filled in `owner` [not-filled-in]
  fix: write what the people who use the server and review it need to know
"#);
}
