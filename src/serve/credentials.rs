//! Credentials for links: fetched from the vault on a thread of their own.
//!
//! A keychain may show a dialogue or hang, so nobody waits for it but the link that needs it.
//! A credential goes only to a server that the registry which holds now names for it, by the same
//! entry: same id, same transport, same place. The driver opens the link after the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::identity::Owner;
use crate::ids::{CredentialId, LinkId};
use crate::limits;
use crate::policy::{Snapshot, who};
use crate::registry::doc::{SecretStoresDoc, ServerDoc};
use crate::report::{Exit, Failure};
use crate::secret::{Scrubber, Secret};
use crate::session::CredentialUse;
use crate::vault::{self, ItemId, Vault, VaultError};

/// What became of one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) link: LinkId,
    pub(super) server: Arc<ServerDoc>,
    pub(super) result: Result<(CredentialUse, Secret), Failure>,
}

/// What the thread has said.
#[derive(Debug)]
pub(super) enum News {
    /// A credential, or why there is none.
    Answer(Answer),
    /// Which value of each credential is kept now.
    Serials(BTreeMap<(Owner, CredentialId), u64>),
}

/// Fetches credentials. Its thread starts with the first request and ends with it.
#[derive(Debug)]
pub(super) struct Keeper {
    config: Option<Config>,
    clock: SystemClock,
    scrubber: Scrubber,
    thread: Option<Sender<Job>>,
    answers: (mpsc::UnboundedSender<Told>, mpsc::UnboundedReceiver<Told>),
    /// Who waits, by the number of the request.
    waiting: BTreeMap<u64, (LinkId, Arc<ServerDoc>)>,
    asked: u64,
    /// Looks at the serials that were asked for.
    looks: usize,
}

/// What the thread is to do.
#[derive(Debug)]
enum Job {
    Fetch(Ask),
    Look,
}

/// One request to the thread.
#[derive(Debug)]
struct Ask {
    number: u64,
    credential: CredentialId,
    owner: Owner,
    /// The owner's name, for sentences.
    who: String,
    server: Arc<ServerDoc>,
    allowed: SecretStoresDoc,
}

#[derive(Debug)]
enum Told {
    Fetched(u64, Result<(CredentialUse, Secret), Failure>),
    /// `None` where the vault cannot be read now.
    Looked(Option<BTreeMap<(Owner, CredentialId), u64>>),
}

impl Keeper {
    pub(super) fn new(config: Option<Config>, clock: SystemClock, scrubber: Scrubber) -> Self {
        Self {
            config,
            clock,
            scrubber,
            thread: None,
            answers: mpsc::unbounded_channel(),
            waiting: BTreeMap::new(),
            asked: 0,
            looks: 0,
        }
    }

    /// Asks for a server's credential. [`Keeper::poll_answer`] gives it, unless the link is
    /// forgotten before.
    pub(super) fn acquire(
        &mut self,
        link: LinkId,
        server: Arc<ServerDoc>,
        snapshot: Option<&Snapshot>,
    ) {
        self.asked += 1;
        let number = self.asked;
        self.waiting.insert(number, (link, Arc::clone(&server)));
        if let Err(failure) = self.ask(number, server, snapshot) {
            // both ends are ours
            let told = Told::Fetched(number, Err(failure));
            self.answers.0.send(told).unwrap_or_default();
        }
    }

    fn ask(
        &mut self,
        number: u64,
        server: Arc<ServerDoc>,
        snapshot: Option<&Snapshot>,
    ) -> Result<(), Failure> {
        let moved = || Failure::new(Exit::Registry, "the registry has another entry for it now");
        let snapshot = snapshot.ok_or_else(moved)?;
        let registry = snapshot.registry().ok_or_else(moved)?;
        let named = registry.servers.get(&server.key).filter(|now| {
            now.id == server.id
                && now.credential == server.credential
                && now.transport == server.transport
        });
        let credential = named.and_then(|now| now.credential.as_ref());
        let credential = credential.ok_or_else(moved)?.id.clone();
        let allowed = registry.org.secret_stores;
        // each caller has its own: never what another left here
        let nobody =
            || Failure::new(Exit::NotSignedIn, "nobody is signed in").hint("run `mcpshim login`");
        let caller = snapshot.caller().ok_or_else(nobody)?;
        let ask = Ask {
            number,
            credential,
            owner: caller.owner(),
            who: who(snapshot),
            server,
            allowed,
        };
        let thread = match &self.thread {
            Some(thread) => thread,
            None => {
                let config = self.config.clone().ok_or_else(moved)?;
                let (thread, inbox) = channel();
                let work = Work {
                    config,
                    clock: self.clock.clone(),
                    scrubber: self.scrubber.clone(),
                    vault: None,
                };
                let outbox = self.answers.0.clone();
                std::thread::Builder::new()
                    .name("credentials".to_owned())
                    .spawn(move || work.run(&inbox, &outbox))
                    .map_err(|error| Failure::from_error(Exit::Failed, &error))?;
                self.thread.insert(thread)
            }
        };
        let sent = thread.send(Job::Fetch(ask));
        if sent.is_err() {
            // the thread is gone: the next request starts another
            self.thread = None;
            return Err(
                Failure::new(Exit::Failed, "the credentials cannot be read").hint("try again")
            );
        }
        Ok(())
    }

    /// The vault has changed: asks which values it keeps now, where any was given before.
    pub(super) fn look(&mut self) {
        if let Some(thread) = &self.thread
            && thread.send(Job::Look).is_ok()
        {
            self.looks += 1;
        }
    }

    /// The next that somebody still waits for.
    pub(super) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        if self.waiting.is_empty() && self.looks == 0 {
            return Poll::Pending;
        }
        while let Poll::Ready(Some(told)) = self.answers.1.poll_recv(cx) {
            match told {
                Told::Fetched(number, result) => {
                    if let Some((link, server)) = self.waiting.remove(&number) {
                        return Poll::Ready(News::Answer(Answer {
                            link,
                            server,
                            result,
                        }));
                    }
                }
                Told::Looked(serials) => {
                    self.looks = self.looks.saturating_sub(1);
                    if let Some(serials) = serials {
                        return Poll::Ready(News::Serials(serials));
                    }
                }
            }
        }
        Poll::Pending
    }

    /// A link does not wait any more.
    pub(super) fn forget(&mut self, link: LinkId) {
        self.waiting.retain(|_, (one, _)| *one != link);
    }
}

/// The thread's own.
struct Work {
    config: Config,
    clock: SystemClock,
    scrubber: Scrubber,
    vault: Option<Box<dyn Vault>>,
}

impl Work {
    fn run(mut self, inbox: &Receiver<Job>, outbox: &mpsc::UnboundedSender<Told>) {
        while let Ok(job) = inbox.recv() {
            let told = match job {
                Job::Fetch(ask) => Told::Fetched(ask.number, self.fetch(&ask)),
                Job::Look => Told::Looked(self.serials()),
            };
            if outbox.send(told).is_err() {
                return;
            }
        }
    }

    fn serials(&mut self) -> Option<BTreeMap<(Owner, CredentialId), u64>> {
        let kept = self.vault.as_mut()?.list();
        let kept = kept.inspect_err(|error| tracing::debug!(%error, "The vault is not read."));
        let credential = |(item, facts): (ItemId, vault::Facts)| match item {
            ItemId::Credential(owner, id) => Some(((owner, id), facts.serial)),
            ItemId::InstallationKey | ItemId::Tokens(_) | ItemId::Unowned(_) => None,
        };
        Some(kept.ok()?.into_iter().filter_map(credential).collect())
    }

    fn fetch(&mut self, ask: &Ask) -> Result<(CredentialUse, Secret), Failure> {
        let id = ItemId::Credential(ask.owner, ask.credential.clone());
        // nothing is made, and no keychain asked, for a vault that cannot hold it
        if self.vault.is_none() && !vault::exists(&self.config) {
            return Err(missing(ask));
        }
        // a vault that was moved, replaced or made anew since is opened again, once
        let (item, store) = match self.look(&id, ask.allowed) {
            Err(_) if self.vault.take().is_some() => self.look(&id, ask.allowed),
            other => other,
        }
        .map_err(|error| closed(&error))?;
        let item = item.ok_or_else(|| missing(ask))?;
        self.scrubber.add(&item.value);
        if let Some(vault) = &mut self.vault
            && let Err(error) = vault.used(&id, self.clock.now().unix_s())
        {
            tracing::debug!(%error, "That a credential was used is not noted.");
        }
        let credential = CredentialUse {
            id: ask.credential.clone(),
            store,
            serial: item.facts.serial,
            owner: ask.owner,
        };
        Ok((credential, item.value))
    }

    fn look(
        &mut self,
        id: &ItemId,
        allowed: SecretStoresDoc,
    ) -> Result<(Option<vault::Item>, &'static str), VaultError> {
        let vault = match &mut self.vault {
            Some(vault) => vault,
            none => {
                let patience = Duration::from_millis(limits::KEYCHAIN_SERVE_MS);
                none.insert(vault::open(&self.config, &allowed, patience)?)
            }
        };
        Ok((vault.get(id)?, vault.store().as_str()))
    }
}

fn closed(error: &VaultError) -> Failure {
    Failure::from_error(Exit::Failed, error).hint(error.hint())
}

fn missing(ask: &Ask) -> Failure {
    Failure::new(Exit::NotSignedIn, format!("it is not set for {}", ask.who))
        .hint(format!("run `mcpshim credential set {}`", ask.server.key))
}

/// A failure as a phrase that follows the server's key.
pub(super) fn phrase(server: &ServerDoc, failure: &Failure) -> String {
    let id = server.credential.as_ref().map(|doc| doc.id.as_str());
    let id = id.unwrap_or_default();
    let why = failure.in_one_line();
    match &failure.hint {
        Some(hint) => format!("needs the credential {id}: {why}; {hint}"),
        None => format!("needs the credential {id}: {why}"),
    }
}
