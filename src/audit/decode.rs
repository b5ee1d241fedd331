//! From frames back to what was said.
//!
//! Every field is bounded by the frame it stands in. Bytes after the fields known here are a newer
//! writer's and are ignored; what would change the meaning of a record raises the version instead.

use super::bind::Hole;
use super::code::Reader;
use super::encode::{Previous, StreamHeader};
use super::entry::{CallerContext, Context, ContextId, End, TargetKind};
use super::frame::{Blob, Frame};
use super::seal::{self, WrappedKey};
use crate::clock::Now;
use crate::ids::{
    CallId, CredentialId, Digest, ExposedName, KeyId, OrgId, ServerId, ServerKey, StreamId,
};
use crate::registry::Freshness;
use crate::registry::doc::{DurabilityClass, FailMode, RegistryVersion};

/// The numbers of the kinds of records.
pub mod kind {
    #![expect(missing_docs, reason = "each is the variant of Said of the same name")]
    pub const SEGMENT: u8 = 1;
    pub const STREAM: u8 = 2;
    pub const CONTEXT: u8 = 3;
    pub const INTENT: u8 = 4;
    pub const OUTCOME: u8 = 5;
    pub const DENIAL: u8 = 6;
    pub const COUNTED: u8 = 7;
    pub const LINK: u8 = 8;
    pub const LOSS: u8 = 9;
    pub const DAMAGE: u8 = 10;
    pub const END: u8 = 11;
    pub const CARRIED: u8 = 12;
}

/// A frame that does not hold what its kind promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} of kind {kind} is not well formed")]
pub struct DecodeError {
    /// Its number.
    pub seq: u64,
    /// Its kind.
    pub kind: u8,
}

/// One record, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<'a> {
    /// Its number in the stream.
    pub seq: u64,
    /// When it was written, by the writer's clocks.
    pub at: Now,
    /// What it says.
    pub said: Said<'a>,
    /// The clear part, which sealing covers.
    pub(super) clear: Clear<'a>,
}

/// The clear part of a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Clear<'a> {
    pub(super) meta: &'a [u8],
    pub(super) hole: Hole,
    /// Where a context's own bytes begin, after the time and its number.
    pub(super) body: usize,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said<'a> {
    /// A call that was begun in another stream of the same process and ends in this one.
    Carried {
        /// In which stream its intent is.
        stream: StreamId,
        /// Which record of it.
        seq: u64,
        /// The call, without its arguments.
        call: Call<'a>,
    },
    /// A context and its number. Written again in each segment before its first use there.
    Context {
        /// Its number.
        id: ContextId,
        /// The context.
        context: Box<Context>,
    },
    /// Messages that never became a call.
    Counted {
        /// Why.
        code: &'a str,
        /// How many.
        count: u64,
    },
    /// Bytes of this stream that were not as written; they lie in quarantine on the machine.
    Damage(Damage<'a>),
    /// A refusal.
    Denial {
        /// What was tried.
        call: Call<'a>,
        /// Why not.
        code: &'a str,
    },
    /// The stream's last record.
    End {
        /// How it ended.
        how: Ending,
        /// Bytes of an unfinished last record that were cut off.
        cut_bytes: u64,
        /// The chain before this record: where all before it is gone, it stands first in a file.
        prev_hash: Digest,
    },
    /// A call is about to be sent.
    Intent(Call<'a>),
    /// A link's life.
    Link {
        /// The server's context.
        server: ContextId,
        /// What happened.
        code: &'a str,
        /// One line for people.
        detail: &'a str,
    },
    /// Records that could not be written.
    Loss {
        /// How many.
        count: u64,
        /// Why.
        code: &'a str,
    },
    /// How a call ended.
    Outcome {
        /// Which.
        call: CallId,
        /// Which of its legs.
        leg: u16,
        /// How.
        end: End,
        /// From intent to outcome, in microseconds.
        took_us: u64,
        /// The result.
        payload: Payload<'a>,
    },
    /// A segment begins: whose it is and how its payloads are sealed.
    Segment(Box<SegmentHeader<'a>>),
    /// The stream begins: who writes it.
    Stream(Box<StreamHeader>),
    /// A kind this program does not know; a newer one wrote it.
    Unknown {
        /// The number of the kind.
        kind: u8,
    },
}

impl Said<'_> {
    /// The number of the kind.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Carried { .. } => kind::CARRIED,
            Self::Context { .. } => kind::CONTEXT,
            Self::Counted { .. } => kind::COUNTED,
            Self::Damage(_) => kind::DAMAGE,
            Self::Denial { .. } => kind::DENIAL,
            Self::End { .. } => kind::END,
            Self::Intent(_) => kind::INTENT,
            Self::Link { .. } => kind::LINK,
            Self::Loss { .. } => kind::LOSS,
            Self::Outcome { .. } => kind::OUTCOME,
            Self::Segment(_) => kind::SEGMENT,
            Self::Stream(_) => kind::STREAM,
            Self::Unknown { kind } => *kind,
        }
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The writer died; another process wrote this record in its place.
    Adopted,
    /// The writer ended it.
    Closed,
}

/// Bytes that were found damaged and set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage<'a> {
    /// The file they lie in now, below the spool's `quarantine` directory.
    pub file: &'a str,
    /// Where in its segment the damage began.
    pub offset: u64,
    /// How many bytes were set aside.
    pub bytes: u64,
    /// Whole records among them, which could be read by hand.
    pub readable: u64,
    /// The highest number among those; 0 when there is none.
    pub highest_seq: u64,
    /// The SHA-256 of the file.
    pub digest: Digest,
    /// The chain before this record: where all before it is gone, it stands first in a file.
    pub prev_hash: Digest,
}

/// A call, as an intent or a denial tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call<'a> {
    /// Which.
    pub call: CallId,
    /// Its leg.
    pub leg: u16,
    /// Who.
    pub caller: ContextId,
    /// Through which client.
    pub client: ContextId,
    /// Aimed at what.
    pub target: ContextId,
    /// Under which registry.
    pub registry: Option<ContextId>,
    /// By which rule.
    pub rule: ContextId,
    /// When the record counts as kept.
    pub class: DurabilityClass,
    /// What happens when it cannot be.
    pub fail_mode: FailMode,
    /// The client's own ids.
    pub ids: Ids<'a>,
    /// The arguments.
    pub payload: Payload<'a>,
    /// With which credential.
    pub credential: Option<ContextId>,
}

/// The client's own ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each is the field of Correlation of the same name"
)]
pub struct Ids<'a> {
    pub tool_use_id: Option<&'a str>,
    pub call_id: Option<&'a str>,
    pub session_id: Option<&'a str>,
    pub trace_id: Option<[u8; 16]>,
}

/// What was kept of a payload. `bucket` is its padded size, see [`seal::bucket`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A salted digest; the salt follows from the segment's data key.
    Digest {
        /// What it covers beside the payload.
        bound: Bound,
        /// Its size.
        bucket: u64,
        /// The derivation number.
        nonce: u64,
        /// SHA-256(salt ‖ payload).
        digest: Digest,
    },
    /// It was empty.
    Empty,
    /// All of it, sealed.
    Sealed {
        /// What the sealing covers beside the payload.
        bound: Bound,
        /// Its size, also where it was cut.
        bucket: u64,
        /// The derivation number.
        nonce: u64,
        /// The commitment to its key.
        commitment: [u8; 32],
        /// The sealed bytes; `None` when they were taken away.
        bytes: Option<&'a [u8]>,
    },
    /// Its size only.
    Size {
        /// Its size.
        bucket: u64,
        /// Why no more.
        why: WhySize,
    },
}

/// What sealing covers beside the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The clear part of the record, the contexts it names and, of an outcome, its intent.
    Clear,
    /// Of an outcome whose intent was not recorded: its own clear part.
    Own,
    /// The record's place only: readers of version 1 wrote so.
    Place,
}

/// Why only the size of a payload was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhySize {
    /// The registry names no audit key that is valid now.
    NoKey,
    /// The spool is full up to its reserve.
    NoRoom,
    /// The server's entry says so.
    Rule,
}

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader<'a> {
    /// The lowest version of a reader that may use it.
    pub min_reader: u8,
    /// Its stream.
    pub stream: StreamId,
    /// Its first record: this one.
    pub first_seq: u64,
    /// The chain before it.
    pub prev_hash: Digest,
    /// The organisation.
    pub org: OrgId,
    /// The machine that wrote it.
    pub machine_id: &'a str,
    /// The installation's key.
    pub installation: KeyId,
    /// The data key, wrapped to each audit key. Empty where nothing is sealed.
    pub wrapped: Vec<WrappedKey<'a>>,
    /// The wrapped keys were taken away.
    pub detached: bool,
}

/// Reads a record.
///
/// # Errors
/// [`DecodeError`] when the frame's checksum holds and its content makes no sense all the same.
/// It is the writer's fault, or a forgery; the record counts in the chain like any other.
pub fn decode<'a>(frame: &Frame<'a>) -> Result<Decoded<'a>, DecodeError> {
    let (seq, kind) = (frame.seq, frame.kind);
    try_decode(frame).ok_or(DecodeError { seq, kind })
}

fn try_decode<'a>(frame: &Frame<'a>) -> Option<Decoded<'a>> {
    let mut r = Reader::new(frame.meta);
    let at = now(&mut r)?;
    let mut clear = Clear {
        meta: frame.meta,
        ..Clear::default()
    };
    let said = match frame.kind {
        kind::CARRIED => Said::Carried {
            stream: StreamId(r.array()?),
            seq: r.number()?,
            call: call(&mut r, frame, &mut clear.hole)?,
        },
        kind::SEGMENT => Said::Segment(Box::new(segment(&mut r, frame)?)),
        kind::STREAM => Said::Stream(Box::new(stream(&mut r)?)),
        kind::CONTEXT => {
            let id = context_id(&mut r)?;
            clear.body = r.at(frame.meta);
            let context = Box::new(context(&mut r)?);
            Said::Context { id, context }
        }
        kind::INTENT => Said::Intent(call(&mut r, frame, &mut clear.hole)?),
        kind::OUTCOME => Said::Outcome {
            call: CallId(r.number()?),
            leg: r.small()?,
            end: end(&mut r)?,
            took_us: r.number()?,
            payload: result(&mut r, frame, &mut clear.hole)?,
        },
        kind::DENIAL => Said::Denial {
            code: r.text()?,
            call: call(&mut r, frame, &mut clear.hole)?,
        },
        kind::COUNTED => Said::Counted {
            code: r.text()?,
            count: r.number()?,
        },
        kind::LINK => Said::Link {
            server: context_id(&mut r)?,
            code: r.text()?,
            detail: r.text()?,
        },
        kind::LOSS => Said::Loss {
            code: r.text()?,
            count: r.number()?,
        },
        kind::DAMAGE => Said::Damage(Damage {
            file: r.text()?,
            offset: r.number()?,
            bytes: r.number()?,
            readable: r.number()?,
            highest_seq: r.number()?,
            digest: Digest(r.array()?),
            prev_hash: Digest(r.array()?),
        }),
        kind::END => Said::End {
            how: match r.byte()? {
                0 => Ending::Closed,
                1 => Ending::Adopted,
                _ => return None,
            },
            cut_bytes: r.number()?,
            prev_hash: Digest(r.array()?),
        },
        kind => Said::Unknown { kind },
    };
    let seq = frame.seq;
    Some(Decoded {
        seq,
        at,
        said,
        clear,
    })
}

fn now(r: &mut Reader<'_>) -> Option<Now> {
    Some(Now {
        wall_us: r.number()?,
        mono_us: r.number()?,
    })
}

fn context_id(r: &mut Reader<'_>) -> Option<ContextId> {
    r.small().map(ContextId).filter(|id| id.0 > 0)
}

fn optional_context(r: &mut Reader<'_>) -> Option<Option<ContextId>> {
    let number: u32 = r.small()?;
    Some((number > 0).then_some(ContextId(number)))
}

fn owned(r: &mut Reader<'_>) -> Option<String> {
    r.text().map(str::to_owned)
}

fn optional_text<'a>(r: &mut Reader<'a>, present: bool) -> Option<Option<&'a str>> {
    if present {
        r.text().map(Some)
    } else {
        Some(None)
    }
}

fn texts(r: &mut Reader<'_>) -> Option<Vec<String>> {
    // each takes at least one byte of the frame, so the count need not be believed
    let count = r.number()?;
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(owned(r)?);
    }
    Some(texts)
}

fn version(r: &mut Reader<'_>) -> Option<RegistryVersion> {
    Some(RegistryVersion {
        root: r.number()?,
        timestamp: r.number()?,
        snapshot: r.number()?,
        targets: r.number()?,
    })
}

fn segment<'a>(r: &mut Reader<'a>, frame: &Frame<'a>) -> Option<SegmentHeader<'a>> {
    let min_reader = r.byte()?;
    let stream = StreamId(r.array()?);
    let prev_hash = Digest(r.array()?);
    let org = OrgId::parse(r.text()?).ok()?;
    let machine_id = r.text()?;
    let installation = KeyId::parse(r.text()?).ok()?;
    let (wrapped, detached) = match frame.blob {
        Blob::Detached(_) => (Vec::new(), true),
        Blob::None => (Vec::new(), false),
        Blob::Present(blob) => (seal::wrapped_keys(blob)?, false),
    };
    Some(SegmentHeader {
        min_reader,
        stream,
        first_seq: frame.seq,
        prev_hash,
        org,
        machine_id,
        installation,
        wrapped,
        detached,
    })
}

fn stream(r: &mut Reader<'_>) -> Option<StreamHeader> {
    let stream = StreamId(r.array()?);
    let org = OrgId::parse(r.text()?).ok()?;
    let machine_id = owned(r)?;
    let installation = KeyId::parse(r.text()?).ok()?;
    let pid = r.small()?;
    let program = owned(r)?;
    let started = now(r)?;
    let registry = match r.byte()? {
        0 => None,
        1 => Some(version(r)?),
        _ => return None,
    };
    let others = r.number()?;
    let count = r.number()?;
    let mut previous = Vec::new();
    for _ in 0..count {
        previous.push(Previous {
            stream: StreamId(r.array()?),
            at_least: r.number()?,
            hash: Digest(r.array()?),
        });
    }
    Some(StreamHeader {
        stream,
        org,
        machine_id,
        installation,
        pid,
        version: program,
        started,
        registry,
        others,
        previous,
    })
}

fn context(r: &mut Reader<'_>) -> Option<Context> {
    Some(match r.byte()? {
        1 => Context::Caller(match r.byte()? {
            0 => CallerContext::Nobody,
            1 => CallerContext::Agent {
                name: owned(r)?,
                key: owned(r)?,
                roles: texts(r)?,
            },
            2 => CallerContext::Person {
                issuer: owned(r)?,
                subject: owned(r)?,
                display: owned(r)?,
                roles: texts(r)?,
            },
            _ => return None,
        }),
        2 => Context::Client {
            name: owned(r)?,
            version: owned(r)?,
            protocol: owned(r)?,
            session: {
                let present = flag(r)?;
                optional_text(r, present)?.map(str::to_owned)
            },
        },
        3 => Context::Registry {
            org: OrgId::parse(r.text()?).ok()?,
            version: version(r)?,
            digest: Digest(r.array()?),
            freshness: freshness(r)?,
        },
        4 => Context::Rule {
            id: owned(r)?,
            source: owned(r)?,
            role: owned(r)?,
        },
        5 => Context::Server {
            id: ServerId::parse(r.text()?).ok()?,
            key: ServerKey::parse(r.text()?).ok()?,
            transport: owned(r)?,
            protocol: owned(r)?,
        },
        7 => Context::Credential {
            id: CredentialId::parse(r.text()?).ok()?,
            store: owned(r)?,
            serial: r.number()?,
            owner: if r.is_empty() {
                None
            } else {
                Some(Digest(r.array()?))
            },
        },
        6 => Context::Target {
            kind: target_kind(r.byte()?)?,
            server: optional_context(r)?,
            name: owned(r)?,
            exposed: {
                let present = flag(r)?;
                match optional_text(r, present)? {
                    Some(text) => Some(ExposedName::parse(text).ok()?),
                    None => None,
                }
            },
            definition: if flag(r)? {
                Some(Digest(r.array()?))
            } else {
                None
            },
        },
        _ => return None,
    })
}

fn flag(r: &mut Reader<'_>) -> Option<bool> {
    match r.byte()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn target_kind(byte: u8) -> Option<TargetKind> {
    Some(match byte {
        0 => TargetKind::Unknown,
        1 => TargetKind::Tool,
        2 => TargetKind::Prompt,
        3 => TargetKind::Resource,
        4 => TargetKind::Completion,
        5 => TargetKind::Subscription,
        6 => TargetKind::Task,
        7 => TargetKind::Ask,
        _ => return None,
    })
}

fn end(r: &mut Reader<'_>) -> Option<End> {
    Some(match r.byte()? {
        0 => End::Unknown,
        1 => End::Ok,
        2 => End::ToolError,
        3 => End::Error(r.signed()?),
        4 => End::Cancelled,
        5 => End::Timeout,
        6 => End::NotSent,
        7 => End::Input,
        _ => return None,
    })
}

fn call<'a>(r: &mut Reader<'a>, frame: &Frame<'a>, hole: &mut Hole) -> Option<Call<'a>> {
    let call = CallId(r.number()?);
    let leg = r.small()?;
    let caller = context_id(r)?;
    let client = context_id(r)?;
    let target = context_id(r)?;
    let registry = optional_context(r)?;
    let rule = context_id(r)?;
    let [mode] = r.array()?;
    let class = match mode & 0x0f {
        0 => DurabilityClass::Process,
        1 => DurabilityClass::Disk,
        2 => DurabilityClass::Collector,
        _ => return None,
    };
    let fail_mode = match mode >> 4 {
        0 => FailMode::Closed,
        1 => FailMode::Open,
        _ => return None,
    };
    let present = r.byte().filter(|present| present & !0x0f == 0)?;
    let ids = Ids {
        tool_use_id: optional_text(r, present & 1 != 0)?,
        call_id: optional_text(r, present & 2 != 0)?,
        session_id: optional_text(r, present & 4 != 0)?,
        trace_id: if present & 8 != 0 {
            Some(r.array()?)
        } else {
            None
        },
    };
    let payload = payload(r, frame, hole)?;
    // added after the first writers: absent is none
    let credential = match r.is_empty() {
        true => None,
        false => optional_context(r)?,
    };
    Some(Call {
        call,
        leg,
        caller,
        client,
        target,
        registry,
        rule,
        class,
        fail_mode,
        ids,
        payload,
        credential,
    })
}

/// The payload of an outcome: a bound one says whether its intent was recorded.
fn result<'a>(r: &mut Reader<'a>, frame: &Frame<'a>, hole: &mut Hole) -> Option<Payload<'a>> {
    let mut payload = payload(r, frame, hole)?;
    if let Payload::Digest { bound, .. } | Payload::Sealed { bound, .. } = &mut payload
        && *bound == Bound::Clear
        && !flag(r)?
    {
        *bound = Bound::Own;
    }
    Some(payload)
}

fn payload<'a>(r: &mut Reader<'a>, frame: &Frame<'a>, hole: &mut Hole) -> Option<Payload<'a>> {
    let form = r.byte()?;
    let bound = match form {
        2 | 3 => Bound::Place,
        _ => Bound::Clear,
    };
    Some(match form {
        0 => Payload::Empty,
        1 => Payload::Size {
            why: match r.byte()? {
                0 => WhySize::Rule,
                1 => WhySize::NoKey,
                2 => WhySize::NoRoom,
                _ => return None,
            },
            bucket: r.number()?,
        },
        2 | 4 => {
            let (bucket, nonce) = (r.number()?, r.number()?);
            *hole = Some(r.at(frame.meta));
            Payload::Digest {
                bound,
                bucket,
                nonce,
                digest: Digest(r.array()?),
            }
        }
        3 | 5 => {
            let (bucket, nonce) = (r.number()?, r.number()?);
            *hole = Some(r.at(frame.meta));
            Payload::Sealed {
                bound,
                bucket,
                nonce,
                commitment: r.array()?,
                bytes: match frame.blob {
                    Blob::Detached(_) => None,
                    Blob::Present(blob) => Some(blob),
                    Blob::None => return None,
                },
            }
        }
        _ => return None,
    })
}

fn freshness(r: &mut Reader<'_>) -> Option<Freshness> {
    Some(match r.byte()? {
        0 => Freshness::Fresh,
        1 => Freshness::Grace,
        2 => Freshness::Lapsed,
        _ => return None,
    })
}
