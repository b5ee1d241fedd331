//! Signing in: OpenID Connect in the browser or by device code, silent renewal, signing out.
//!
//! The provider is one that the signed registry names; its keys stand there too, and
//! [`identity::person`] alone says who somebody is. Here are only the ways to get a token and to
//! keep it: authorization code with a proof key on a loopback listener (RFC 6749, 7636, 8252, 9207,
//! OpenID Connect Core), device code where the organisation allows it (RFC 8628), refresh,
//! revocation (RFC 7009).
//!
//! | stored | losing it costs | who can write it gains |
//! |---|---|---|
//! | `session.claims`, the ID token | a new sign-in | nothing beyond a token the provider signed |
//! | `session.enrol`, the same with the salt of its nonce | a new sign-in, if the collector does not know this device yet | nothing: a collector takes it only with the installation's key |
//! | `ItemId::Tokens` in the vault | silent renewal; a new sign-in at its end | nothing: what a renewal brings must name the same person |
//!
//! No token is ever printed: errors hold the provider's codes and sentences, cut and without
//! controls, and types that hold tokens have no `Debug`.
#![warn(missing_docs)]

mod browser;
mod device;
mod http;
mod kept;
mod listener;
mod logout;
mod page;
mod provider;
mod renew;
mod token;

use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

pub use self::browser::open;
pub use self::kept::{Enrolment, claims, claims_path, enrolment};
pub use self::logout::{SignedOut, sign_out};
pub use self::renew::{Life, Renewal, is_due, life, renew};

use self::kept::Kept;
use self::listener::{Answered, Browser, Expected, Heard, Listener};
use self::token::Tokens;
use crate::batch::Installation;
use crate::batch::protocol;
use crate::clock::{Clock, Entropy, Utc};
use crate::identity::{self, Caller, IdentityError};
use crate::ids::Digest;
use crate::limits;
use crate::registry::doc::{IssuerDoc, Registry};
use crate::secret::Secret;
use crate::vault::{Vault, VaultError};

/// Where a sign-in happens: this machine's state, the verified registry, and the way out.
#[derive(Debug)]
pub struct Seat<'a> {
    /// The state directory.
    pub state_dir: &'a Path,
    /// The verified registry.
    pub registry: &'a Registry,
    /// The HTTP client; it follows no redirect.
    pub client: &'a reqwest::Client,
}

/// What sign-in is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The issuer of the registry.
    pub issuer: &'a IssuerDoc,
    /// In which way.
    pub way: Way,
    /// The public key of this installation: the nonce of the ID token is made of it, so that the
    /// token enrols this installation at a collector and no other.
    pub installation: &'a Installation,
    /// The port of the loopback that the browser comes back to; 0 for a free one.
    pub port: u16,
    /// What a person pastes: the address a browser on another machine ended at.
    pub pasted: Option<&'a Pasted>,
}

/// Lines of a person, as they come.
pub type Pasted = tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Zeroizing<String>>>;

/// How to sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a browser on this machine, opened by us.
    Browser,
    /// By a code that is typed into a browser anywhere.
    Device,
    /// In a browser that the person opens.
    NoBrowser,
}

/// What to tell the person who waits.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Open this page.
    Open {
        /// Its address.
        url: &'a str,
        /// Whether the browser was asked to.
        opened: bool,
        /// Where the browser ends.
        redirect: &'a str,
        /// Whether the address it ends at may be pasted here.
        pasting: bool,
    },
    /// Open this page anywhere and type the code.
    Type {
        /// Its address.
        url: &'a str,
        /// The code.
        code: &'a str,
    },
    /// Something came that was not taken.
    Strange(&'a str),
    /// The browser is back: the tokens are fetched and verified.
    Verifying,
    /// Still nothing.
    Waiting {
        /// How long it goes on, in seconds.
        left_s: u64,
    },
}

/// A sign-in that worked.
#[derive(Debug)]
pub struct SignedIn {
    /// Who.
    pub caller: Caller,
    /// Whether it can be renewed silently.
    pub renews: bool,
    /// The name of another person who was signed in here before.
    pub replaced: Option<String>,
}

/// Why somebody is not signed in, or a sign-in not renewed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The ID token that was just given is over already.
    #[error(
        "the clock of this machine is ahead of that of {issuer}, whose new ID token ended at {}",
        Utc(*ended_s)
    )]
    Ahead {
        /// Which issuer.
        issuer: String,
        /// When the token ends by its own clock.
        ended_s: u64,
    },
    /// Another process has changed the sign-in for the whole time.
    #[error("another process is changing the sign-in")]
    Busy,
    /// The provider refused.
    #[error("{issuer} refused: {code}{}", if description.is_empty() { String::new() } else { format!(" ({description})") })]
    Declined {
        /// Which issuer.
        issuer: String,
        /// Its code.
        code: String,
        /// Its words.
        description: String,
    },
    /// The organisation does not allow the device flow at this issuer.
    #[error("signing in by device code is not allowed at {issuer}")]
    DeviceForbidden {
        /// Which issuer.
        issuer: String,
    },
    /// The provider has no device flow.
    #[error("{issuer} does not offer signing in by device code")]
    DeviceUnknown {
        /// Which issuer.
        issuer: String,
    },
    /// The file system refused.
    #[error("cannot use {}", path.display())]
    Disk {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token is refused.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The tokens have no form that can be kept.
    #[error("the tokens cannot be written down")]
    Kept,
    /// No listener on the loopback.
    #[error("cannot listen on {} for the browser to come back", listener::place(*port))]
    Listen {
        /// The port that was asked for; 0 for any.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The answer does not come from the issuer that was asked (RFC 9207).
    #[error("the answer in the browser does not come from {issuer}{}", said.as_ref().map_or_else(|| ": it does not say from whom it comes".to_owned(), |said| format!(", but says it comes from {said:?}")))]
    MixUp {
        /// The issuer that was asked.
        issuer: String,
        /// Who it says it is.
        said: Option<String>,
    },
    /// The provider is not reached, or in trouble.
    #[error("{what} cannot be reached ({cause})")]
    Network {
        /// Who.
        what: &'static str,
        /// Why.
        cause: String,
    },
    /// The provider gave no ID token.
    #[error("{issuer} gave no ID token")]
    NoIdToken {
        /// Which issuer.
        issuer: String,
    },
    /// The provider says itself that it cannot answer now.
    #[error("{issuer} is down: it answers with status {status}")]
    Down {
        /// Which issuer.
        issuer: String,
        /// 429, or one above 499.
        status: u16,
    },
    /// Nothing to renew with.
    #[error("{issuer} gave nothing to renew the sign-in with")]
    NoRefreshToken {
        /// Which issuer.
        issuer: String,
    },
    /// The provider cannot revoke.
    #[error("{issuer} does not offer to revoke tokens")]
    NoRevocation {
        /// Which issuer.
        issuer: String,
    },
    /// The answer holds nothing.
    #[error("the answer in the browser holds neither a code nor an error")]
    Nothing,
    /// The provider does not check proof keys.
    #[error("{issuer} does not say that it checks proof keys (PKCE with S256){}", if *silent { "" } else { ", but names other methods" })]
    ProofKey {
        /// Which issuer.
        issuer: String,
        /// Whether it says nothing at all of proof keys.
        silent: bool,
    },
    /// The provider is not what the registry says, or answers what it should not.
    #[error("{issuer} cannot be used: {why}")]
    Provider {
        /// Which issuer.
        issuer: String,
        /// Why.
        why: String,
    },
    /// A token of another person or sign-in came.
    #[error("the provider gave a token that is not this sign-in's: {what}")]
    Swapped {
        /// In what.
        what: &'static str,
    },
    /// Nobody signed in.
    #[error("nobody signed in within {} minutes", limits::LOGIN_MS / 60_000)]
    TimeOut,
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl LoginError {
    /// What to do next; `help` is whom the organisation says to ask.
    #[must_use]
    pub fn hint(&self, help: &str) -> String {
        match self {
            Self::Ahead { .. } | Self::Identity(IdentityError::Early { .. }) => {
                "correct the clock of this machine, then run `mcpshim login` again".to_owned()
            }
            Self::Busy => "try again in a minute".to_owned(),
            Self::Declined { code, .. } if code == "access_denied" => {
                format!("sign in with an account of your organisation, or ask {help}")
            }
            Self::Declined { code, .. } if code == "invalid_grant" => {
                "run `mcpshim login`".to_owned()
            }
            Self::Declined { code, .. } if code == "expired_token" => {
                "run `mcpshim login --device` again, and type the code sooner".to_owned()
            }
            Self::Declined { .. } | Self::Nothing | Self::NoIdToken { .. } => {
                format!("run `mcpshim login` again; if it stays so, ask {help}")
            }
            Self::DeviceForbidden { .. } => "run `mcpshim login`, or on a machine without a \
                browser `mcpshim login --code`"
                .to_owned(),
            Self::DeviceUnknown { .. } => "run `mcpshim login --code`".to_owned(),
            Self::Disk { .. } | Self::Kept => {
                "check the owner, the permissions and the free space of the file".to_owned()
            }
            Self::Identity(_) => format!("ask {help}"),
            Self::Listen { port: 0, .. } => {
                "check that this machine may listen on its own loopback address".to_owned()
            }
            Self::Listen { port, .. } => format!(
                "end the program that uses port {port}, perhaps another `mcpshim login`, or name \
                 another with `--port`"
            ),
            Self::MixUp { .. } => format!(
                "do not use that browser tab again; run `mcpshim login`, and tell {help} if it \
                 happens again"
            ),
            Self::Down { .. } => {
                format!("try again in a few minutes; if it stays so, ask {help}")
            }
            Self::Network { .. } => "check the network, and run `mcpshim login` again".to_owned(),
            Self::NoRefreshToken { .. } => {
                "sign in again with `mcpshim login` when it ends".to_owned()
            }
            Self::NoRevocation { .. } => {
                "the tokens end by themselves; this machine holds none any more".to_owned()
            }
            Self::ProofKey { silent: true, .. } => format!(
                "if it does check them (Entra ID does, and does not say so), {help} can write \
                 `pkce_unadvertised: true` beside the issuer in org.yaml"
            ),
            Self::ProofKey { silent: false, .. } | Self::Provider { .. } => {
                format!("ask {help} to compare the issuer in org.yaml with its provider")
            }
            Self::Swapped { .. } => "run `mcpshim login`".to_owned(),
            Self::TimeOut => "run `mcpshim login` again".to_owned(),
            Self::Vault(error) => error.hint(),
        }
    }
}

/// Signs in at an issuer of the registry, and keeps what that brings.
///
/// # Errors
/// [`LoginError`]. Until the last step nothing on this machine changes.
pub async fn sign_in(
    seat: &Seat<'_>,
    wish: &Wish<'_>,
    vault: &mut dyn Vault,
    clock: &dyn Clock,
    entropy: &mut dyn Entropy,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<SignedIn, LoginError> {
    let Wish { issuer, way, .. } = *wish;
    if way == Way::Device && !issuer.device_flow {
        return Err(LoginError::DeviceForbidden {
            issuer: issuer.issuer.clone(),
        });
    }
    let provider = provider::discover(seat.client, &issuer.issuer).await?;
    let patience = Duration::from_millis(limits::LOGIN_MS);
    let deadline = tokio::time::Instant::now() + patience;
    let keeper = Keeper {
        seat,
        issuer,
        vault,
        clock,
    };
    if way == Way::Device {
        let fresh = device::tokens(seat.client, &provider, issuer, deadline, progress).await?;
        progress(Progress::Verifying);
        return keeper.keep(&fresh, None, entropy).await;
    }
    provider.checks_proof_key(issuer)?;
    let salt = random(entropy);
    let nonce = protocol::login_nonce(wish.installation, &salt);
    let state = random(entropy);
    let verifier = Zeroizing::new(random(entropy));
    let expected = Expected {
        state: state.clone(),
        issuer: issuer.issuer.clone(),
        names_itself: provider.names_itself,
    };
    let mut listener = Listener::start(expected.clone(), wish.port).await?;
    let redirect_uri = listener.redirect_uri();
    let mut url = provider.authorize.clone();
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &issuer.client_id)
        .append_pair("redirect_uri", &redirect_uri)
        .append_pair("scope", &provider.scopes(issuer))
        .append_pair("state", &state)
        .append_pair("nonce", &nonce)
        .append_pair("code_challenge", &challenge(&verifier))
        .append_pair("code_challenge_method", "S256");
    let opened = way == Way::Browser && open(url.as_str());
    progress(Progress::Open {
        url: url.as_str(),
        opened,
        redirect: &redirect_uri,
        pasting: wish.pasted.is_some(),
    });
    let paste = Paste {
        lines: wish.pasted,
        redirect_uri: &redirect_uri,
        expected: &expected,
    };
    let (answered, browser) = answer(&mut listener, &paste, deadline, progress).await?;
    progress(Progress::Verifying);
    let ended = async {
        let code = code(answered, &issuer.issuer)?;
        let code = std::str::from_utf8(code.expose()).unwrap_or_default();
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", verifier.as_str()),
        ];
        let fresh = token::request(seat.client, &provider, &issuer.client_id, &form)
            .await?
            .map_err(|refusal| refusal.into_error(&issuer.issuer))?;
        keeper.keep(&fresh, Some((nonce, salt)), entropy).await
    }
    .await;
    // whoever pasted reads the terminal
    if let Some(browser) = browser {
        let still = is_signed_in(seat, clock);
        show(browser, &ended, still, &seat.registry.org.help).await;
    }
    ended
}

/// What a person may paste, and what it must be.
struct Paste<'a> {
    lines: Option<&'a Pasted>,
    redirect_uri: &'a str,
    expected: &'a Expected,
}

impl Paste<'_> {
    /// The next thing that was pasted; never, where nobody can.
    async fn next(&self) -> Result<Answered, &'static str> {
        let Some(lines) = self.lines else {
            return std::future::pending().await;
        };
        let line = lines.lock().await.recv().await;
        match line {
            // standard input has ended: the browser may still come back
            None => std::future::pending().await,
            Some(line) => listener::pasted(&line, self.redirect_uri, self.expected),
        }
    }
}

/// 256 random bits as 43 characters: fits a state, a salt and a code verifier (RFC 7636 §4.1).
fn random(entropy: &mut dyn Entropy) -> String {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy.fill(bytes.as_mut());
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

/// RFC 7636 §4.2.
fn challenge(verifier: &str) -> String {
    BASE64URL_NOPAD.encode(&Digest::of(verifier.as_bytes()).0)
}

/// Waits for the browser to come back, or for what a person brings back from one elsewhere.
async fn answer(
    listener: &mut Listener,
    paste: &Paste<'_>,
    deadline: tokio::time::Instant,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(Answered, Option<Browser>), LoginError> {
    loop {
        let now = tokio::time::Instant::now();
        let word = (now + Duration::from_millis(limits::LOGIN_WORD_MS)).min(deadline);
        tokio::select! {
            heard = listener.heard() => match heard? {
                Heard::Answer(answered, browser) => return Ok((answered, Some(browser))),
                Heard::Strange(what) => progress(Progress::Strange(what)),
            },
            pasted = paste.next() => match pasted {
                Ok(answered) => return Ok((answered, None)),
                Err(what) => progress(Progress::Strange(what)),
            },
            () = tokio::time::sleep_until(word) => {
                let now = tokio::time::Instant::now();
                if now >= deadline {
                    return Err(LoginError::TimeOut);
                }
                let left_s = deadline.saturating_duration_since(now).as_secs();
                progress(Progress::Waiting { left_s });
            }
        }
    }
}

fn code(answered: Answered, issuer: &str) -> Result<Secret, LoginError> {
    match answered {
        Answered::Code(code) => Ok(code),
        Answered::Declined(code, description) => {
            Err(token::declined(issuer, &code, description.as_deref()))
        }
        Answered::MixUp { said } => Err(LoginError::MixUp {
            issuer: issuer.to_owned(),
            said: said.map(|said| token::plain(&said, 120)),
        }),
        Answered::Nothing => Err(LoginError::Nothing),
    }
}

/// Whether somebody is signed in here now, whatever became of a sign-in anew.
fn is_signed_in(seat: &Seat<'_>, clock: &dyn Clock) -> bool {
    let token = claims(seat.state_dir).ok().flatten();
    token.is_some_and(|token| {
        std::str::from_utf8(token.expose())
            .is_ok_and(|token| identity::person(seat.registry, token, &clock.now()).is_ok())
    })
}

/// The page the sign-in ends on.
async fn show(browser: Browser, ended: &Result<SignedIn, LoginError>, still: bool, help: &str) {
    match ended {
        Ok(signed_in) => {
            let (title, roles) = words(&signed_in.caller, help);
            let texts = [
                roles.as_str(),
                "You can close this tab and go back to your work.",
            ];
            browser.show("200 OK", &title, &texts).await;
        }
        Err(error) => {
            let mut why = error.to_string();
            // an answer that is not the provider's gets no word of its own onto a page of ours
            if let LoginError::MixUp { issuer, .. } = error {
                why = format!("The answer does not come from {issuer}. It was not used.");
            }
            let hint = format!("What to do: {}.", error.hint(help));
            let texts = [why.as_str(), &hint, "You can close this tab."];
            let title = match still {
                true => "You are not signed in anew; who was signed in before still is",
                false => "You are not signed in",
            };
            browser.show("200 OK", title, &texts).await;
        }
    }
}

/// Who signed in, and as what: a title and a sentence.
#[must_use]
pub fn words(caller: &Caller, help: &str) -> (String, String) {
    match caller {
        Caller::Person {
            display,
            roles,
            expires,
            ..
        } => {
            let roles = if roles.is_empty() {
                format!(
                    "None of your groups has a role in the registry, so no tool can be used: ask \
                     {help}."
                )
            } else {
                let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
                format!("Roles: {}. Until {}.", names.join(", "), Utc(*expires))
            };
            (format!("Signed in as {display}"), roles)
        }
        Caller::Agent { name, .. } => (format!("Agent {name}"), String::new()),
    }
}

/// Verifies and keeps what a provider gave.
struct Keeper<'a> {
    seat: &'a Seat<'a>,
    issuer: &'a IssuerDoc,
    vault: &'a mut dyn Vault,
    clock: &'a dyn Clock,
}

impl Keeper<'_> {
    /// `bound` is the nonce that was sent, and the salt it was made with.
    async fn keep(
        self,
        fresh: &Tokens,
        bound: Option<(String, String)>,
        entropy: &mut dyn Entropy,
    ) -> Result<SignedIn, LoginError> {
        let named = &self.issuer.issuer;
        let Some(id_token) = fresh.id_token.as_deref() else {
            return Err(LoginError::NoIdToken {
                issuer: named.clone(),
            });
        };
        let now = self.clock.now();
        let caller = identity::person(self.seat.registry, id_token, &now);
        let caller = caller.map_err(|error| match error {
            // it was given a moment ago: not its time is over, but this clock is ahead
            IdentityError::Ended { at } => LoginError::Ahead {
                issuer: named.clone(),
                ended_s: at,
            },
            other => LoginError::Identity(other),
        })?;
        let Caller::Person {
            issuer, subject, ..
        } = &caller
        else {
            return Err(LoginError::Swapped {
                what: "it names no person",
            });
        };
        if issuer != named {
            return Err(LoginError::Swapped {
                what: "it comes from another issuer",
            });
        }
        let nonce = identity::unverified(id_token)
            .and_then(|claims| Some(claims.get("nonce")?.as_str()?.to_owned()));
        let (sent, salt) = bound.unzip();
        // OpenID Connect Core §3.1.3.7 step 11; without it a token of another sign-in would do
        if sent.is_some() && nonce != sent {
            return Err(LoginError::Swapped {
                what: "its nonce is not the one that was sent",
            });
        }
        let before = self.before(&caller);
        let held = kept::lock(self.seat.state_dir, named).await?;
        let (old, serial) = kept::tokens(self.vault, named)?;
        let mut tokens = Kept::new(named, &self.issuer.client_id, subject, nonce);
        tokens.refresh_token.clone_from(&fresh.refresh_token);
        tokens.access_token.clone_from(&fresh.access_token);
        let renews = tokens.refresh_token.is_some();
        if !kept::replace(self.vault, &tokens, serial, now.unix_s())? {
            return Err(LoginError::Busy);
        }
        // From here on the sign-in is the new one. A crash between these files leaves the person
        // of before with tokens of the new one: a renewal then refuses them, and asks for a
        // sign-in.
        let said = kept::lock_claims(self.seat.state_dir).await?;
        kept::write_enrolment(self.seat.state_dir, id_token, salt, entropy)?;
        kept::write_claims(self.seat.state_dir, id_token, entropy)?;
        drop((said, held));
        // the tokens of somebody else who was signed in here are theirs to lose; those of the
        // same person may belong to one session at the provider, which would end with them
        if let Some(old) = old.filter(|old| old.subject != *subject)
            && let Err(error) = logout::revoke(self.seat.client, &old).await
        {
            tracing::info!(%error, "The tokens of the person before were not revoked.");
        }
        self.end_others().await;
        Ok(SignedIn {
            caller,
            renews,
            replaced: before,
        })
    }

    /// Ends sign-ins at other providers, which nobody needs any more. What fails is left for
    /// `mcpshim logout`: the new sign-in holds.
    async fn end_others(self) {
        let seat = self.seat;
        let others = logout::signed_in(self.vault).unwrap_or_default();
        for issuer in others {
            if issuer == self.issuer.issuer {
                continue;
            }
            let patience = Duration::from_millis(limits::LOGIN_REQUEST_MS / 3);
            let end = logout::end(seat.state_dir, seat.client, self.vault, &issuer);
            let error = match tokio::time::timeout(patience, end).await {
                Ok(Ok(None | Some(Ok(())))) => continue,
                Ok(Ok(Some(Err(error))) | Err(error)) => error.to_string(),
                Err(_elapsed) => "no answer in time".to_owned(),
            };
            tracing::info!(issuer, error, "The sign-in before was not revoked.");
        }
    }

    /// The name of another person who is signed in here, as their token says.
    fn before(&self, caller: &Caller) -> Option<String> {
        let token = claims(self.seat.state_dir).ok()??;
        let claims = identity::unverified(std::str::from_utf8(token.expose()).ok()?)?;
        let text = |name: &str| claims.get(name).and_then(serde_json::Value::as_str);
        match caller {
            Caller::Person {
                issuer, subject, ..
            } if text("iss") == Some(issuer) && text("sub") == Some(subject) => None,
            Caller::Person { .. } => {
                let names = ["name", "preferred_username", "email", "sub"];
                let name = names.into_iter().find_map(text).unwrap_or("somebody");
                Some(token::plain(name, 120))
            }
            Caller::Agent { .. } => None,
        }
    }
}
