//! `mcpshim-collector unseal`

use std::path::PathBuf;

use mcpshim::audit::PrivateKey;
use mcpshim::collector::admin::Unseal;
use mcpshim::collector::query::{self, Filter};
use mcpshim::report::{Exit, Failure};
use mcpshim::vault;
use serde_json::Value;

use super::source::{Source, object, print};

/// Open arguments and results with an audit key that never leaves this process.
///
/// The collector hands out the sealed records and their wrapped keys, and writes down who asked,
/// why, and for which records, before it does. Opening happens here.
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
    let (found, completeness) = args.source.unseal(&asked)?;
    let mut closed = 0_usize;
    let mut lines = Vec::new();
    for sealed in &found {
        let view = match query::open(sealed, &key) {
            Ok(view) => view,
            Err(error) => {
                closed += 1;
                let mut view = sealed.view.clone();
                if let Value::Object(view) = &mut view {
                    view.insert("not_opened".to_owned(), error.to_string().into());
                }
                view
            }
        };
        if args.json {
            lines.push(object(&view));
        } else {
            lines.extend(paragraph(&view));
        }
    }
    lines.push(if args.json {
        object(&completeness)
    } else {
        completeness.to_string()
    });
    print(lines)?;
    if found.is_empty() {
        return Err(
            Failure::new(Exit::Failed, "no record with a sealed payload matches").hint(
                "`mcpshim-collector query` shows what was kept as `args_kept` and `result_kept`",
            ),
        );
    }
    if closed > 0 {
        let sentence = format!("{closed} of {} payloads did not open", found.len());
        return Err(Failure::new(Exit::Failed, sentence)
            .hint("use the key that `sealed_to` of the record's segment names"));
    }
    Ok(())
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
    let payload = ["args", "result", "not_opened"]
        .iter()
        .find_map(|name| Some(format!("  {name}: {}", text(name)?)));
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
