//! `mcpshim __ship`: the detached process that delivers records. Not for people.

use std::io;
use std::path::Path;

use mcpshim::batch::protocol::Enrolling;
use mcpshim::clock::{Now, SystemClock, SystemEntropy};
use mcpshim::config::Config;
use mcpshim::fetch;
use mcpshim::identity::{self, Caller};
use mcpshim::ids::StreamId;
use mcpshim::registry::Loaded;
use mcpshim::report::{Exit, Failure};
use mcpshim::serve::assemble;
use mcpshim::ship::{self, Ended, Frames, HttpLink, Kept, Records, Sender, Waiting};
use mcpshim::spool::{Backlog, Slice};
use mcpshim::{login, telemetry, vault};

use crate::history;

/// Deliver records to the collector, in the background
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// Start the process that stays, and end
    #[arg(long)]
    detach: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // it stays when the client that started us is gone, and must not hold what was the client's
    #[cfg(unix)]
    if args.detach {
        mcpshim::files::close_inherited();
    }
    let failed = |error: io::Error| Failure::from_error(Exit::Failed, &error);
    if args.detach {
        ship::leave_session();
        let program = std::env::current_exe().map_err(failed)?;
        return ship::spawn_stayer(&program).map_err(failed);
    }
    ship::leave_session();
    let config = mcpshim::config::load()?;
    let Some(_lock) = ship::lock(&config.state_dir).map_err(failed)? else {
        return Ok(());
    };
    telemetry::prepare(&config);
    if let Err(error) = telemetry::open() {
        // without a log the work is the same
        drop(error);
    }
    let mut records = Spooled::open(&config.state_dir);
    loop {
        // read anew each time round: the collector, the sign-in and the keys may have changed
        let config = mcpshim::config::load()?;
        match deliver(&config, &mut records, false, &mut |_| {}) {
            Ok(Ended::Reload) => {}
            Ok(Ended::Done | Ended::GaveUp) => return Ok(()),
            Err(failure) => {
                tracing::warn!(why = failure.in_one_line(), "Records are not delivered.");
                return Err(failure);
            }
        }
    }
}

/// Delivers once, by the settings and the verified registry of this machine.
pub(crate) fn deliver(
    config: &Config,
    records: &mut Spooled,
    flush: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<Ended, Failure> {
    let now = crate::now();
    let loaded = fetch::load(config, &now).map_err(|error| {
        Failure::from_error(Exit::Registry, &error)
            .context("the registry that names the collector cannot be used")
            .hint(error.hint())
    })?;
    let Some(collector) = &loaded.registry.org.collector else {
        return Err(Failure::new(
            Exit::Failed,
            "the registry names no collector: records stay on this machine",
        )
        .hint(format!(
            "ask {} to name one in org.yaml",
            loaded.registry.org.help
        )));
    };
    let client = fetch::client(&config.network, collector.ca_pem.as_deref())
        .map_err(|error| Failure::from_error(Exit::Failed, &error).hint(error.hint()))?;
    let mut link = HttpLink::new(&collector.url, client).map_err(|error| {
        Failure::from_error(Exit::Failed, &error)
            .hint("records go to https:// addresses only; correct the collector in org.yaml")
    })?;
    let key = vault::installation_key(&config.state_dir, &mut SystemEntropy)
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let identity = Identity::of(config, &loaded, &now);
    let sender = Sender {
        org: &config.org,
        machine_id: &config.machine_id,
        key: &key,
        who: identity.as_ref().map(Identity::enrolling),
        collector: &collector.url,
        state_dir: &config.state_dir,
        flush,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    runtime
        .block_on(ship::run(
            &sender,
            records,
            &mut link,
            &SystemClock::new(),
            &mut SystemEntropy,
            progress,
        ))
        .map_err(|error| Failure::from_error(Exit::Failed, &error))
}

/// Whose installation this is, with what proves it.
enum Identity {
    Agent {
        name: mcpshim::ids::AgentName,
        pair: Box<ring::signature::Ed25519KeyPair>,
        label: String,
    },
    Person {
        enrolment: login::Enrolment,
        label: String,
    },
}

impl Identity {
    /// Nobody recognised is no reason to keep records here: they wait at the collector, marked.
    fn of(config: &Config, loaded: &Loaded, now: &Now) -> Option<Self> {
        let caller = assemble::caller(config, &loaded.registry, now)
            .inspect_err(|failure| {
                tracing::info!(why = failure.in_one_line(), "Delivers without enrolment.");
            })
            .ok()?;
        match (caller, &config.agent) {
            (Caller::Agent { name, key, .. }, Some((_, file))) => {
                let secret = assemble::agent_key(&name, file).ok()?;
                let pair = identity::signing_key(secret.expose()).ok()?;
                Some(Self::Agent {
                    label: format!("agent {name} {key}"),
                    pair: Box::new(pair),
                    name,
                })
            }
            (
                Caller::Person {
                    issuer, subject, ..
                },
                _,
            ) => {
                // only until it enrolled: after that, and after its end, the collector knows
                let enrolment = login::enrolment(&config.state_dir).ok()??;
                Some(Self::Person {
                    label: format!("person {issuer} {subject}"),
                    enrolment,
                })
            }
            (Caller::Agent { .. }, None) => None,
        }
    }

    fn enrolling(&self) -> (Enrolling<'_>, String) {
        match self {
            Self::Agent { name, pair, label } => (Enrolling::Agent(name, pair), label.clone()),
            Self::Person { enrolment, label } => (
                Enrolling::Person(&enrolment.id_token, enrolment.salt.as_deref()),
                label.clone(),
            ),
        }
    }
}

/// The spool, as delivery sees it.
#[derive(Debug)]
pub(crate) struct Spooled {
    backlog: Backlog,
    state_dir: std::path::PathBuf,
}

impl Spooled {
    pub(crate) fn open(state_dir: &Path) -> Self {
        Self {
            backlog: Backlog::open(ship::spool_dir(state_dir)),
            state_dir: state_dir.to_owned(),
        }
    }
}

impl Records for Spooled {
    fn streams(&mut self) -> io::Result<Vec<Waiting>> {
        let states = self.backlog.streams()?;
        Ok(states
            .into_iter()
            .map(|state| Waiting {
                stream: state.id,
                next_unacked: state.next_unacked,
                last_seq: state.last_seq,
                live: state.live,
            })
            .collect())
    }

    fn read(
        &mut self,
        stream: StreamId,
        from_seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> io::Result<Option<Frames>> {
        let slice = self
            .backlog
            .read(stream, from_seq, max_records, max_bytes)?;
        Ok(slice.map(frames))
    }

    fn ack(&mut self, stream: StreamId, upto_seq: u64) -> io::Result<()> {
        self.backlog.ack(stream, upto_seq)
    }

    fn bodies(&mut self) -> io::Result<Vec<Kept>> {
        let bodies = self.backlog.bodies()?.into_iter();
        let kept = bodies.map(|body| Kept {
            bytes: body.bytes,
            stream: body.stream,
            seq: body.seq,
        });
        Ok(kept.collect())
    }

    fn keep_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()> {
        self.backlog.keep_body(stream, seq)
    }

    fn body(&mut self, stream: StreamId, seq: u64) -> io::Result<Option<Frames>> {
        Ok(self.backlog.body(stream, seq)?.map(frames))
    }

    fn drop_body(&mut self, stream: StreamId, seq: u64) -> io::Result<()> {
        self.backlog.drop_body(stream, seq)
    }

    fn tidy(&mut self, now: &Now) -> io::Result<()> {
        self.backlog.adopt(now)?;
        let held = history::Held::open(&self.state_dir);
        let collected = self.backlog.collect(now).map(drop);
        if let Err(error) = held.keep(&self.state_dir) {
            // the collector has them: only the list of this machine begins later
            tracing::debug!(%error, "Delivered calls are not kept for `audit show`.");
        }
        collected
    }
}

fn frames(slice: Slice) -> Frames {
    Frames {
        first_seq: slice.first_seq,
        last_seq: slice.last_seq,
        prev_hash: slice.prev_hash,
        last_hash: slice.last_hash,
        bytes: slice.frames,
    }
}
