//! Runs a server once, to record its whole surface.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Child, Environment, Heard, Launch, Pipe, PipeEvent, Places, Remote, SpawnError, unanswered,
};
use crate::clock::{Clock as _, SystemClock};
use crate::fetch::Dialer;
use crate::ids::LinkId;
use crate::registry::doc::{ServerDoc, Surface, Transport};
use crate::secret::Secret;
use crate::session::link::{Answer, Link, LinkFailure, LinkInput, LinkOutput};
use crate::wire::msg::{Message, Response};

/// Turns of the runtime, in which it asks what has come, before a time that has come counts.
const TURNS_OVERDUE: u32 = 4;

/// Why a surface could not be read. A sentence without its subject, the server.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The server is at fault.
    #[error("{0}")]
    Server(String),
    /// It could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It took longer than allowed.
    #[error("did not show its tools within {} s", .0.as_secs())]
    Time(Duration),
    /// There is no runtime to drive it.
    #[error("could not be driven: {0}")]
    Runtime(std::io::Error),
}

/// What a survey is given beside the server's entry.
#[derive(Debug)]
pub struct Means<'a> {
    /// What a child may inherit.
    pub environment: &'a Environment,
    /// Reaches servers behind an address.
    pub dialer: Option<Dialer>,
    /// The server's credential.
    pub secret: Option<&'a Secret>,
}

/// What was read.
#[derive(Debug)]
pub struct Surveyed {
    /// The surface.
    pub surface: Surface,
    /// What is remarkable about the way it was given: phrases that follow the server's name.
    pub remarks: Vec<String>,
}

/// Starts or reaches the server, reads its surface and ends it. Blocks; call it outside of any
/// runtime.
///
/// # Errors
/// [`SurveyError`], in the words of a person who wants the server pinned.
pub fn survey(
    server: &ServerDoc,
    means: &Means<'_>,
    deadline: Duration,
) -> Result<Surveyed, SurveyError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SurveyError::Runtime)?;
    let read = read_surface(server, means);
    let surface = runtime.block_on(async {
        tokio::time::timeout(deadline, read)
            .await
            .unwrap_or(Err(SurveyError::Time(deadline)))
    });
    // this drops the child, whose guard ends what is left of it; a name that is still looked up is
    // not waited for
    runtime.shutdown_background();
    surface
}

impl Means<'_> {
    fn open(&self, server: &ServerDoc) -> Result<Pipe, SpawnError> {
        match (&server.transport, &self.dialer) {
            (Transport::Http { .. }, Some(dialer)) => {
                Remote::open(dialer.clone(), server, self.secret, false).map(Pipe::from)
            }
            (Transport::Http { .. }, None) => Err(SpawnError::Transport),
            (Transport::Stdio { .. }, _) => {
                let mut launch = Launch::of(server, self.environment, None)?;
                // whoever pins stands in for a client that works here
                let here = std::env::current_dir().ok();
                launch.settle(here.as_deref(), &Places::default())?;
                if let Some((doc, secret)) = server.credential.as_ref().zip(self.secret) {
                    launch.inject(doc, secret)?;
                }
                Child::spawn(&launch).map(Pipe::from)
            }
        }
    }
}

/// Ends what was opened; a session's end is said before anybody goes on.
async fn end(pipe: Option<Pipe>) {
    if let Some(farewell) = pipe.and_then(Pipe::stop) {
        farewell.await;
    }
}

async fn read_surface(server: &ServerDoc, means: &Means<'_>) -> Result<Surveyed, SurveyError> {
    let mut remarks = Vec::new();
    let clock = SystemClock::new();
    let mut link = Link::new(LinkId(1), Arc::new(server.clone()), true);
    let mut pipe: Option<Pipe> = None;
    link.want(&clock.now());
    let mut overdue = false;
    loop {
        while let Some(output) = link.poll() {
            match output {
                LinkOutput::Close => end(pipe.take()).await,
                LinkOutput::Failed(LinkFailure::Down(phrase) | LinkFailure::Drift(phrase)) => {
                    end(pipe.take()).await;
                    return Err(SurveyError::Server(phrase));
                }
                LinkOutput::Note("list", remark) => remarks.push(remark),
                LinkOutput::Headers(_)
                | LinkOutput::Learned(_)
                | LinkOutput::Note(..)
                | LinkOutput::Ready(_) => {}
                LinkOutput::Open => pipe = Some(means.open(server)?),
                LinkOutput::Send(line) => {
                    if let Some(pipe) = &mut pipe {
                        pipe.push(line.into());
                    }
                }
                LinkOutput::Surface(surface) => {
                    end(pipe.take()).await;
                    return Ok(Surveyed {
                        surface: *surface,
                        remarks,
                    });
                }
            }
        }
        let wakeup = link.next_wakeup().unwrap_or(u64::MAX);
        let pause = wakeup.saturating_sub(clock.now().mono_us);
        let event = poll_fn(|cx| {
            let Some(pipe) = &mut pipe else {
                return std::task::Poll::Pending;
            };
            pipe.poll_flush(cx);
            pipe.poll_event(cx, true)
        });
        match tokio::time::timeout(Duration::from_micros(pause), event).await {
            // after a stop the timer rings before what lies in the pipe: that is read first
            Err(_) if !overdue => {
                overdue = true;
                for _ in 0..TURNS_OVERDUE {
                    tokio::task::yield_now().await;
                }
                continue;
            }
            Err(_) => link.handle(LinkInput::Wake, &clock.now()),
            Ok(PipeEvent::Ended(reason)) => {
                pipe = None;
                link.handle(LinkInput::Closed(&reason), &clock.now());
            }
            Ok(PipeEvent::Forgotten { said, .. }) => {
                pipe = None;
                let reason = format!("does not know its own session{said}");
                link.handle(LinkInput::Closed(&reason), &clock.now());
            }
            Ok(PipeEvent::Doubted { id, loss, .. } | PipeEvent::Lost { id, loss }) => {
                let loss = &loss;
                link.handle(LinkInput::Lost { id, loss }, &clock.now());
            }
            Ok(PipeEvent::Over { id, body }) if link.owns(id) => {
                let loss = &unanswered(&body);
                link.handle(LinkInput::Lost { id, loss }, &clock.now());
            }
            Ok(PipeEvent::Read) => {
                while let Some(Heard { line, .. }) = pipe.as_mut().and_then(Pipe::next_line) {
                    match line {
                        Ok(line) => give(&mut link, line, &clock),
                        Err(fault) => link.handle(LinkInput::Fault(Some(fault)), &clock.now()),
                    }
                }
            }
            Ok(PipeEvent::Started) => link.handle(LinkInput::Opened, &clock.now()),
            Ok(PipeEvent::Over { .. } | PipeEvent::Unheard(_)) => {}
        }
        overdue = false;
    }
}

/// Hands a line to the link; what is not the link's is of no interest to a survey.
fn give(link: &mut Link, line: &[u8], clock: &SystemClock) {
    let now = clock.now();
    match Message::parse(line) {
        Err(_) => link.handle(LinkInput::Fault(None), &now),
        Ok(Message::Request(request)) if request.method == "ping" => {
            link.handle(LinkInput::Ping(request.id.raw()), &now);
        }
        Ok(Message::Request(request)) if request.method == "roots/list" && link.server().roots => {
            link.handle(LinkInput::Roots(request.id.raw()), &now);
        }
        Ok(Message::Notification(note)) if note.method.ends_with("/list_changed") => {
            link.handle(LinkInput::Changed, &now);
        }
        Ok(Message::Response(response)) => answer(link, &response, &now),
        Ok(Message::Notification(_) | Message::Request(_)) => {}
    }
}

fn answer(link: &mut Link, response: &Response<'_>, now: &crate::clock::Now) {
    let id = response.id.and_then(|id| id.number());
    let Some(id) = id.filter(|id| link.owns(*id)) else {
        let token = response.id.as_ref().map_or("null", |id| id.raw());
        return link.handle(LinkInput::Stray(token), now);
    };
    let answer = Answer::of(&response.body);
    link.handle(LinkInput::Answer { id, answer }, now);
}
