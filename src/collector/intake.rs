//! Takes batches in: front first, then room, then the body.
//!
//! The first bytes of a batch say who signed it and how long it is. They are judged before
//! anything else is read: what is no batch, what nobody signed and what there is no room for ends
//! here, and costs its sender more than the collector. Room is taken for the whole body at once.
#![expect(
    clippy::result_large_err,
    reason = "the error is the reply itself, and is sent at once"
)]

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Extension, Path as UrlPath, Request, State};
use axum::response::Response;

use super::admission::{Guest, Room};
use super::http::{blocking, declared, disk, either, in_time, later, refuse, reply};
use super::journal::ENTRY_BYTES;
use super::server::App;
use super::store::{Answer, judge};
use crate::batch::protocol::{Refused, Standing};
use crate::batch::{BatchError, Front, HEADER_BYTES};
use crate::ids::StreamId;

/// How long the front of a batch may take, in milliseconds.
const FRONT_MS: u64 = 15_000;
/// How long a batch waits for room and for its turn, in milliseconds each.
const TURN_MS: u64 = 10_000;
/// When a busy collector wants to be asked again, in seconds.
const BUSY_S: u64 = 5;

pub(super) async fn take_batch(
    State(app): State<Arc<App>>,
    Extension(guest): Extension<Arc<Guest>>,
    UrlPath((stream, first_seq)): UrlPath<(String, String)>,
    request: Request,
) -> Result<Response, Infallible> {
    either(take(app, &guest, &stream, &first_seq, request).await)
}

async fn take(
    app: Arc<App>,
    guest: &Guest,
    stream: &str,
    first_seq: &str,
    request: Request,
) -> Result<Response, Response> {
    let stream = StreamId::parse(stream).map_err(|error| refuse(400, error))?;
    let first_seq = first_seq
        .parse::<u64>()
        .map_err(|_not| refuse(400, "the first record is not a number"))?;
    let declared = declared(&request, ENTRY_BYTES)?;
    let mut incoming = Incoming {
        body: request.into_body(),
        bytes: Vec::new(),
    };
    let front = incoming.front(declared).await?;
    let judged = app.store.admits(
        &front,
        stream,
        first_seq,
        &app.watch.registry(),
        &app.clock.now(),
    );
    let standing = judged.map_err(|answer| answered(stream, first_seq, answer))?;
    let known = standing == Standing::Enrolled;
    let turns = if known {
        guest.prove();
        &app.known_turns
    } else {
        &app.stranger_turns
    };
    let room = room(guest, &front, known).await?;
    let bytes = in_time(incoming.rest(front.batch_bytes())).await?;
    room.received();
    let turn = Arc::clone(turns).acquire_owned();
    let turn = tokio::time::timeout(Duration::from_millis(TURN_MS), turn);
    let Ok(Ok(turn)) = turn.await else {
        return Err(busy());
    };
    let shared = Arc::clone(&app);
    let answer = blocking(move || {
        // kept until the work is done, also when the device has hung up by then
        let _held = (turn, room);
        let registry = shared.watch.registry();
        let now = shared.clock.now();
        shared
            .store
            .accept(&bytes, stream, first_seq, &registry, &now)
    })
    .await?
    .map_err(|error| disk(&error))?;
    Ok(answered(stream, first_seq, answer))
}

fn answered(stream: StreamId, first_seq: u64, answer: Answer) -> Response {
    match answer {
        Answer::Later {
            status,
            retry_s,
            refused,
        } => later(status, retry_s, &refused),
        Answer::Refused(status, refused) => {
            tracing::warn!(%stream, first_seq, status, error = refused.error, "Batch refused.");
            reply(status, &refused)
        }
        Answer::Rewind(rewind) => reply(409, &rewind),
        Answer::Stored(stored) => {
            tracing::debug!(%stream, first_seq, acked = stored.acked_seq, "Batch stored.");
            reply(200, &stored)
        }
    }
}

fn busy() -> Response {
    let refused = Refused {
        error: "the collector is busy".to_owned(),
        seq: None,
    };
    later(503, BUSY_S, &refused)
}

async fn room(guest: &Guest, front: &Front, known: bool) -> Result<Room, Response> {
    let bytes = front.batch_bytes();
    if !known {
        return guest.stranger_room(bytes).ok_or_else(busy);
    }
    let key = front.header.installation.id();
    let room = guest.known_room(&key, bytes);
    let room = tokio::time::timeout(Duration::from_millis(TURN_MS), room);
    room.await.ok().flatten().ok_or_else(busy)
}

/// A body on its way.
struct Incoming {
    body: Body,
    bytes: Vec<u8>,
}

impl Incoming {
    /// The next piece; nothing at the end.
    async fn more(&mut self) -> Result<Option<Bytes>, Response> {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            let Some(frame) = frame else {
                return Ok(None);
            };
            // a connection that broke: nobody reads the answer
            let frame = frame.map_err(|_broken| refuse(400, "the request is cut"))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Reads and judges the front. Where the request declares a length it must be the batch's;
    /// where it declares none, the batch's own is the bound.
    async fn front(&mut self, declared: Option<usize>) -> Result<Front, Response> {
        let read = async {
            while self.bytes.len() < HEADER_BYTES {
                let Some(data) = self.more().await? else {
                    break;
                };
                self.bytes.extend_from_slice(&data);
            }
            Ok::<_, Response>(())
        };
        let read = tokio::time::timeout(Duration::from_millis(FRONT_MS), read);
        read.await
            .unwrap_or_else(|_slow| Err(refuse(408, "the request took too long")))?;
        let front = Front::read(&self.bytes).map_err(|error| refuse(judge(&error), error))?;
        let expected = front.batch_bytes();
        match declared {
            Some(have) if have != expected => {
                let error = BatchError::Size { have, expected };
                Err(refuse(judge(&error), error))
            }
            _ => Ok(front),
        }
    }

    /// Reads what is missing to the whole batch, and nothing beyond it.
    async fn rest(mut self, expected: usize) -> Result<Vec<u8>, Response> {
        let missing = expected.saturating_sub(self.bytes.len());
        self.bytes.reserve_exact(missing);
        while let Some(data) = self.more().await? {
            self.bytes.extend_from_slice(&data);
            if self.bytes.len() > expected {
                break;
            }
        }
        if self.bytes.len() == expected {
            return Ok(self.bytes);
        }
        let error = BatchError::Size {
            have: self.bytes.len(),
            expected,
        };
        Err(refuse(judge(&error), error))
    }
}
