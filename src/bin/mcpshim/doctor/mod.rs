//! `mcpshim doctor`: the cause first, then the one fix, then the details.
//!
//! A file per family of checks. They ask the functions that sessions use and decide nothing
//! themselves; what they find is put in the order in which one thing causes another
//! ([`finding::KNOWN`]). Every check has a thread and a deadline of its own, so that a hanging
//! file system, keychain or server is one finding and not a hanging doctor.

mod bundle;
mod clients;
mod credentials;
mod finding;
mod person;
mod record;
mod registry;
mod servers;
mod settings;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use mcpshim::clock::{Now, SystemClock};
use mcpshim::config::{self, Config, Places};
use mcpshim::fetch;
use mcpshim::ids::ServerKey;
use mcpshim::registry::Loaded;
use mcpshim::registry::doc::CollectorDoc;
use mcpshim::report::{Exit, Failure};
use mcpshim::text;
use serde::Serialize;

pub(crate) use self::credentials::is_set;
pub(crate) use self::servers::near;

use self::finding::{Finding, Level, Topic, found};
use crate::out;

const EXAMPLES: &str = "\
Examples:
  mcpshim doctor                     what is wrong, what to do about it
  mcpshim doctor registry            only what concerns the registry
  mcpshim doctor github              open the server github, and say what it does
  mcpshim doctor --bundle help.json  a file to send to whoever helps; it holds no secret

Topics: settings, state, registry, sign-in, credentials, servers, record, clients.

Exit codes: 0 nothing is wrong, 1 something is, 4 nobody is recognised, 5 no usable registry.";

/// Find out what is wrong here: the cause first, then the fix, then the details
///
/// Looks at the configuration, the registry and its host, the clock, the sign-in, the keychain,
/// the servers' programs, the record and its collector, and the clients. Changes nothing and
/// starts no server, unless it is asked for one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A topic, or a server to open
    #[arg(value_name = "TOPIC|SERVER")]
    about: Option<String>,
    /// Open every server that may be used here, as a session would
    #[arg(long)]
    servers: bool,
    /// Write everything that helps into a new file; no secret, no argument, no token
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What all checks share.
#[derive(Debug)]
struct Context {
    config: Config,
    places: Places,
    /// Where servers' programs are looked for.
    path: Vec<PathBuf>,
    now: Now,
    /// The registry on this machine, if it can be used.
    loaded: Option<Arc<Loaded>>,
    /// The servers to open.
    open: Vec<ServerKey>,
}

impl Context {
    fn asked(&self, key: &str) -> bool {
        self.open.iter().any(|asked| asked.as_str() == key)
    }

    /// The servers that were opened.
    fn opened(&self) -> Vec<&str> {
        self.open.iter().map(ServerKey::as_str).collect()
    }

    fn collector(&self) -> Option<&CollectorDoc> {
        self.loaded.as_ref()?.registry.org.collector.as_ref()
    }
}

/// What was checked, and how long it took.
#[derive(Debug, Serialize)]
struct Checked {
    what: String,
    ms: u64,
    ended: bool,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    findings: Vec<Finding>,
    checks: Vec<Checked>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let about = match &args.about {
        None => About::All,
        Some(word) => About::parse(word)?,
    };
    let (report, context) = examine(args, &about)?;
    if let Some(file) = &args.bundle {
        bundle::write(file, &report, context.as_deref())?;
    }
    let shown: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| about.shows(finding))
        .collect();
    if args.json {
        out::print_json(&serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "healthy": shown.iter().all(|finding| finding.level == Level::Note),
            "findings": shown,
            "checks": report.checks,
            "opened": context.as_deref().map(Context::opened),
        }))?;
    } else {
        out::print(&text(&shown, &about, context.as_deref()))?;
    }
    if let Some(file) = &args.bundle {
        out::warn(&format!("read {} before you send it", file.display()));
    }
    ended(&shown)
}

/// What a person asked about.
enum About {
    All,
    Server(ServerKey),
    Topic(Topic),
}

impl About {
    fn parse(word: &str) -> Result<Self, Failure> {
        if let Some((_, topic)) = Topic::ALL.iter().find(|(name, _)| *name == word) {
            return Ok(Self::Topic(*topic));
        }
        ServerKey::parse(word).map(Self::Server).map_err(|_not| {
            let names: Vec<&str> = Topic::ALL.iter().map(|(name, _)| *name).collect();
            Failure::new(
                Exit::Usage,
                format!("{word:?} is no topic and no key of a server"),
            )
            .hint(format!("the topics are {}", names.join(", ")))
        })
    }

    /// Causes of what was asked about are shown, whatever they are about.
    fn shows(&self, finding: &Finding) -> bool {
        match self {
            Self::All => true,
            Self::Topic(topic) => {
                finding.topic == *topic
                    || finding.level == Level::Problem && finding.follows.is_none() && {
                        // without settings and registry nothing else can be looked at
                        matches!(
                            finding.topic,
                            Topic::Settings | Topic::Registry | Topic::State
                        )
                    }
            }
            Self::Server(key) => {
                finding
                    .subject
                    .as_deref()
                    .is_none_or(|about| about == key.as_str())
                    && finding.level != Level::Note
            }
        }
    }
}

fn examine(args: &Args, about: &About) -> Result<(Report, Option<Arc<Context>>), Failure> {
    let places = config::places();
    let effective = config::effective();
    let mut report = Report {
        findings: settings::check(&effective, &places),
        checks: Vec::new(),
    };
    let managed = effective.managed;
    let config = match effective.config {
        Ok(config) => config,
        Err(failure) => {
            report.findings.push(settings::broken(&failure, managed));
            report.checks.push(Checked {
                what: "the configuration".to_owned(),
                ms: 0,
                ended: true,
            });
            finding::order(&mut report.findings);
            return Ok((report, None));
        }
    };
    let now = crate::now();
    let loaded = match load(&config, now) {
        None => {
            let sentence = "looking at the registry on this machine did not end in time";
            report.findings.push(found("no-answer", sentence));
            None
        }
        Some(loaded) => {
            report.findings.extend(registry::here(&loaded));
            loaded.ok()
        }
    };
    let mut open = Vec::new();
    if let Some(loaded) = &loaded {
        let keys = loaded.registry.servers.keys();
        if let About::Server(asked) = about {
            if !keys.clone().any(|key| key == asked) {
                let known: Vec<&str> = keys.map(ServerKey::as_str).collect();
                let sentence =
                    format!("{asked} is no topic, and the registry has no server {asked}");
                return Err(Failure::new(Exit::Usage, sentence).hint(near(asked, &known)));
            }
            open.push(asked.clone());
        } else if args.servers {
            open.extend(keys.cloned());
        }
    }
    let children = config::children(Some(&config));
    let path = children.iter().find(|(name, _)| name == "PATH");
    let mut context = Context {
        path: path.map_or_else(Vec::new, |(_, path)| std::env::split_paths(path).collect()),
        config,
        places,
        now,
        loaded,
        open,
    };
    if let About::Server(asked) = about
        && let Some(finding) = servers::closed(&context, asked)
    {
        // what was revoked is not started to look at it, nor what the caller may not use
        report.findings.push(finding);
        context.open.clear();
    }
    if args.servers {
        let usable: Vec<ServerKey> = servers::usable(&context)
            .into_iter()
            .map(|server| server.key.clone())
            .collect();
        context.open.retain(|key| usable.contains(key));
    }
    let context = Arc::new(context);
    examine_at_once(&context, &mut report);
    finding::order(&mut report.findings);
    Ok((report, Some(context)))
}

/// Verifies what is on the disk, which may be one that hangs.
fn load(config: &Config, now: Now) -> Option<Result<Arc<Loaded>, fetch::FetchError>> {
    let (tell, told) = mpsc::channel();
    let config = config.clone();
    std::thread::spawn(move || drop(tell.send(fetch::load(&config, &now).map(Arc::new))));
    told.recv_timeout(Duration::from_secs(20)).ok()
}

type Check = Box<dyn FnOnce(&Context) -> Vec<Finding> + Send>;

/// The checks that need nothing of each other, each on a thread of its own.
fn checks(context: &Context) -> Vec<(String, Duration, Check)> {
    const SHORT: Duration = Duration::from_secs(30);
    let check = |what: &str, check: fn(&Context) -> Vec<Finding>| -> (String, Duration, Check) {
        (what.to_owned(), SHORT, Box::new(check))
    };
    let mut checks = vec![
        check("the state directory", settings::state),
        check("the registry's host", registry::source),
        check("the sign-in", person::check),
        check("the keychain and credentials", credentials::check),
        check("the servers' programs", servers::check),
        check("the record", record::check),
        check("the collector", record::collector),
        check("the clients", clients::check),
    ];
    for key in context.open.clone() {
        let what = format!("the server {key}");
        let open = move |context: &Context| {
            let loaded = context.loaded.as_ref();
            let server = loaded.and_then(|loaded| loaded.registry.servers.get(&key));
            server.map_or_else(Vec::new, |server| servers::open(context, server))
        };
        checks.push((what, servers::PATIENCE * 2, Box::new(open)));
    }
    checks
}

fn examine_at_once(context: &Arc<Context>, report: &mut Report) {
    let clock = SystemClock::new();
    let (tell, told) = mpsc::channel();
    let mut waiting = Vec::new();
    for (what, patience, check) in checks(context) {
        let deadline_us = u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
        waiting.push((what.clone(), deadline_us));
        let (tell, context, clock) = (tell.clone(), Arc::clone(context), clock.clone());
        // a check that hangs is left behind, and ends with this process
        let thread = std::thread::Builder::new().name(format!("check {what}"));
        let started = thread.spawn(move || {
            let findings = check(&context);
            drop(tell.send((what, findings, clock.mono_us())));
        });
        drop(started);
    }
    drop(tell);
    let terminal = std::io::stderr().is_terminal();
    while !waiting.is_empty() {
        let now_us = clock.mono_us();
        let next_us = waiting.iter().map(|(_, at)| *at).min().unwrap_or(now_us);
        let pause = Duration::from_micros(next_us.saturating_sub(now_us).min(1_000_000));
        match told.recv_timeout(pause) {
            Ok((what, findings, at_us)) => {
                waiting.retain(|(name, _)| *name != what);
                report.findings.extend(findings);
                report.checks.push(Checked {
                    what,
                    ms: at_us / 1000,
                    ended: true,
                });
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now_us = clock.mono_us();
                let late = waiting.iter().filter(|(_, at)| *at <= now_us);
                for (what, _) in late {
                    let sentence = format!("looking at {what} did not end in time");
                    report.findings.push(found("no-answer", sentence));
                    report.checks.push(Checked {
                        what: what.clone(),
                        ms: now_us / 1000,
                        ended: false,
                    });
                }
                waiting.retain(|(_, at)| *at > now_us);
                if terminal && let Some((what, _)) = waiting.first() {
                    // nobody needs it who is not looking
                    drop(writeln!(
                        std::io::stderr().lock(),
                        "still looking at {what} …"
                    ));
                }
            }
            // every check is done, or its thread could not start or broke
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                for (what, _) in waiting.drain(..) {
                    let sentence = format!("looking at {what} failed");
                    report.findings.push(found("no-answer", sentence));
                }
            }
        }
    }
}

/// What can be said when nothing is wrong: of what was looked at, and of nothing else.
fn nothing(about: &About, context: Option<&Context>) -> String {
    let Some(context) = context else {
        return "nothing is wrong here\n".to_owned();
    };
    let servers = match context.opened().as_slice() {
        [] if servers::usable(context).is_empty() => "there is no server to open".to_owned(),
        [] => "servers were not opened: `mcpshim doctor --servers`".to_owned(),
        [one] => format!("{one} was opened"),
        many => format!("{} were opened", many.join(", ")),
    };
    match about {
        About::All => format!("nothing is wrong here; {servers}\n"),
        About::Topic(Topic::Servers) => format!("nothing is wrong with servers; {servers}\n"),
        About::Topic(topic) => {
            let name = Topic::ALL.iter().find(|(_, other)| other == topic);
            let name = name.map_or("it", |(name, _)| name);
            format!(
                "nothing is wrong with {name}; only this is shown: `mcpshim doctor` shows all\n"
            )
        }
        About::Server(key) => format!("nothing is wrong with {key}; {servers}\n"),
    }
}

fn text(findings: &[&Finding], about: &About, context: Option<&Context>) -> String {
    let mut text = String::new();
    let own = findings.iter().filter(|finding| finding.follows.is_none());
    for finding in own.clone().filter(|finding| finding.level != Level::Note) {
        let word = match finding.level {
            Level::Problem => "problem:",
            Level::Warning => "warning:",
            Level::Note => "note:   ",
        };
        if !text.is_empty() {
            text.push('\n');
        }
        // servers and files of others speak here, too
        let sentence = text::visible(&finding.sentence);
        text.push_str(&format!("{word} {sentence} [{}]\n", finding.code));
        text.push_str(&format!("fix:     {}\n", text::visible(&finding.fix)));
        text.push_str(&format!("  {}\n", finding.meaning));
        for detail in &finding.details {
            text.push_str(&format!("  {}\n", text::visible(detail)));
        }
        let after = findings.iter().filter(|other| {
            other.follows == Some(finding.code)
                && (finding.subject.is_none() || finding.subject == other.subject)
        });
        for other in after {
            text.push_str(&format!(
                "  from this follows: {} [{}]\n",
                text::visible(&other.sentence),
                other.code
            ));
        }
    }
    if text.is_empty() {
        text = nothing(about, context);
    }
    for note in own.filter(|finding| finding.level == Level::Note) {
        text.push_str(&format!(
            "note:    {} [{}]\n",
            text::visible(&note.sentence),
            note.code
        ));
        if note.fix != finding::NOTHING {
            text.push_str(&format!("         {}\n", text::visible(&note.fix)));
        }
    }
    text
}

/// Says how it ended: 5 without a usable registry, 4 when nobody is recognised, 1 for all else.
fn ended(findings: &[&Finding]) -> Result<(), Failure> {
    let wrong = || {
        let all = findings.iter();
        all.filter(|finding| finding.level != Level::Note)
    };
    let Some(first) = wrong().next() else {
        return Ok(());
    };
    let own = wrong().filter(|finding| finding.follows.is_none());
    let more = own.clone().count();
    let word = match own.clone().all(|finding| finding.level == Level::Problem) {
        true => "problems",
        false => "things",
    };
    let sentence = match more {
        0 | 1 => first.sentence.clone(),
        many => format!("{many} {word}; first: {}", first.sentence),
    };
    let has =
        |exit: Exit| wrong().any(|finding| finding.level == Level::Problem && finding.exit == exit);
    let exit = if has(Exit::Registry) {
        Exit::Registry
    } else if has(Exit::NotSignedIn) {
        Exit::NotSignedIn
    } else {
        Exit::Failed
    };
    Err(Failure::new(exit, sentence).hint(first.fix.clone()))
}
