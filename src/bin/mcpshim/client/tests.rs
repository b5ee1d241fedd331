//! Golden files of each client in hostile layouts, and the laws that hold for any file.

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;

use super::entry::{Change, Removal};
use super::{Format, json, toml};

const CLAUDE: Format = Format::Json(json::Dialect {
    list: "mcpServers",
    comments: false,
    typed: false,
});
const VSCODE: Format = Format::Json(json::Dialect {
    list: "servers",
    comments: true,
    typed: true,
});
const CODEX: Format = Format::Toml;

const PROGRAM: &str = "/usr/bin/mcpshim";

/// Installs, checks the laws, and shows the result with line ends that can be seen.
#[track_caller]
fn check(format: Format, text: &str) -> String {
    match format.install(Some(text), PROGRAM) {
        Ok(Change::Added(new)) => {
            assert_eq!(format.install(Some(&new), PROGRAM), Ok(Change::Same));
            assert_eq!(format.remove(&new), Ok(Removal::Text(text.to_owned())));
            visible(&new)
        }
        Ok(Change::Replaced {
            text: new,
            was,
            changed,
        }) => {
            assert_eq!(format.install(Some(&new), PROGRAM), Ok(Change::Same));
            let changed = match changed.as_slice() {
                [] => "all".to_owned(),
                some => some.join(", "),
            };
            format!("(was {was}; changed {changed})\n{}", visible(&new))
        }
        Ok(Change::Same) => "(same)".to_owned(),
        Err(trouble) => trouble.to_string(),
    }
}

fn visible(text: &str) -> String {
    let end = if text.ends_with('\n') { "" } else { "⟂" };
    let text = text.replace("\r\n", "␍\n").replace('\t', "→");
    format!("{}{end}", text.replace('\u{feff}', "⟨BOM⟩"))
}

#[test]
fn a_file_that_was_not_there_comes_and_goes_whole() {
    for format in [CLAUDE, VSCODE, CODEX] {
        let Ok(Change::Added(new)) = format.install(None, PROGRAM) else {
            panic!("nothing was there");
        };
        assert_eq!(format.install(Some(&new), PROGRAM), Ok(Change::Same));
        assert_eq!(format.remove(&new), Ok(Removal::File));
        // what somebody added meanwhile stays
        let more = match format {
            Format::Toml => format!("{new}# mine\n"),
            Format::Json(_) => new.replacen('{', "{\"mine\": 1,", 1),
        };
        let Ok(Removal::Text(left)) = format.remove(&more) else {
            panic!("{more}");
        };
        assert!(left.contains("mine") && !left.contains("mcpshim"), "{left}");
    }
    let new = |format: Format| match format.install(None, PROGRAM) {
        Ok(Change::Added(new)) => visible(&new),
        other => format!("{other:?}"),
    };
    insta::assert_snapshot!(new(VSCODE), @r#"
{
  "servers": {
    "mcpshim": {
      "type": "stdio",
      "args": ["serve"],
      "command": "/usr/bin/mcpshim"
    }
  }
}
"#);
    insta::assert_snapshot!(new(CODEX), @r#"
[mcp_servers.mcpshim]
args = ["serve"]
command = "/usr/bin/mcpshim"
"#);
}

#[test]
fn claude_code_keeps_everything_else() {
    let text = "{\n  \"numStartups\": 12,\n  \"big\": 12345678901234567890.10,\n  \"mcpServers\": {},\n  \"projects\": {\"/p\": {\"allowedTools\": []}}\n}";
    insta::assert_snapshot!(check(CLAUDE, text), @r#"
{
  "numStartups": 12,
  "big": 12345678901234567890.10,
  "mcpServers": {
    "mcpshim": {
      "command": "/usr/bin/mcpshim",
      "args": ["serve"]
    }
  },
  "projects": {"/p": {"allowedTools": []}}
}⟂
"#);
    let text = "{\r\n\t\"mcpServers\": {\r\n\t\t\"github\": {\"command\": \"npx\", \"env\": {\"TOKEN\": \"s3cr\\u0065t\"}}\r\n\t}\r\n}\r\n";
    insta::assert_snapshot!(check(CLAUDE, text), @r#"
{␍
→"mcpServers": {␍
→→"github": {"command": "npx", "env": {"TOKEN": "s3cr\u0065t"}},␍
→→"mcpshim": {␍
→→→"command": "/usr/bin/mcpshim",␍
→→→"args": ["serve"]␍
→→}␍
→}␍
}␍
"#);
}

#[test]
fn claude_desktop_keeps_its_layout() {
    insta::assert_snapshot!(check(CLAUDE, "{}"), @r#"
{
  "mcpServers": {
    "mcpshim": {
      "args": ["serve"],
      "command": "/usr/bin/mcpshim"
    }
  }
}⟂
"#);
    insta::assert_snapshot!(check(CLAUDE, "{}\n"), @r#"
{"mcpServers": {
  "mcpshim": {
    "args": ["serve"],
    "command": "/usr/bin/mcpshim"
  }
}}
"#);
    insta::assert_snapshot!(check(CLAUDE, "\u{feff}{\"globalShortcut\":\"\"}\n"), @r#"⟨BOM⟩{"globalShortcut":"", "mcpServers": {"mcpshim": {"args": ["serve"], "command": "/usr/bin/mcpshim"}}}"#);
    insta::assert_snapshot!(check(CLAUDE, "{ \"mcpServers\": { } }\n"), @r#"{ "mcpServers": {"mcpshim": {"command": "/usr/bin/mcpshim", "args": ["serve"]} } }"#);
    insta::assert_snapshot!(check(CLAUDE, "{\n    \"a\": {\n        \"b\": 1\n    }\n}\n"), @r#"
{
    "a": {
        "b": 1
    },
    "mcpServers": {
        "mcpshim": {
            "args": ["serve"],
            "command": "/usr/bin/mcpshim"
        }
    }
}
"#);
}

#[test]
fn vscode_keeps_comments_and_commas() {
    let text = "// my servers\n{\n\t\"inputs\": [], // none\n\t\"servers\": {\n\t\t// the good one\n\t\t\"github\": {\n\t\t\t\"url\": \"https://x/\", /* last */\n\t\t}, // end\n\t}, // of servers\n}\n// bye";
    insta::assert_snapshot!(check(VSCODE, text), @r#"
// my servers
{
→"inputs": [], // none
→"servers": {
→→// the good one
→→"github": {
→→→"url": "https://x/", /* last */
→→}, // end
→→"mcpshim": {
→→→"type": "stdio",
→→→"command": "/usr/bin/mcpshim",
→→→"args": ["serve"]
→→},
→}, // of servers
}
// bye⟂
"#);
    let text = "{\n  \"servers\": {\n    \"a\": {} // no comma\n  }\n}\n";
    insta::assert_snapshot!(check(VSCODE, text), @r#"
{
  "servers": {
    "a": {}, // no comma
    "mcpshim": {
      "type": "stdio",
      "command": "/usr/bin/mcpshim",
      "args": ["serve"]
    }
  }
}
"#);
    insta::assert_snapshot!(check(VSCODE, "{\"a\":1 // one\n}"), @r#"
{"a":1, // one
  "servers": {
    "mcpshim": {
      "type": "stdio",
      "args": ["serve"],
      "command": "/usr/bin/mcpshim"
    }
  }
}⟂
"#);
    insta::assert_snapshot!(check(VSCODE, "{\n  // nothing yet\n}\n"), @r#"
{"servers": {
  "mcpshim": {
    "type": "stdio",
    "args": ["serve"],
    "command": "/usr/bin/mcpshim"
  }
}
  // nothing yet
}
"#);
}

#[test]
fn codex_keeps_everything_else() {
    let text = "model = \"o\" # mine\r\n\r\n[mcp_servers.docs]\r\ncommand = \"docs\"\r\n";
    insta::assert_snapshot!(check(CODEX, text), @r#"
model = "o" # mine␍
␍
[mcp_servers.docs]␍
command = "docs"␍
␍
[mcp_servers.mcpshim]␍
command = "/usr/bin/mcpshim"␍
args = ["serve"]␍
"#);
    insta::assert_snapshot!(check(CODEX, "model = \"o\""), @r#"
model = "o"

[mcp_servers.mcpshim]
command = "/usr/bin/mcpshim"
args = ["serve"]⟂
"#);
    insta::assert_snapshot!(check(CODEX, ""), @r#"
[mcp_servers.mcpshim]
command = "/usr/bin/mcpshim"
args = ["serve"]
"#);
    insta::assert_snapshot!(check(CODEX, "mcp_servers.docs.command = \"docs\"\n"), @r#"
mcp_servers.docs.command = "docs"

[mcp_servers.mcpshim]
command = "/usr/bin/mcpshim"
args = ["serve"]
"#);
}

#[test]
fn an_entry_that_is_wrong_is_put_right_where_it_stands() {
    let text = "{\n  \"mcpServers\": {\n    \"mcpshim\": {\"command\": \"/old/mcpshim\", \"args\": [\"serve\"], \"env\": {\"LD_PRELOAD\": \"x\"}}, \"b\": 1\n  }\n}\n";
    insta::assert_snapshot!(check(CLAUDE, text), @r#"
(was /old/mcpshim with LD_PRELOAD; changed command, env)
{
  "mcpServers": {
    "mcpshim": {"command": "/usr/bin/mcpshim", "args": ["serve"]}, "b": 1
  }
}
"#);
    let text = "[mcp_servers.mcpshim] # mine\ncommand = '/old/mcpshim' # old\nargs = [ \"serve\" ]\n\n[other]\na = 1\n";
    insta::assert_snapshot!(check(CODEX, text), @r#"
(was /old/mcpshim; changed command)
[mcp_servers.mcpshim] # mine
command = "/usr/bin/mcpshim" # old
args = [ "serve" ]

[other]
a = 1
"#);
    let text = "[a]\n\n[mcp_servers.mcpshim]\ncommand = '/old/mcpshim'\nargs = [\"serve\"]\n[mcp_servers.mcpshim.env]\nX = \"1\"\nLD_PRELOAD = \"x\"\n\n[other]\na = 1\n";
    insta::assert_snapshot!(check(CODEX, text), @r#"
(was /old/mcpshim with LD_PRELOAD; changed command, env)
[a]

[mcp_servers.mcpshim]
command = "/usr/bin/mcpshim"
args = ["serve"]
[mcp_servers.mcpshim.env]
X = "1"

[other]
a = 1
"#);
    let text = "[mcp_servers]\nmcpshim = { command = \"evil\" }\nb = { command = \"b\" }\n";
    insta::assert_snapshot!(check(CODEX, text), @r#"
(was evil; changed all)
[mcp_servers]
mcpshim = { command = "/usr/bin/mcpshim", args = ["serve"] }
b = { command = "b" }
"#);
}

#[test]
fn what_a_person_has_set_in_our_entry_is_kept() {
    let text = "[mcp_servers.mcpshim]\ncommand = \"/old/mcpshim\"\nargs = [\"serve\"]\n# slow first start\nstartup_timeout_sec = 30\ntool_timeout_sec = 900\nenabled_tools = [\"fs_read\"]\n\n[mcp_servers.mcpshim.tools.fs_write]\napproval_mode = \"approve\"\n";
    insta::assert_snapshot!(check(CODEX, text), @r#"
(was /old/mcpshim; changed command)
[mcp_servers.mcpshim]
command = "/usr/bin/mcpshim"
args = ["serve"]
# slow first start
startup_timeout_sec = 30
tool_timeout_sec = 900
enabled_tools = ["fs_read"]

[mcp_servers.mcpshim.tools.fs_write]
approval_mode = "approve"
"#);
    let text = "[mcp_servers]\nmcpshim = { enabled = false, command = \"mcpshim\", env = { DYLD_INSERT_LIBRARIES = \"x\", A = \"1\", LD_AUDIT = \"y\" }, tool_timeout_sec = 9 } # ours";
    insta::assert_snapshot!(check(CODEX, text), @r#"
(was mcpshim, disabled; changed command, args, enabled, env)
[mcp_servers]
mcpshim = { enabled = true, command = "/usr/bin/mcpshim", args = ["serve"], env = { A = "1" }, tool_timeout_sec = 9 } # ours⟂
"#);
    let text = "mcp_servers.mcpshim.command = \"/old/mcpshim\"\nmcp_servers.mcpshim.args = [\"serve\", \"-v\"]\nmcp_servers.mcpshim.env.LD_AUDIT = \"y\"\nmcp_servers.mcpshim.env.B = \"1\"\n";
    insta::assert_snapshot!(check(CODEX, text), @r#"
(was /old/mcpshim; changed command, args, env)
mcp_servers.mcpshim.command = "/usr/bin/mcpshim"
mcp_servers.mcpshim.args = ["serve"]
mcp_servers.mcpshim.env.B = "1"
"#);
    let text = "{\"mcpServers\": {\"mcpshim\": {\n  \"type\": \"sse\", \"url\": \"https://x\",\n  \"disabled\": true,\n  \"command\": \"/old/mcpshim\",\n  \"env\": {\"LD_AUDIT\": \"1\", \"MCPSHIM_STATE\": \"/s\", \"LD_PRELOAD\": \"2\"},\n  \"alwaysAllow\": [\"fs_read\"], \"timeout\": 900\n}}}";
    insta::assert_snapshot!(check(CLAUDE, text), @r#"
(was /old/mcpshim, disabled; changed command, args, disabled, type, url, env)
{"mcpServers": {"mcpshim": {
  "type": "stdio",
  "disabled": false,
  "command": "/usr/bin/mcpshim",
  "env": { "MCPSHIM_STATE": "/s"},
  "alwaysAllow": ["fs_read"], "timeout": 900, "args": ["serve"]
}}}⟂
"#);
    let text = "{\n  // mine\n  \"servers\": {\n    \"mcpshim\": {\n      \"command\": \"mcpshim\", // found on the PATH\n      \"dev\": {\"watch\": \"x\"}, // and more\n    },\n  },\n}\n";
    insta::assert_snapshot!(check(VSCODE, text), @r#"
(was mcpshim; changed command, args)
{
  // mine
  "servers": {
    "mcpshim": {
      "command": "/usr/bin/mcpshim", // found on the PATH
      "dev": {"watch": "x"}, // and more
      "args": ["serve"],
    },
  },
}
"#);
}

/// Members of our entry in any layout: those that must change change, in place, and no other byte.
#[test]
fn any_setting_of_our_entry_is_kept_in_json() {
    arbtest(|u| {
        let comments = u.arbitrary()?;
        let mut entry = String::new();
        object(u, comments, 3, &[], &mut entry)?;
        let empty = !entry.contains(':');
        let tail = entry.split_off(1);
        let (format, list) = match comments {
            true => (VSCODE, "servers"),
            false => (CLAUDE, "mcpServers"),
        };
        let more = if empty { "" } else { "," };
        let whole = |command: &str, args: &str| {
            format!(
                "{{\"{list}\":{{\"mcpshim\":{{\"command\": \"{command}\",\"args\":{args}{more}{tail}}}}}"
            )
        };
        let wrong = whole("/old/bin/mcpshim", "[\"serve\", 1]");
        let Ok(Change::Replaced { text, changed, .. }) = format.install(Some(&wrong), PROGRAM)
        else {
            panic!("{wrong:?}: {:?}", format.install(Some(&wrong), PROGRAM));
        };
        assert_eq!(text, whole(PROGRAM, "[\"serve\"]"), "{wrong:?}");
        assert_eq!(changed, ["command", "args"]);
        Ok(())
    })
    .budget_ms(1_000);
}

#[test]
fn any_setting_of_our_entry_is_kept_in_toml() {
    let settings = [
        "",
        "# c",
        "startup_timeout_sec = 30 # slow",
        "enabled_tools = [\n  \"a\", # b\n]",
        "cwd = '''\n[mcp_servers.mcpshim]\n'''",
        "env = { A = \"1\" }",
        "env_vars = [\"HOME\"]",
    ];
    let tables = [
        "",
        "[mcp_servers.mcpshim.env_http_headers]\nX = \"1\"",
        "[mcp_servers.mcpshim.tools.fs_write]\napproval_mode = \"approve\"",
        "[mcp_servers.docs]\ncommand = \"docs\"",
        "[other]\na = 1",
    ];
    let mut edited = 0;
    arbtest(|u| {
        let end = if u.arbitrary()? { "\n" } else { "\r\n" };
        let mut lines = vec!["[mcp_servers.mcpshim]", "COMMAND", "ARGS"];
        for _ in 0..u.int_in_range(0..=3)? {
            let at = u.int_in_range(1..=lines.len())?;
            lines.insert(at, *u.choose(&settings)?);
        }
        for _ in 0..u.int_in_range(0..=3)? {
            lines.push(*u.choose(&tables)?);
        }
        let text = lines.join("\n").replace('\n', end);
        let whole = |command: &str, args: &str| {
            let text = text.replacen("COMMAND", &format!("command = {command}"), 1);
            text.replacen("ARGS", &format!("args = {args}"), 1)
        };
        let wrong = whole("'/old/bin/mcpshim' # moved", "[\n  'serve', 'x',\n]");
        if toml::entries(&wrong).is_err() {
            return Ok(());
        }
        edited += 1;
        let Ok(Change::Replaced { text, changed, .. }) = CODEX.install(Some(&wrong), PROGRAM)
        else {
            panic!("{wrong:?}: {:?}", CODEX.install(Some(&wrong), PROGRAM));
        };
        let right = whole("\"/usr/bin/mcpshim\" # moved", "[\"serve\"]");
        assert_eq!(text, right, "{wrong:?}");
        assert_eq!(changed, ["command", "args"]);
        Ok(())
    })
    .budget_ms(1_000);
    assert!(edited > 10, "{edited}");
}

#[test]
fn what_cannot_be_edited_is_told_by_line_and_column() {
    let json: String = [
        "",
        "{\n  \"a\": 1,\n}",
        "// c\n{}",
        "[]",
        "{\"mcpServers\": []}",
        "{\"mcpServers\": null}",
        "{\"mcpServers\": {},\n \"mcpServers\": {}}",
        "{\"mcpServers\": {\"mcpshim\": 1,\n\"mcpsh\\u0069m\": 2}}",
        "{\"a\": 1} x",
        "{'a': 1}",
        "{\"a\": 01}",
    ]
    .iter()
    .map(|text| format!("{}\n", check(CLAUDE, text)))
    .collect();
    insta::assert_snapshot!(json, @r#"
line 1, column 1: the file is empty, expected { … }
line 3, column 1: key must be a string
line 1, column 1: expected value
line 1, column 1: a list, expected { … }
line 1, column 16: mcpServers is a list, expected { … }
line 1, column 16: mcpServers is null, expected { … }
line 2, column 2: "mcpServers" is there twice, first in line 1
line 2, column 1: "mcpshim" is there twice, first in line 1
line 1, column 10: trailing characters
line 1, column 2: key must be a string
line 1, column 8: invalid number
"#);
    let jsonc: String = [
        "{a: 1}",
        "{\"a\": 1 \"b\": 2}",
        "{\"a\": 0x1}",
        "{\"a\": /* b}",
        "// x",
    ]
    .iter()
    .map(|text| format!("{}\n", check(VSCODE, text)))
    .collect();
    insta::assert_snapshot!(jsonc, @r#"
line 1, column 2: expected string for object property
line 1, column 8: expected comma
line 1, column 7: hexadecimal numbers are not allowed
line 1, column 7: unterminated comment block
line 1, column 5: the end, expected { … }
"#);
    let toml: String = [
        "a = 1\nb = \n",
        "a = 1\na = 2\n",
        "mcp_servers = 1\n",
        "[[mcp_servers]]\n",
        "x = 1\nmcp_servers = { a = { command = \"a\" } }\n",
        "mcp_servers.mcpshim.command = \"/old/mcpshim\"\n",
    ]
    .iter()
    .map(|text| format!("{}\n", check(CODEX, text)))
    .collect();
    insta::assert_snapshot!(toml, @r#"
line 2, column 5: string values must be quoted, expected literal string
line 2, column 1: duplicate key
line 1, column 1: mcp_servers is integer, expected a table
line 1, column 3: mcp_servers is array, expected a table
line 2, column 1: the list is written in a way that only a person can edit safely
line 1, column 13: the list is written in a way that only a person can edit safely
"#);
}

#[test]
fn only_ours_is_taken_out() {
    let foreign = r#"{"mcpServers": {"mcpshim": {"command": "/opt/other", "args": ["serve"]}}}"#;
    let kept = Removal::Foreign("/opt/other".to_owned());
    assert_eq!(CLAUDE.remove(foreign), Ok(kept));
    assert_eq!(CLAUDE.remove("{}"), Ok(Removal::Absent));
    assert_eq!(CODEX.remove("a = 1"), Ok(Removal::Absent));
    // a list that others stand in stays, and so does one that was there before
    let text = r#"{"mcpServers": {"a": 1}}"#;
    let Ok(Change::Added(both)) = CLAUDE.install(Some(text), PROGRAM) else {
        panic!("not there yet");
    };
    let alone = both.replace(r#""a": 1, "#, "");
    let left = Removal::Text(r#"{"mcpServers": {}}"#.to_owned());
    assert_eq!(CLAUDE.remove(&alone), Ok(left));
    // a client that wrote the file anew kept the order, and so what was made for the entry goes
    let Ok(Change::Added(made)) = CLAUDE.install(Some("{\"a\":1}"), PROGRAM) else {
        panic!("not there yet");
    };
    let again = made.replace(", ", ",").replace(": ", ":");
    assert_eq!(
        CLAUDE.remove(&again),
        Ok(Removal::Text("{\"a\":1}".to_owned()))
    );
}

/// White space, and comments where they are allowed.
fn gap(u: &mut Unstructured<'_>, comments: bool, out: &mut String) -> Result<()> {
    for _ in 0..u.int_in_range(0..=2)? {
        let plain = ["", " ", "\n", "\r\n", "\t", "    ", "\n  ", "\r\n\t"];
        let more = ["// c\n", "// c  \r\n", "/* c */", "/* a\n b */", "//{,\n"];
        let all: Vec<&str> = if comments {
            plain.into_iter().chain(more).collect()
        } else {
            plain.to_vec()
        };
        out.push_str(u.choose(&all)?);
    }
    Ok(())
}

fn value(u: &mut Unstructured<'_>, comments: bool, depth: u8, out: &mut String) -> Result<()> {
    let leaf = [
        "1",
        "-0.50e+1",
        "\"\"",
        "\"a\\u0041,}//\"",
        "null",
        "true",
        "[]",
        "{}",
        "\"ä\"",
    ];
    match u.int_in_range(0..=3)? {
        0 if depth > 0 => {
            out.push('[');
            let count = u.int_in_range(0..=2)?;
            for at in 0..count {
                gap(u, comments, out)?;
                value(u, comments, depth - 1, out)?;
                gap(u, comments, out)?;
                if at + 1 < count || (comments && u.arbitrary()?) {
                    out.push(',');
                }
            }
            gap(u, comments, out)?;
            out.push(']');
            Ok(())
        }
        1 if depth > 0 => object(u, comments, depth, &[], out),
        _ => {
            out.push_str(u.choose(&leaf)?);
            Ok(())
        }
    }
}

/// An object with some members; `lists` are names whose value is an object of further members.
fn object(
    u: &mut Unstructured<'_>,
    comments: bool,
    depth: u8,
    lists: &[&str],
    out: &mut String,
) -> Result<()> {
    let mut names: Vec<&str> = vec!["a", "b", "mcpshim2", "servers"];
    let list = lists.first().copied();
    names.retain(|name| Some(*name) != list);
    let mut chosen = Vec::new();
    for name in names {
        if u.ratio(1, 3)? {
            chosen.push(name);
        }
    }
    if let Some(list) = list
        && u.ratio(2, 3)?
    {
        let at = u.int_in_range(0..=chosen.len())?;
        chosen.insert(at, list);
    }
    out.push('{');
    gap(u, comments, out)?;
    let count = chosen.len();
    for (at, name) in chosen.into_iter().enumerate() {
        out.push_str(&format!("\"{name}\""));
        gap(u, comments, out)?;
        out.push(':');
        gap(u, comments, out)?;
        if Some(name) == list {
            object(u, comments, depth.saturating_sub(1), &[], out)?;
        } else {
            value(u, comments, depth.saturating_sub(1), out)?;
        }
        gap(u, comments, out)?;
        if at + 1 < count || (comments && u.arbitrary()?) {
            out.push(',');
            gap(u, comments, out)?;
        }
    }
    out.push('}');
    Ok(())
}

/// Installing adds one entry and nothing else; removing gives every byte back.
#[track_caller]
fn laws(format: Format, text: &str) {
    let Ok(Change::Added(new)) = format.install(Some(text), PROGRAM) else {
        panic!(
            "cannot be edited: {text:?}: {:?}",
            format.install(Some(text), PROGRAM)
        );
    };
    assert_eq!(
        format.install(Some(&new), PROGRAM),
        Ok(Change::Same),
        "{text:?}"
    );
    assert_eq!(
        format.remove(&new),
        Ok(Removal::Text(text.to_owned())),
        "{new:?}"
    );
    let moved = format.install(Some(&new), "/elsewhere/mcpshim");
    let Ok(Change::Replaced { text: moved, .. }) = moved else {
        panic!("{moved:?}");
    };
    let undone = format.remove(&moved);
    assert_eq!(undone, Ok(Removal::Text(text.to_owned())), "{moved:?}");
}

#[test]
fn any_json_comes_back_byte_for_byte() {
    arbtest(|u| {
        let mut text = String::from(if u.ratio(1, 8)? { "\u{feff}" } else { "" });
        gap(u, false, &mut text)?;
        object(u, false, 3, &["mcpServers"], &mut text)?;
        gap(u, false, &mut text)?;
        laws(CLAUDE, &text);
        Ok(())
    })
    .budget_ms(2_000);
}

#[test]
fn any_json_with_comments_comes_back_byte_for_byte() {
    arbtest(|u| {
        let mut text = String::from(if u.ratio(1, 8)? { "\u{feff}" } else { "" });
        gap(u, true, &mut text)?;
        object(u, true, 3, &["servers"], &mut text)?;
        gap(u, true, &mut text)?;
        laws(VSCODE, &text);
        Ok(())
    })
    .budget_ms(2_000);
}

#[test]
fn any_toml_comes_back_byte_for_byte() {
    let lines = [
        "",
        "  ",
        "# c",
        "[mcp_servers]",
        "[mcp_servers.docs]",
        "[mcp_servers.mcpshim2]",
        "['mcp_servers' . \"d.e\"]",
        "[other]",
        "[[list]]",
        "text = \"\"\"\n[mcp_servers.mcpshim]\n\"\"\"",
        "command = 'x' # mine",
        "args = [\n  \"a\", # b\n]",
    ];
    let mut edited = 0;
    arbtest(|u| {
        let mut text = String::from(if u.ratio(1, 8)? { "\u{feff}" } else { "" });
        let end = if u.arbitrary()? { "\n" } else { "\r\n" };
        let count = u.int_in_range(0..=6)?;
        for at in 0..count {
            text.push_str(&u.choose(&lines)?.replace('\n', end));
            if at + 1 < count || u.arbitrary()? {
                text.push_str(end);
            }
        }
        if toml::entries(&text).is_ok() {
            edited += 1;
            laws(CODEX, &text);
        }
        Ok(())
    })
    .budget_ms(2_000);
    assert!(edited > 10, "{edited}");
}

#[test]
fn the_command_is_quoted_as_each_format_wants() {
    for program in [
        r"C:\Program Files\m\mcpshim.exe",
        "/opt/a \"b\"/\u{7f}ä/mcpshim",
    ] {
        for format in [CLAUDE, VSCODE, CODEX] {
            for text in [None, Some("")] {
                let text = text.filter(|_| matches!(format, Format::Toml));
                let Ok(Change::Added(new)) = format.install(text, program) else {
                    panic!("{program}");
                };
                assert_eq!(
                    format.entries(&new).unwrap()[0].command.as_deref(),
                    Some(program)
                );
            }
        }
    }
}
