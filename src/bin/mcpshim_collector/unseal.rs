//! `mcpshim-collector unseal`

use std::path::PathBuf;

use mcpshim::audit::PrivateKey;
use mcpshim::collector::admin::Unseal;
use mcpshim::collector::query::sealed::{kept, thousands, why_not};
use mcpshim::collector::query::{self, Filter};
use mcpshim::report::{Exit, Failure};
use mcpshim::vault;
use serde_json::Value;

use super::source::{Source, object, print};

/// Open arguments and results with an audit key that never leaves this process.
///
/// The collector hands out the sealed records and their wrapped keys, and writes down who asked,
/// why, and for which records, before it does. Opening happens here. A record that has no content
/// is listed with the reason, and the answer ends with how many there are.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mcpshim-collector unseal --data /srv/mcpshim --key audit.key --reason CASE-17 \\\n    0197f3a2-7b1c-7000-8000-000000000000/12\n  mcpshim-collector unseal --data /srv/mcpshim --key audit.key --reason CASE-17 \\\n    --agent nightly --since 1d"
)]
pub(crate) struct Args {
    /// A record, as `query` names it; or use the filters.
    #[arg(value_name = "EVENT", conflicts_with = "event")]
    record: Option<String>,
    #[command(flatten)]
    source: Source,
    /// The private audit key, the file `auditkey new` wrote.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Why: a case or ticket. It is written down.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    filter: Filter,
    /// One JSON object a line, with `args` or `result`; the last with `complete_through`.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::from_error(Exit::Failed, error);
    let text = vault::read_private(&args.key)
        .map_err(|error| failed(&error).hint("chmod 600 the key, and ask who read it before"))?
        .ok_or_else(|| {
            Failure::new(Exit::Failed, format!("there is no {}", args.key.display()))
                .hint("give the file that `mcpshim-collector auditkey new` wrote")
        })?;
    let key = PrivateKey::from_text(text.expose())
        .map_err(|error| failed(&error).context(format!("cannot use {}", args.key.display())))?;
    let mut filter = args.filter;
    filter.event = args.record.or(filter.event);
    let asked = Unseal {
        filter,
        who: who(),
        reason: args.reason,
        key: key.id().clone(),
    };
    let (found, last) = args.source.unseal(&asked)?;
    let (mut opened, mut closed) = (0_u64, 0_u64);
    let mut lines = Vec::new();
    for sealed in &found {
        let mut view = sealed.view.clone();
        match kept(&sealed.view).and_then(why_not) {
            Some(why) => put(&mut view, "no_content", why),
            None => match query::open(sealed, &key) {
                Ok(content) => {
                    opened += 1;
                    view = content;
                }
                Err(error) => {
                    closed += 1;
                    put(&mut view, "not_opened", &error.to_string());
                }
            },
        }
        if args.json {
            lines.push(object(&view));
        } else {
            lines.extend(paragraph(&view));
        }
    }
    if args.json {
        lines.push(object(&last));
    } else {
        if last.matched > last.shown {
            lines.push(format!(
                "the newest {} of {} records; --limit 0 shows all",
                last.shown, last.matched
            ));
        }
        lines.extend(last.content.sentence());
        lines.extend(last.notes.iter().cloned());
        lines.push(last.completeness.to_string());
    }
    print(lines)?;
    if opened + closed == 0 {
        let sentence = match last.content.without() {
            0 => "no record with a payload matches".to_owned(),
            none => format!("none of {} matching payloads is sealed", thousands(none)),
        };
        return Err(Failure::new(Exit::Failed, sentence).hint(
            "`mcpshim-collector query` shows what was kept as `args_kept` and `result_kept`",
        ));
    }
    if closed > 0 {
        let sentence = format!("{closed} of {} payloads did not open", opened + closed);
        return Err(Failure::new(Exit::Failed, sentence)
            .hint("use the key that `sealed_to` of the record's segment names"));
    }
    Ok(())
}

fn put(view: &mut Value, name: &str, text: &str) {
    if let Value::Object(view) = view {
        view.insert(name.to_owned(), text.into());
    }
}

fn paragraph(view: &Value) -> Vec<String> {
    let text = |name: &str| view.get(name).and_then(Value::as_str);
    let who = text("person").or(text("agent")).unwrap_or("nobody");
    let head = format!(
        "{}  {}  {}  {}  {}",
        text("time").unwrap_or_default(),
        text("phase").unwrap_or_default(),
        who,
        text("tool").unwrap_or_default(),
        text("event").unwrap_or_default()
    );
    // what of it must not reach the terminal, `print` shows as an escape
    let payload = ["args", "result", "not_opened", "no_content"]
        .iter()
        .find_map(|name| {
            let label = name.replace('_', " ");
            Some(format!("  {label}: {}", text(name)?))
        });
    std::iter::once(head).chain(payload).collect()
}

/// The user as the operating system knows them: a claim, like the reason.
fn who() -> String {
    #[cfg(unix)]
    {
        format!("uid {}", rustix::process::getuid().as_raw())
    }
    #[cfg(not(unix))]
    {
        "local user".to_owned()
    }
}
