//! The HTTP server: batches and enrolments from devices, questions from people.
//!
//! | request | who may |
//! |---|---|
//! | `POST /v1/enrol/challenge`, `POST /v1/enrol` | anybody; the proof is inside |
//! | `POST /v1/streams/{stream}/batches/{first_seq}` | anybody; the signature is inside |
//! | `POST /v1/query`, `/v1/unseal`, `GET /v1/devices` | who connects from this machine and shows the reader token |
//! | `GET /healthz` | anybody |
//!
//! Everything else is 404. Plain HTTP is spoken on loopback only.
#![expect(
    clippy::result_large_err,
    reason = "the error is the reply itself, and is sent at once"
)]

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::{get, post};
use data_encoding::BASE64;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::admission::{Admission, Guest, Limits};
use super::enrol::{self, Challenger, Refusal};
use super::http::{blocking, body, disk, either, parse, refuse, reply};
use super::query::{self, Filter, QueryError};
use super::store::{Store, StoreError};
use super::watch::Watch;
use super::{admin, files, intake};
use crate::batch::protocol::{
    ChallengeReply, ChallengeRequest, ENROL_BYTES, EnrolReply, EnrolRequest,
};
use crate::clock::{Clock, Entropy};
use crate::fetch::certificate;
use crate::ids::Digest;
use crate::secret::Secret;

/// Batches of known installations worked on at once: each may need [`crate::limits::BATCH_BYTES`],
/// both of them.
const KNOWN_TURNS: usize = 8;
/// Batches of strangers worked on at once.
const STRANGER_TURNS: usize = 2;
/// How long the head of a request may take, in milliseconds.
const HEAD_MS: u64 = 15_000;
/// How long open requests are waited for at the end, in milliseconds.
const DRAIN_MS: u64 = 10_000;
/// What is read of a connection ahead of being asked for, in bytes.
const AHEAD_BYTES: usize = 64 << 10;
/// The largest question, in bytes.
const QUESTION_BYTES: usize = 64 << 10;

/// A clock that requests share.
pub type SharedClock = Arc<dyn Clock + Send + Sync>;

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Plain HTTP on an address others can reach.
    #[error("{0} can be reached from other machines, so it needs TLS")]
    Plain(SocketAddr),
    /// The certificate or its key.
    #[error("cannot use the TLS certificate {} with the key {}: {why}", cert.display(), key.display())]
    Tls {
        /// The certificate chain.
        cert: PathBuf,
        /// Its private key.
        key: PathBuf,
        /// Why.
        why: String,
    },
    /// The reader token cannot be made or read.
    #[error("cannot use the reader token")]
    Token(#[source] crate::vault::VaultError),
}

/// Where and how to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate chain and private key, PEM files.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// What all requests share.
pub(super) struct App {
    pub(super) store: Store,
    pub(super) watch: Watch,
    pub(super) clock: SharedClock,
    challenger: Challenger,
    token: Digest,
    admission: Arc<Admission>,
    pub(super) known_turns: Arc<Semaphore>,
    pub(super) stranger_turns: Arc<Semaphore>,
}

/// Reads the reader token of a data directory, or makes it: a file of its own, 0600, so that
/// who may read the data may also ask the server.
///
/// # Errors
/// [`crate::vault::VaultError`].
pub fn reader_token(
    root: &Path,
    entropy: &mut dyn Entropy,
) -> Result<Secret, crate::vault::VaultError> {
    let path = root.join("reader.token");
    let io = |source| crate::vault::VaultError::Io {
        action: "create",
        path: path.clone(),
        source,
    };
    for _ in 0..2 {
        if let Some(found) = crate::vault::read_private(&path)? {
            return Ok(Secret::new(found.expose().trim_ascii().to_vec()));
        }
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        entropy.fill(bytes.as_mut());
        let text = Secret::new(format!("{}\n", BASE64.encode(bytes.as_ref())).into_bytes());
        crate::vault::create_private(&path, text.expose(), entropy).map_err(io)?;
    }
    Err(io(io::ErrorKind::NotFound.into()))
}

/// A server that is bound and not yet serving.
pub struct Server {
    listener: TcpListener,
    tls: Option<tokio_rustls::TlsAcceptor>,
    app: Arc<App>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(
        listen: &Listen,
        store: Store,
        watch: Watch,
        clock: SharedClock,
        entropy: &mut dyn Entropy,
    ) -> Result<Self, ServeError> {
        if listen.tls.is_none() && !listen.address.ip().is_loopback() {
            return Err(ServeError::Plain(listen.address));
        }
        let tls = listen
            .tls
            .as_ref()
            .map(|(cert, key)| {
                acceptor(cert, key).map_err(|why| ServeError::Tls {
                    cert: cert.clone(),
                    key: key.clone(),
                    why,
                })
            })
            .transpose()?;
        let token = reader_token(store.root(), entropy).map_err(ServeError::Token)?;
        let listener =
            TcpListener::bind(listen.address)
                .await
                .map_err(|source| ServeError::Listen {
                    address: listen.address,
                    source,
                })?;
        Ok(Self {
            listener,
            tls,
            app: Arc::new(App {
                store,
                watch,
                clock,
                challenger: Challenger::new(entropy),
                token: Digest::of(token.expose()),
                admission: Admission::new(Limits::within(files::open_files())),
                known_turns: Arc::new(Semaphore::new(KNOWN_TURNS)),
                stranger_turns: Arc::new(Semaphore::new(STRANGER_TURNS)),
            }),
        })
    }

    /// The address it is bound to, as a URL.
    ///
    /// # Errors
    /// What the socket says.
    pub fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }

    /// Serves until `end` comes, then finishes what is under way.
    pub async fn run(self, end: impl Future<Output = ()>) {
        let Self { listener, tls, app } = self;
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/v1/enrol/challenge", post(challenge))
            .route("/v1/enrol", post(enrol))
            .route(
                "/v1/streams/{stream}/batches/{first_seq}",
                post(intake::take_batch),
            )
            .route("/v1/query", post(ask))
            .route("/v1/unseal", post(unseal))
            .route("/v1/devices", get(devices))
            .with_state(Arc::clone(&app));
        let (ending, ended) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut renewal = tokio::time::interval(Duration::from_secs(crate::limits::POLL_S));
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        renewal.reset();
        let renewing = async {
            loop {
                renewal.tick().await;
                app.watch.renew(&*app.clock).await;
            }
        };
        let accepting = async {
            loop {
                let (socket, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // out of descriptors, or gone before it was taken: others are served
                        tracing::warn!(%error, "Connection not accepted.");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                };
                let Some(guest) = app.admission.enter(peer.ip()) else {
                    tracing::warn!(%peer, "Connection refused: known ones have all places.");
                    continue;
                };
                let router = router.clone().layer(Extension(Arc::clone(&guest)));
                let (tls, ended) = (tls.clone(), ended.clone());
                connections.spawn(async move {
                    drop(socket.set_nodelay(true));
                    let serve = async {
                        match tls {
                            None => connection(socket, router, ended).await,
                            Some(tls) => {
                                let head = Duration::from_millis(HEAD_MS);
                                if let Ok(Ok(socket)) =
                                    tokio::time::timeout(head, tls.accept(socket)).await
                                {
                                    connection(socket, router, ended).await;
                                }
                            }
                        }
                    };
                    tokio::select! {
                        () = serve => {}
                        () = guest.left() => tracing::debug!(%peer, "Connection gave way."),
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = end => {}
            () = accepting => {}
            () = renewing => {}
        }
        drop(listener);
        drop(ending);
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_millis(DRAIN_MS), drained)
            .await
            .is_err()
        {
            tracing::warn!("Requests were cut off at the end.");
        }
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<tokio_rustls::TlsAcceptor, String> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error.to_string())?;
    if let Some(leaf) = chain.first()
        && certificate::is_ca(leaf)
    {
        return Err(certificate::CA_AS_SERVER.to_owned());
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config).into())
}

async fn connection(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut ended: watch::Receiver<()>,
) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEAD_MS))
        .max_buf_size(AHEAD_BYTES)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        _ = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "Connection ended early.");
    }
}

async fn challenge(State(app): State<Arc<App>>, request: Request) -> Result<Response, Infallible> {
    let inner = async {
        let asked: ChallengeRequest = parse(&body(request, ENROL_BYTES).await?)?;
        let installation = enrol::installation(&asked.installation)
            .map_err(|Refusal(status, error)| refuse(status, error))?;
        let challenge = app.challenger.challenge(&installation, &app.clock.now());
        let challenge = BASE64.encode(&challenge);
        Ok(reply(200, &ChallengeReply { challenge }))
    };
    either(inner.await)
}

async fn enrol(State(app): State<Arc<App>>, request: Request) -> Result<Response, Infallible> {
    let inner = async {
        let asked: EnrolRequest = parse(&body(request, ENROL_BYTES).await?)?;
        let shared = Arc::clone(&app);
        blocking(move || {
            let now = shared.clock.now();
            let registry = shared.watch.registry();
            let freshness = shared.watch.freshness(&now);
            let org = registry.org.org.clone();
            let checked = enrol::check(&asked, &shared.challenger, &org, &registry, freshness, &now);
            let (installation, who) = match checked {
                Ok(proved) => proved,
                Err(Refusal(status, error)) => {
                    tracing::warn!(status, error, "Enrolment refused.");
                    return Err(refuse(status, error));
                }
            };
            let enrolled = who.to_string();
            shared
                .store
                .bind(&installation, &asked.machine_id, who, &now)
                .map_err(|error| disk(&error))?;
            tracing::info!(installation = %installation.id(), who = enrolled, "Installation enrolled.");
            Ok(reply(200, &EnrolReply { enrolled }))
        })
        .await?
    };
    either(inner.await)
}

/// Lets only those in who connect from this machine and hold the token: whoever may read the
/// token file may read the data anyway.
fn reader(app: &App, guest: &Guest, headers: &HeaderMap) -> Result<(), Response> {
    if !guest.ip().to_canonical().is_loopback() {
        return Err(refuse(403, "questions are answered on this machine only"));
    }
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    // digests are compared: how long it takes says nothing about the token
    if shown.map(Digest::of) == Some(app.token) {
        guest.prove();
        Ok(())
    } else {
        Err(refuse(401, "show the reader token of the data directory"))
    }
}

fn lines(items: impl Iterator<Item = impl Serialize>, last: &impl Serialize) -> Response {
    let mut text = Vec::new();
    for item in items {
        text.extend(serde_json::to_vec(&item).unwrap_or_default());
        text.push(b'\n');
    }
    text.extend(serde_json::to_vec(last).unwrap_or_default());
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    response
}

fn question(error: QueryError) -> Response {
    match error {
        QueryError::Filter(error) => refuse(400, error),
        QueryError::Name(error) => refuse(400, error),
        QueryError::Store(error) => disk(&error),
    }
}

async fn ask(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Arc<Guest>>,
    request: Request,
) -> Result<Response, Infallible> {
    let inner = async {
        reader(&app, &guest, request.headers())?;
        let filter: Filter = parse(&body(request, QUESTION_BYTES).await?)?;
        let shared = Arc::clone(&app);
        let answer =
            blocking(move || query::query(shared.store.root(), &filter, &shared.clock.now()))
                .await?
                .map_err(question)?;
        Ok(lines(answer.events.iter(), &answer.last))
    };
    either(inner.await)
}

async fn unseal(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Arc<Guest>>,
    request: Request,
) -> Result<Response, Infallible> {
    let inner = async {
        reader(&app, &guest, request.headers())?;
        let asked: admin::Unseal = parse(&body(request, QUESTION_BYTES).await?)?;
        let shared = Arc::clone(&app);
        blocking(move || {
            let now = shared.clock.now();
            let root = shared.store.root();
            let (found, last) =
                admin::release(root, &asked, &now).map_err(|error| match error {
                    admin::AdminError::Log { source, .. } => disk(&StoreError::io(root)(source)),
                    admin::AdminError::Query(error) => question(error),
                })?;
            Ok(lines(found.iter(), &last))
        })
        .await?
    };
    either(inner.await)
}

async fn devices(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Arc<Guest>>,
    headers: HeaderMap,
) -> Result<Response, Infallible> {
    let inner = async {
        reader(&app, &guest, &headers)?;
        let shared = Arc::clone(&app);
        let answer = blocking(move || {
            let now = shared.clock.now();
            query::devices(shared.store.root(), &now)
        });
        let (devices, completeness) = answer.await?.map_err(|error| disk(&error))?;
        Ok(lines(devices.iter(), &completeness))
    };
    either(inner.await)
}

/// Writes the address where programs of this machine can find it.
///
/// # Errors
/// What the file system says.
pub fn publish_url(root: &Path, url: &str) -> io::Result<()> {
    files::replace(&root.join("collector.url"), format!("{url}\n").as_bytes())
}
