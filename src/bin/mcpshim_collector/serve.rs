//! `mcpshim-collector serve`

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mcpshim::clock::{SystemClock, SystemEntropy};
use mcpshim::collector::server::{Listen, ServeError, Server, publish_url};
use mcpshim::collector::store::{Store, StoreError};
use mcpshim::collector::watch::Watch;
use mcpshim::fetch::certificate;
use mcpshim::ids::OrgId;
use mcpshim::report::{Exit, Failure};

use super::init::{SETTINGS_FORMAT, Settings, root_path, settings_path};

/// Take in what the machines send, and keep it.
///
/// Prints the address it is bound to once it serves. Ends on SIGTERM or SIGINT, when what is
/// under way is finished.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  mcpshim-collector serve --data /srv/mcpshim --listen 0.0.0.0:443 \\\n    --tls-cert chain.pem --tls-key key.pem\n  mcpshim-collector serve --data ./data --listen 127.0.0.1:0 --org example \\\n    --registry file:///srv/registry/ --root trust/root.json"
)]
pub(crate) struct Args {
    /// The data directory; made if there is none.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The address to listen on; port 0 takes a free one. Other machines can reach it only with TLS.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Certificate chain for TLS, a PEM file. A self-signed one needs `basicConstraints=CA:FALSE`,
    /// which `openssl req -x509` does not give it by itself.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, a PEM file.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The organisation, unless `init` wrote it down.
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// Where the signed registry is, unless `init` wrote it down.
    #[arg(long, value_name = "URL")]
    registry: Option<String>,
    /// The root metadata to trust, unless `init` copied it.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// What to log, to standard error: `error`, `warn`, `info` or `debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: tracing::Level,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    tracing_subscriber::fmt()
        .with_max_level(args.log)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let settings = settings(&args)?;
    let missing = |what: &str| {
        Failure::new(Exit::Usage, format!("{what} is not known")).hint(format!(
            "give --{what}, or run `mcpshim-collector init --data {}` once",
            args.data.display()
        ))
    };
    let org = args
        .org
        .or(settings.as_ref().map(|s| s.org.clone()))
        .ok_or_else(|| missing("org"))?;
    let registry = args
        .registry
        .or(settings.as_ref().map(|s| s.registry.clone()))
        .ok_or_else(|| missing("registry"))?;
    let root_path = args.root.unwrap_or_else(|| root_path(&args.data));
    let root = std::fs::read(&root_path).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context(format!("cannot read {}", root_path.display()))
            .hint("give --root, the root.json that `mcpshim-admin key new` wrote to trust/")
    })?;
    mcpshim::collector::files::raise_open_files();
    let store = Store::open(&args.data, &org).map_err(|error| {
        let failure = Failure::from_error(Exit::Failed, &error);
        match error {
            StoreError::Busy(_) => failure.hint("end the other one first, or use another --data"),
            StoreError::Org { .. } => failure.hint("use another --data, or correct --org"),
            _ => failure,
        }
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(32)
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let listen = Listen {
        address: args.listen,
        tls: args.tls_cert.zip(args.tls_key),
    };
    let data = args.data;
    runtime.block_on(async move {
        let clock = Arc::new(SystemClock::new());
        let watch = Watch::open(&data, &org, &registry, root, &*clock)
            .await
            .map_err(|error| {
                // the advice is for a machine's settings; here the registry is given by a flag
                let hint = by_flags(error.hint());
                Failure::from_error(Exit::Registry, &error)
                    .context("the collector has no registry to judge by")
                    .hint(hint)
            })?;
        let server = Server::bind(&listen, store, watch, clock, &mut SystemEntropy)
            .await
            .map_err(|error| {
                let failure = Failure::from_error(Exit::Failed, &error);
                match error {
                    ServeError::Plain(_) => {
                        failure.hint("give --tls-cert and --tls-key, or listen on 127.0.0.1")
                    }
                    ServeError::Tls { why, .. } if why == certificate::CA_AS_SERVER => {
                        failure.hint(format!("for example: {}", certificate::SELF_SIGNED))
                    }
                    _ => failure,
                }
            })?;
        let url = server
            .url()
            .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
        publish_url(&data, &url).map_err(|error| Failure::from_error(Exit::Failed, &error))?;
        let end = end().map_err(|error| Failure::from_error(Exit::Failed, &error))?;
        println!("listening on {url}");
        // whoever started us may have closed its end already; that is no reason to stop
        drop(std::io::stdout().flush());
        server.run(end).await;
        Ok(())
    })
}

/// Advice about a machine's settings, in the flags that give the same here.
fn by_flags(hint: &str) -> String {
    [
        (" in `mcpshim config`", ""),
        (" in the configuration", ""),
        ("`org`", "`--org`"),
        ("`registry_url`", "`--registry`"),
        ("`root`", "`--root`"),
    ]
    .iter()
    .fold(hint.to_owned(), |hint, (setting, flag)| {
        hint.replace(setting, flag)
    })
}

fn settings(args: &Args) -> Result<Option<Settings>, Failure> {
    let path = settings_path(&args.data);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::from_error(Exit::Failed, &error)
                .context(format!("cannot read {}", path.display())));
        }
    };
    let settings: Settings = serde_json::from_slice(&text).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .context(format!("{} is damaged", path.display()))
            .hint("run `mcpshim-collector init` again with the same --data")
    })?;
    if settings.min_reader > SETTINGS_FORMAT {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} was written by a newer mcpshim-collector",
                path.display()
            ),
        ));
    }
    Ok(Some(settings))
}

#[cfg(unix)]
fn end() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn end() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async {
        drop(tokio::signal::ctrl_c().await);
    })
}
