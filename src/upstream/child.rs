//! A running server, as whoever talks to it holds it. How it is kept from outliving us is
//! [`super::contained`]'s business.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::contained::{Control, start};
use super::streams::{Sink, Source};
use super::{Launch, PipeEvent, Report, SpawnError, Started, Words};
use crate::wire::line::LineBuffer;

/// Reads of standard error in one turn: a server that floods it must not hold up the session.
const ERRORS: usize = 4;

/// A server that was started. Dropping it ends the server and everything below it.
#[derive(Debug)]
pub struct Child {
    input: Option<Sink>,
    output: Option<Source>,
    errors: Option<Source>,
    words: Words,
    heard: LineBuffer,
    control: Option<Control>,
    /// How it ended.
    phrase: Option<String>,
}

impl Child {
    /// Starts a server where it cannot outlive us. [`PipeEvent::Started`] or
    /// [`PipeEvent::Ended`] follows.
    ///
    /// # Errors
    /// When it cannot even be tried.
    pub fn spawn(launch: &Launch) -> Result<Self, SpawnError> {
        let Started {
            input,
            output,
            errors,
            control,
        } = start(launch)?;
        tracing::info!(server = %launch.key, "Server started.");
        Ok(Self {
            input: Some(input),
            output: Some(output),
            errors: Some(errors),
            words: Words::new(launch.log.clone(), launch.scrubber.clone()),
            heard: LineBuffer::new(),
            control: Some(control),
            phrase: None,
        })
    }

    /// Adds a line for its standard input. One that has ended gets no more.
    pub fn push(&mut self, line: Bytes) {
        if let Some(input) = &mut self.input {
            input.push(line);
        }
    }

    /// Bytes it has not read yet.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.input.as_ref().map_or(0, Sink::queued_bytes)
    }

    /// Writes what is queued, as far as it goes.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) {
        if let Some(input) = &mut self.input
            && let Poll::Ready(Err(error)) = input.poll_flush(cx)
        {
            // it does not read any more; how it ended is heard elsewhere
            tracing::debug!(%error, "A server closed its standard input.");
            self.input = None;
        }
    }

    /// The next thing that comes from it. `read` is false while nobody has room for its output.
    pub fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut LineBuffer,
        read: bool,
    ) -> Poll<PipeEvent> {
        self.poll_errors(cx);
        if self.poll_control(cx) {
            return Poll::Ready(PipeEvent::Started);
        }
        if let Some(output) = self.output.as_mut().filter(|_| read) {
            match output.poll_fill(cx, buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(len)) if len > 0 => return Poll::Ready(PipeEvent::Read),
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.output = None;
                    // it may live on without its output: of no use to anybody
                    self.ask_to_stop();
                }
            }
            if self.poll_control(cx) {
                return Poll::Ready(PipeEvent::Started);
            }
        }
        match (&self.output, &self.control) {
            (None, None) => Poll::Ready(PipeEvent::Ended(self.reason())),
            _ => Poll::Pending,
        }
    }

    fn poll_errors(&mut self, cx: &mut Context<'_>) {
        for _ in 0..ERRORS {
            let Some(errors) = &mut self.errors else {
                return;
            };
            match errors.poll_fill(cx, &mut self.heard) {
                Poll::Pending => return,
                Poll::Ready(Ok(len)) if len > 0 => {
                    let words = &mut self.words;
                    self.heard.fill(|bytes| {
                        words.push(bytes);
                        bytes.clear();
                    });
                }
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.errors = None;
                    self.words.finish();
                }
            }
        }
        // there is more: first the client, the clock and other servers have their turn
        cx.waker().wake_by_ref();
    }

    /// Hears how it is. Returns whether the program has just been started.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(control) = &mut self.control {
            match control.poll_report(cx) {
                Poll::Pending => return false,
                Poll::Ready(Report::Ended(phrase)) => {
                    self.phrase = Some(phrase);
                    if let Some(control) = self.control.take() {
                        control.collect();
                    }
                }
                Poll::Ready(Report::Started) => return true,
            }
        }
        false
    }

    /// How it ended, with its last words.
    fn reason(&self) -> String {
        let phrase = self.phrase.as_deref().unwrap_or("ended");
        match self.words.last() {
            Some(words) => format!("{phrase}; its last words: {words}"),
            None => phrase.to_owned(),
        }
    }

    fn ask_to_stop(&mut self) {
        self.input = None;
        if let Some(control) = &mut self.control {
            control.ask_to_stop();
        }
    }

    /// Closes its standard input and gives it six tenths of a second; what is left then is ended.
    /// Nobody has to wait for it.
    pub fn stop(mut self) {
        self.ask_to_stop();
        self.output = None;
        self.errors = None;
        if let Some(control) = self.control.take() {
            control.collect();
        }
    }
}
