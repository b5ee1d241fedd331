//! Where answers come from: a data directory, or a running server.

use std::io::{self, Write as _};
use std::path::PathBuf;

use mcpshim::clock::{Clock as _, Now, SystemClock};
use mcpshim::collector::admin::{self, Unseal};
use mcpshim::collector::query::{self, Answer, Filter, Last, Sealed};
use mcpshim::collector::scan::{Completeness, Device};
use mcpshim::collector::store::StoreError;
use mcpshim::config::Network;
use mcpshim::report::{Exit, Failure};
use mcpshim::text;
use mcpshim::{fetch, vault};
use serde::de::DeserializeOwned;

/// Where to read.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// A collector's data directory, read as it lies there; a server may be running on it.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "url",
        conflicts_with = "url"
    )]
    data: Option<PathBuf>,
    /// A server on this machine.
    #[arg(long, value_name = "URL", requires = "token_file")]
    url: Option<String>,
    /// The server's `reader.token`.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// A private CA of the server, a PEM file.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
}

fn now() -> Now {
    SystemClock::new().now()
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Exit::Failed, error)
}

impl Source {
    pub(crate) fn query(&self, filter: &Filter) -> Result<Answer, Failure> {
        match &self.data {
            Some(data) => query::query(data, filter, &now()).map_err(|error| question(&error)),
            None => {
                let (events, last): (_, Last) = self.ask("query", Some(filter))?;
                Ok(Answer { events, last })
            }
        }
    }

    pub(crate) fn devices(&self) -> Result<(Vec<Device>, Completeness), Failure> {
        match &self.data {
            Some(data) => query::devices(data, &now()).map_err(|error| unreadable(&error)),
            None => self.ask::<(), _, _>("devices", None),
        }
    }

    pub(crate) fn unseal(&self, asked: &Unseal) -> Result<(Vec<Sealed>, Last), Failure> {
        match &self.data {
            Some(data) => admin::release(data, asked, &now()).map_err(|error| match error {
                admin::AdminError::Log { .. } => {
                    failed(&error).hint("run it as a user who may write the data directory's log")
                }
                admin::AdminError::Query(error) => question(&error),
            }),
            None => self.ask("unseal", Some(asked)),
        }
    }

    /// Asks a server; the answer is lines of objects, the last of which sums up.
    fn ask<Q: serde::Serialize, T: DeserializeOwned, L: DeserializeOwned>(
        &self,
        what: &str,
        question: Option<&Q>,
    ) -> Result<(Vec<T>, L), Failure> {
        let url = self
            .url
            .as_deref()
            .unwrap_or_default()
            .trim_end_matches('/');
        let unreachable = |error: &dyn std::error::Error| {
            failed(error)
                .context(format!("cannot ask the collector at {url}"))
                .hint("check that `mcpshim-collector serve` runs there, or read its --data")
        };
        let token_file = self.token_file.clone().unwrap_or_default();
        let token = vault::read_private(&token_file)
            .map_err(|error| failed(&error))?
            .ok_or_else(|| {
                Failure::new(
                    Exit::Failed,
                    format!("there is no {}", token_file.display()),
                )
                .hint("give the reader.token of the server's data directory")
            })?;
        let ca = match &self.ca {
            None => None,
            Some(file) => Some(std::fs::read_to_string(file).map_err(|error| {
                failed(&error)
                    .context(format!("cannot read {}", file.display()))
                    .hint("give the CA's certificates as a PEM file")
            })?),
        };
        let client =
            fetch::client(&Network::default(), ca.as_deref()).map_err(|error| failed(&error))?;
        let address = format!("{url}/v1/{what}");
        let request = match question {
            Some(question) => {
                let body = serde_json::to_vec(question).map_err(|error| failed(&error))?;
                client.post(address).body(body)
            }
            None => client.get(address),
        };
        let shown = String::from_utf8_lossy(token.expose().trim_ascii()).into_owned();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(&error))?;
        let (status, body) = runtime.block_on(async {
            let response = request
                .bearer_auth(shown)
                .send()
                .await
                .map_err(|error| unreachable(&error))?;
            let status = response.status();
            let body = response
                .bytes()
                .await
                .map_err(|error| unreachable(&error))?;
            Ok::<_, Failure>((status, body))
        })?;
        if !status.is_success() {
            let refused: Result<mcpshim::batch::protocol::Refused, _> =
                serde_json::from_slice(&body);
            let why = refused.map_or_else(|_| format!("status {status}"), |refused| refused.error);
            // what the question says is wrong is wrong with either way to ask
            if status.as_u16() == 400 {
                return Err(Failure::new(Exit::Usage, why).hint(FORMS));
            }
            let mut failure = Failure::new(Exit::Failed, "the collector refuses to answer");
            failure.causes.push(why);
            return Err(failure);
        }
        let odd = || {
            Failure::new(
                Exit::Failed,
                format!("{url} does not answer like a collector"),
            )
        };
        let mut lines: Vec<&[u8]> = body
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        let last = lines.pop().ok_or_else(odd)?;
        let items = lines
            .into_iter()
            .map(serde_json::from_slice)
            .collect::<Result<Vec<T>, _>>()
            .map_err(|_not| odd())?;
        let last = serde_json::from_slice(last).map_err(|_not| odd())?;
        Ok((items, last))
    }
}

const FORMS: &str = "see `mcpshim-collector query --help` for what can be asked";

fn question(error: &query::QueryError) -> Failure {
    match error {
        query::QueryError::Filter(_) | query::QueryError::Name(_) => {
            Failure::from_error(Exit::Usage, error).hint(FORMS)
        }
        query::QueryError::Store(error) => unreadable(error),
    }
}

/// A data directory that cannot be read, or is none.
pub(crate) fn unreadable(error: &StoreError) -> Failure {
    let hint = match error {
        StoreError::File(_) | StoreError::Missing(_) | StoreError::None(_) => {
            "give the directory that `mcpshim-collector serve --data DIR` keeps the record in"
        }
        StoreError::Damaged(_) | StoreError::Lost(_) => {
            "keep the directory as it is, and restore this part of it from a backup"
        }
        StoreError::Newer { .. } => "read it with the mcpshim-collector that wrote it",
        StoreError::Busy(_) | StoreError::Io { .. } | StoreError::Org { .. } => {
            "run it as a user who may read the whole directory"
        }
    };
    failed(error)
        .context("the record cannot be read")
        .hint(hint)
}

/// Writes lines to standard output, in which nothing hides or plays; a reader that went away ends it quietly.
pub(crate) fn print(lines: impl IntoIterator<Item = String>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = lines
        .into_iter()
        .try_for_each(|line| writeln!(out, "{}", text::visible(&line)))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(failed(&error).context("cannot write to standard output"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// One object as a line. What hides or plays stands only in its strings, and is escaped there.
pub(crate) fn object(value: &impl serde::Serialize) -> String {
    let line = serde_json::to_string(value).unwrap_or_default();
    text::json(&line).into_owned()
}
