//! A server in a job object: everything it starts is in the job too, and the system ends them all
//! when the last handle to the job is closed. We hold that handle, so it happens when we let go of
//! it and when we die, however we die. No guard stands in between.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use process_wrap::tokio::{ChildWrapper, CommandWrap, JobObject, KillOnDrop};
use tokio::sync::oneshot;

use super::handle::{Sink, Source};
use super::{Launch, Report, SpawnError, Started, lookup};

/// A server may take this long to end after its standard input was closed, when it was asked to
/// stop…
const POLITE: Duration = Duration::from_millis(600);
/// …and this long when it was dropped.
const QUICK: Duration = Duration::from_millis(200);

/// `CREATE_NO_WINDOW`: no console flashes up when a client without one starts a server.
const NO_WINDOW: u32 = 0x0800_0000;
/// `CREATE_SUSPENDED`: nothing of it runs before it is in its job.
const SUSPENDED: u32 = 0x0000_0004;

/// What is known of the task that waits for a server.
#[derive(Debug)]
pub(super) struct Control {
    started: bool,
    /// Asks for a polite stop; dropping it asks for a quick one.
    orders: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<String>,
}

/// Starts a server in a job of its own.
pub(super) fn start(launch: &Launch) -> Result<Started, SpawnError> {
    let program = program(launch)?;
    let mut command = tokio::process::Command::new(&program);
    if let Some(cwd) = &launch.cwd {
        command.current_dir(cwd);
    }
    command
        .args(&launch.args)
        .env_clear()
        .envs(launch.environment.vars())
        .envs(&launch.env)
        .envs(launch.secrets()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = CommandWrap::from(command)
        .wrap(KillOnDrop)
        .wrap(JobObject)
        .spawn_with(|command| command.creation_flags(NO_WINDOW | SUSPENDED).spawn())
        .map_err(|error| explain(error, &program))?;
    let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
    let input = child.stdin().take().ok_or_else(broken)?;
    let output = child.stdout().take().ok_or_else(broken)?;
    let errors = child.stderr().take().ok_or_else(broken)?;
    let (orders, order) = oneshot::channel();
    let (tell, ended) = oneshot::channel();
    tokio::spawn(async move {
        let phrase = watch(child, order).await;
        // nobody listens any more once it was stopped
        tell.send(phrase).unwrap_or_default();
    });
    Ok(Started {
        input: Sink::owned(input),
        output: Source::owned(output),
        errors: Source::owned(errors),
        control: Control {
            started: false,
            orders: Some(orders),
            ended,
        },
    })
}

/// The file to start. What the registry sets for the child decides before what we have ourselves.
fn program(launch: &Launch) -> Result<PathBuf, SpawnError> {
    let set = |wanted: &str| {
        let set = launch.env.iter().map(|(name, value)| (name, value.into()));
        let passed = launch.environment.vars();
        let passed = passed.filter_map(|(name, value)| Some((name.to_str()?, value.to_owned())));
        set.map(|(name, value)| (name.as_str(), value))
            .chain(passed)
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value): (_, std::ffi::OsString)| value)
    };
    let path = set("PATH").unwrap_or_default();
    let pathext = set("PATHEXT").and_then(|value| value.into_string().ok());
    let dirs = std::env::split_paths(&path);
    lookup::program(&launch.command, dirs, pathext.as_deref(), |path| {
        path.is_file()
    })
    .ok_or_else(|| {
        let sentence = format!("{} is not found on the PATH", launch.command);
        io::Error::new(io::ErrorKind::NotFound, sentence).into()
    })
}

/// The standard library refuses arguments that the command processor would take apart.
fn explain(error: io::Error, program: &std::path::Path) -> SpawnError {
    let batch = program.extension().is_some_and(|extension| {
        extension.eq_ignore_ascii_case("cmd") || extension.eq_ignore_ascii_case("bat")
    });
    if batch && error.kind() == io::ErrorKind::InvalidInput {
        let sentence = format!(
            "{} is a batch file, and one of its arguments cannot be passed to it safely",
            program.display()
        );
        return io::Error::new(error.kind(), sentence).into();
    }
    error.into()
}

/// Waits for a server's end, and sees to the end of everything it started. Dropping the child, with
/// the runtime or at the end, closes the job.
async fn watch(mut child: Box<dyn ChildWrapper>, order: oneshot::Receiver<()>) -> String {
    let status = {
        // the server itself: what it started and left behind is not waited for
        let mut exit = child.inner_mut().wait();
        tokio::select! {
            status = &mut exit => Some(status),
            order = order => {
                let patience = if order.is_ok() { POLITE } else { QUICK };
                tokio::time::timeout(patience, exit).await.ok()
            }
        }
    };
    if let Err(error) = child.start_kill() {
        tracing::debug!(%error, "A job is not ended by us but by the system.");
    }
    match status {
        None => "did not end and was ended".to_owned(),
        Some(Err(error)) => format!("ended: {error}"),
        Some(Ok(status)) => phrase(status),
    }
}

fn phrase(status: ExitStatus) -> String {
    match status.code() {
        // 0xC0000005 says more than -1073741819
        Some(code) if code < 0 => format!("ended: exit status {code:#010x}"),
        Some(code) => format!("ended: exit status {code}"),
        None => "ended".to_owned(),
    }
}

impl Control {
    /// What is next heard of it.
    pub(super) fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Report> {
        if !self.started {
            self.started = true;
            return Poll::Ready(Report::Started);
        }
        let ended = ready!(Pin::new(&mut self.ended).poll(cx));
        Poll::Ready(Report::Ended(ended.unwrap_or_else(|_| "ended".to_owned())))
    }

    /// Gives the server [`POLITE`], from when its standard input was closed.
    pub(super) fn ask_to_stop(&mut self) {
        if let Some(orders) = self.orders.take() {
            // gone already
            orders.send(()).unwrap_or_default();
        }
    }

    /// The task that waits for it needs nobody.
    pub(super) fn collect(self) {
        drop(self);
    }
}
