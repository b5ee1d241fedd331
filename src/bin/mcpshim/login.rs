//! `mcpshim login`

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use mcpshim::batch::InstallationKey;
use mcpshim::batch::protocol::Enrolling;
use mcpshim::clock::{SystemClock, SystemEntropy, Utc};
use mcpshim::config::Config;
use mcpshim::fetch;
use mcpshim::identity::Caller;
use mcpshim::login::{self, LoginError, Progress, Renewal, Seat, SignedIn, Way, Wish};
use mcpshim::policy::SnapshotId;
use mcpshim::registry::doc::{IssuerDoc, Registry};
use mcpshim::registry::{Freshness, Verified};
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble::{assemble, caller};
use mcpshim::ship::{self, HttpLink};
use mcpshim::text;
use mcpshim::vault::{self, Vault};
use serde_json::json;
use zeroize::Zeroizing;

use crate::credential::Missing;
use crate::out;

/// The longest line that is read: no address we would take is longer.
const LINE_BYTES: usize = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  mcpshim login                   sign in in the browser
  mcpshim login --no-browser      print the address instead of opening it
  mcpshim login --code            over SSH: open the address on your own machine, then paste the
                                  address that the browser ends at
  ssh -L 8400:127.0.0.1:8400 box  over SSH with a tunnel: the browser comes back by itself
  mcpshim login --no-browser --port 8400
  mcpshim login --device          sign in with a code, in a browser anywhere

Exit codes: 0 signed in, 1 failed, 4 not signed in, 5 no usable registry.";

/// Sign in with your organisation's identity provider
///
/// Opens your browser, waits for you to come back, and keeps the sign-in: shims that are running
/// go on at once, and renew it silently while the provider lets them. A machine that runs as an
/// agent needs no sign-in.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
pub(crate) struct Args {
    /// Print the address instead of opening the browser; it works in any browser
    #[arg(long)]
    no_browser: bool,
    /// Read the address that the browser ended at from standard input; opens no browser
    #[arg(long)]
    code: bool,
    /// The port of 127.0.0.1 that the browser comes back to, for a tunnel that you made before
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Sign in by a code that is typed into a browser anywhere; the organisation must allow it
    #[arg(long, conflicts_with_all = ["no_browser", "code", "port"])]
    device: bool,
    /// The issuer, where the registry names several
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Renew the sign-in silently if its end is near, as running shims do, and open nothing
    #[arg(long, conflicts_with_all = ["no_browser", "code", "port", "device", "issuer"])]
    renew: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let config = crate::settings()?;
    if let Some((agent, _)) = &config.agent {
        if args.json {
            return out::print_json(&json!({"needed": false, "agent": agent}));
        }
        return out::print(&format!(
            "this machine runs as agent {agent}: nobody needs to sign in\n"
        ));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    runtime.block_on(async {
        let work = async {
            let registry = registry(&config).await?;
            if args.renew {
                renew(args, &config, &registry).await
            } else {
                sign_in(args, &config, &registry).await
            }
        };
        tokio::select! {
            ended = Box::pin(work) => ended,
            _ = tokio::signal::ctrl_c() => Err(Failure::new(
                Exit::Failed,
                "the sign-in was broken off; what was here before still holds",
            )),
        }
    })
}

/// The verified registry; the first one is fetched.
async fn registry(config: &Config) -> Result<Verified<Registry>, Failure> {
    let failed = |error: fetch::FetchError| {
        Failure::from_error(Exit::Registry, &error)
            .context("the registry that names the identity provider cannot be used")
            .hint(error.hint())
    };
    let loaded = match fetch::load(config, &crate::now()) {
        // one that was checked in the future: a clock was put right, and the next check says so
        Ok(loaded)
            if loaded.freshness == Freshness::Fresh
                && loaded.registry.checked <= crate::now().unix_s() =>
        {
            Ok(loaded)
        }
        // an old one may hold keys the provider does not sign with any more
        Ok(old) => match fetch::refresh(config, &SystemClock::new()).await {
            Ok(_) => fetch::load(config, &crate::now()),
            Err(_) => Ok(old),
        },
        Err(fetch::FetchError::Missing { .. }) => {
            fetch::refresh(config, &SystemClock::new())
                .await
                .map_err(failed)?;
            fetch::load(config, &crate::now())
        }
        Err(error) => Err(error),
    };
    Ok(loaded.map_err(failed)?.registry)
}

/// The issuer to sign in at: the one the registry names, or the one that was asked for.
fn issuer<'r>(registry: &'r Registry, wanted: Option<&str>) -> Result<&'r IssuerDoc, Failure> {
    let issuers = &registry.org.issuers;
    let help = &registry.org.help;
    let known: Vec<&str> = issuers.iter().map(|doc| doc.issuer.as_str()).collect();
    match (wanted, issuers.as_slice()) {
        (_, []) => Err(Failure::new(
            Exit::Failed,
            "the registry names no identity provider: nobody can sign in",
        )
        .hint(format!("ask {help} to add one under `issuers` in org.yaml"))),
        (None, [one]) => Ok(one),
        (None, _) => Err(Failure::new(
            Exit::Usage,
            "the registry names several identity providers",
        )
        .cause(known.join(", "))
        .hint("name one with --issuer URL")),
        (Some(wanted), _) => issuers
            .iter()
            .find(|doc| doc.issuer == wanted)
            .ok_or_else(|| {
                Failure::new(
                    Exit::Usage,
                    format!("the registry does not name the issuer {wanted:?}"),
                )
                .hint(format!("use one of: {}", known.join(", ")))
            }),
    }
}

/// The vault, as long as a person may need to unlock it.
pub(crate) fn vault(
    config: &Config,
    registry: Option<&Registry>,
) -> Result<Box<dyn Vault>, Failure> {
    let allowed = registry.map(|registry| registry.org.secret_stores);
    let patience = std::time::Duration::from_secs(60);
    vault::open(config, &allowed.unwrap_or_default(), patience).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context("there is no place to keep the sign-in")
            .hint(match error.is_absence() {
                true => no_place(registry),
                false => error.hint(),
            })
    })
}

/// What to do where there is no keychain: only the organisation can allow another place.
fn no_place(registry: Option<&Registry>) -> String {
    let help = registry.map_or("whoever runs the registry", |registry| &registry.org.help);
    format!(
        "ask {help} to write `secret_stores: {{key_file: true}}` into org.yaml and publish it: the \
         key then lies in a file of yours; or, on a desktop, install a keychain such as \
         gnome-keyring, and sign in to the desktop again"
    )
}

fn failure(error: &LoginError, help: &str) -> Failure {
    Failure::from_error(Exit::NotSignedIn, error).hint(error.hint(help))
}

async fn sign_in(args: &Args, config: &Config, registry: &Registry) -> Result<(), Failure> {
    let issuer = issuer(registry, args.issuer.as_deref())?;
    let help = &registry.org.help;
    let client = fetch::client(&config.network, None)
        .map_err(|error| Failure::from_error(Exit::Failed, &error).hint(error.hint()))?;
    // before anybody is sent to a browser: without a place for the tokens it would be in vain
    let mut vault = vault(config, Some(registry))?;
    let key = vault::installation_key(&config.state_dir, &mut SystemEntropy)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let way = match (args.device, args.no_browser || args.code) {
        (true, _) => Way::Device,
        (false, true) => Way::NoBrowser,
        (false, false) => Way::Browser,
    };
    let seat = Seat {
        state_dir: &config.state_dir,
        registry,
        client: &client,
    };
    // whoever opens the address themselves may do so on another machine
    let reads = args.code || (way == Way::NoBrowser && std::io::stdin().is_terminal());
    let pasted = reads.then(lines);
    // who is signed in now stays so, unless this works
    let before = caller(config, registry, &crate::now()).ok();
    let wish = Wish {
        issuer,
        way,
        installation: &key.public(),
        port: args.port.unwrap_or(0),
        pasted: pasted.as_ref(),
    };
    let signed_in = login::sign_in(
        &seat,
        &wish,
        vault.as_mut(),
        &SystemClock::new(),
        &mut SystemEntropy,
        &mut tell,
    )
    .await
    .map_err(|error| failure(&error, help).context(still(before.as_ref())))?;
    let enrolled = enrol(config, registry, &key).await;
    answer(args, &signed_in, &enrolled, help)?;
    if !args.json {
        let snapshot = assemble(config, SnapshotId(1), &crate::now());
        for missing in Missing::of(config, &snapshot) {
            out::note(&missing.to_string());
        }
    }
    Ok(())
}

/// What a sign-in that failed leaves.
fn still(before: Option<&Caller>) -> String {
    match before {
        Some(Caller::Person { display, .. }) => {
            let display = text::visible(display);
            format!("you are not signed in anew; you are still {display}")
        }
        Some(Caller::Agent { .. }) | None => "you are not signed in".to_owned(),
    }
}

/// What comes on standard input, line by line. The thread that reads ends with the process.
fn lines() -> login::Pasted {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let read = move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Zeroizing::new(String::with_capacity(LINE_BYTES));
            let most = u64::try_from(LINE_BYTES).unwrap_or(u64::MAX);
            match (&mut input).take(most).read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if tell.send(line).is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let thread = std::thread::Builder::new().name("paste".to_owned());
    if let Err(error) = thread.spawn(read) {
        out::warn(&format!("standard input is not read: {error}"));
    }
    tokio::sync::Mutex::new(told)
}

/// Makes this installation known to the collector at once; what fails is tried again with the
/// next records. Gives nothing where there is no collector.
async fn enrol(
    config: &Config,
    registry: &Registry,
    key: &InstallationKey,
) -> Option<Result<String, String>> {
    let collector = registry.org.collector.as_ref()?;
    let enrolment = login::enrolment(&config.state_dir).ok()??;
    let work = async {
        let client = fetch::client(&config.network, collector.ca_pem.as_deref())
            .map_err(|error| error.to_string())?;
        let mut link = HttpLink::new(&collector.url, client).map_err(|error| error.to_string())?;
        let who = Enrolling::Person(&enrolment.id_token, enrolment.salt.as_deref());
        ship::enrol(&config.org, key, &config.machine_id, &who, &mut link).await
    };
    let patience = std::time::Duration::from_secs(10);
    Some(
        tokio::time::timeout(patience, work)
            .await
            .unwrap_or_else(|_elapsed| Err("no answer in time".to_owned())),
    )
}

fn answer(
    args: &Args,
    signed_in: &SignedIn,
    enrolled: &Option<Result<String, String>>,
    help: &str,
) -> Result<(), Failure> {
    let Caller::Person {
        issuer,
        subject,
        display,
        roles,
        expires,
    } = &signed_in.caller
    else {
        return Err(Failure::new(Exit::Failed, "an agent does not sign in"));
    };
    if args.json {
        return out::print_json(&json!({
            "needed": true,
            "issuer": issuer,
            "subject": subject,
            "name": display,
            "roles": roles,
            "until": Utc(*expires).to_string(),
            "renews": signed_in.renews,
            "replaced": signed_in.replaced,
            "enrolled": matches!(enrolled, Some(Ok(_))),
        }));
    }
    let mut text = String::new();
    if let Some(before) = &signed_in.replaced {
        text.push_str(&format!("{before} is signed out\n"));
    }
    if roles.is_empty() {
        text.push_str(&format!(
            "signed in as {display}, but none of your groups has a role: no tool can be used; \
             ask {help}\n"
        ));
    } else {
        let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        text.push_str(&format!(
            "signed in as {display}, roles: {}\n",
            roles.join(", ")
        ));
    }
    let renews = if signed_in.renews {
        "renewed silently"
    } else {
        "then sign in again: the provider gave nothing to renew it with"
    };
    text.push_str(&format!("until {}, {renews}\n", Utc(*expires)));
    out::print(&text)?;
    if let Some(Err(why)) = enrolled {
        out::warn(&format!(
            "the collector does not know this device yet ({why}); it is told again with the \
             next records"
        ));
    }
    Ok(())
}

async fn renew(args: &Args, config: &Config, registry: &Registry) -> Result<(), Failure> {
    let help = &registry.org.help;
    let client = fetch::client(&config.network, None)
        .map_err(|error| Failure::from_error(Exit::Failed, &error).hint(error.hint()))?;
    let mut vault = vault(config, Some(registry))?;
    let seat = Seat {
        state_dir: &config.state_dir,
        registry,
        client: &client,
    };
    let renewal = login::renew(
        &seat,
        vault.as_mut(),
        &SystemClock::new(),
        &mut SystemEntropy,
    )
    .await;
    let (renewed, until) = match renewal {
        Renewal::Current { expires_s } => (false, expires_s),
        Renewal::Renewed { expires_s } => (true, expires_s),
        Renewal::Nobody => {
            return Err(
                Failure::new(Exit::NotSignedIn, "nobody is signed in").hint("run `mcpshim login`")
            );
        }
        Renewal::Later(error) => {
            return Err(failure(&error, help).context("the sign-in is not renewed now"));
        }
        Renewal::SignedOut(error) => {
            return Err(failure(&error, help).context("the sign-in was ended by the provider"));
        }
        Renewal::Stays(error) => {
            return Err(failure(&error, help).context("the sign-in cannot be renewed silently"));
        }
    };
    let until = Utc(until).to_string();
    if args.json {
        return out::print_json(&json!({"renewed": renewed, "until": until}));
    }
    let word = if renewed { "now" } else { "still" };
    out::print(&format!("the sign-in {word} lasts until {until}\n"))
}

/// Tells the person who waits, beside the answer.
fn tell(progress: Progress<'_>) {
    let text = match progress {
        Progress::Open {
            url, opened: true, ..
        } => format!(
            "Your browser opens to sign in. If it does not, open this address:\n{url}\nWaiting \
             for you to come back…"
        ),
        Progress::Open {
            url,
            opened: false,
            redirect,
            pasting,
        } => {
            let elsewhere = match pasting {
                true => format!(
                    "In a browser on another machine it ends at a page that does not load. Copy \
                     the address of that page, which begins with {redirect}, and paste it here.\n"
                ),
                false => "In a browser on another machine: `mcpshim login --code`.\n".to_owned(),
            };
            format!(
                "Open this address to sign in:\n{url}\n{elsewhere}Waiting for you to come back…"
            )
        }
        Progress::Type { url, code } => format!(
            "Open {url} in any browser and type this code, if you asked for it yourself:\n{code}\n\
             Waiting for you to finish there…"
        ),
        Progress::Strange(what) => format!("note: {what}"),
        Progress::Verifying => "Verifying…".to_owned(),
        Progress::Waiting { left_s } => {
            format!("Still waiting, for {} more minutes…", left_s.div_ceil(60))
        }
    };
    out::note(&text);
}
