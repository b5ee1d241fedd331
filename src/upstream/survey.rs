//! Runs a server once, to record its whole surface.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::{Child, ChildEvent, Environment, Launch, SpawnError};
use crate::clock::{Clock as _, SystemClock};
use crate::ids::LinkId;
use crate::registry::doc::{ServerDoc, Surface};
use crate::session::link::{Answer, Link, LinkFailure, LinkInput, LinkOutput};
use crate::wire::line::LineBuffer;
use crate::wire::msg::{Body, Message, Response};

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

/// Starts the server, reads its surface and ends it. Blocks; call it outside of any runtime.
///
/// # Errors
/// [`SurveyError`], in the words of a person who wants the server pinned.
pub fn survey(
    server: &ServerDoc,
    environment: &Environment,
    deadline: Duration,
) -> Result<Surface, SurveyError> {
    let launch = Launch::of(server, environment, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SurveyError::Runtime)?;
    let read = read_surface(server, &launch);
    let surface = runtime.block_on(async {
        tokio::time::timeout(deadline, read)
            .await
            .unwrap_or(Err(SurveyError::Time(deadline)))
    });
    // dropping the runtime drops the child: its guard ends what is left of it
    drop(runtime);
    surface
}

async fn read_surface(server: &ServerDoc, launch: &Launch) -> Result<Surface, SurveyError> {
    let clock = SystemClock::new();
    let mut link = Link::new(LinkId(1), Arc::new(server.clone()), true);
    let mut child: Option<Child> = None;
    let mut buffer = LineBuffer::new();
    link.want(&clock.now());
    loop {
        while let Some(output) = link.poll() {
            match output {
                LinkOutput::Close => {
                    if let Some(child) = child.take() {
                        child.stop();
                    }
                }
                LinkOutput::Failed(LinkFailure::Down(phrase) | LinkFailure::Drift(phrase)) => {
                    return Err(SurveyError::Server(phrase));
                }
                LinkOutput::Note(..) | LinkOutput::Ready(_) => {}
                LinkOutput::Open => {
                    buffer = LineBuffer::new();
                    child = Some(Child::spawn(launch)?);
                }
                LinkOutput::Send(line) => {
                    if let Some(child) = &mut child {
                        child.push(line.into());
                    }
                }
                LinkOutput::Surface(surface) => {
                    if let Some(child) = child.take() {
                        child.stop();
                    }
                    return Ok(*surface);
                }
            }
        }
        let wakeup = link.next_wakeup().unwrap_or(u64::MAX);
        let pause = wakeup.saturating_sub(clock.now().mono_us);
        let event = poll_fn(|cx| {
            let Some(child) = &mut child else {
                return std::task::Poll::Pending;
            };
            child.poll_flush(cx);
            child.poll_event(cx, &mut buffer, true)
        });
        match tokio::time::timeout(Duration::from_micros(pause), event).await {
            Err(_) => link.handle(LinkInput::Wake, &clock.now()),
            Ok(ChildEvent::Ended(reason)) => {
                child = None;
                link.handle(LinkInput::Closed(&reason), &clock.now());
            }
            Ok(ChildEvent::Read) => {
                while let Some(line) = buffer.next_line() {
                    match line {
                        Ok(line) => give(&mut link, line, &clock),
                        Err(fault) => link.handle(LinkInput::Fault(Some(fault)), &clock.now()),
                    }
                }
            }
            Ok(ChildEvent::Started) => link.handle(LinkInput::Opened, &clock.now()),
        }
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
        Ok(Message::Notification(note)) if note.method.ends_with("/list_changed") => {
            link.handle(LinkInput::Changed, &now);
        }
        Ok(Message::Response(response)) => answer(link, &response, &now),
        Ok(Message::Notification(_) | Message::Request(_)) => {}
    }
}

fn answer(link: &mut Link, response: &Response<'_>, now: &crate::clock::Now) {
    let Some(id) = response.id.and_then(|id| id.number()) else {
        return;
    };
    if !link.owns(id) {
        return;
    }
    let answer = match &response.body {
        Body::Error {
            code,
            message,
            object,
        } => Answer::Error {
            code: *code,
            message,
            data: object.get("data"),
        },
        Body::Result(result) => Answer::Result(result.raw()),
    };
    link.handle(LinkInput::Answer { id, answer }, now);
}
