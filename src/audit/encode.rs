//! From entries to frames.
//!
//! The encoder keeps the chain, the numbers, the contexts and the segment's data key. It writes
//! into a buffer of the caller's and knows no file: when a write fails, [`Encoder::rewind`] takes
//! it back to the last frame that is really there.

use super::bind::{At, Clear, Hole, WHOLE};
use super::code::{put_number, put_signed, put_text};
use super::decode::{Ending, kind};
use super::entry::{
    Body, CallFacts, CallerContext, Context, ContextId, Correlation, End, Entry, TargetKind,
};
use super::frame::{self, GENESIS, PutBlob};
use super::open::{Begun, OpenCalls, Refs};
use super::seal::{self, DataKey, Place, Spot};
use crate::clock::{Entropy, Now};
use crate::ids::{CallId, Digest, KeyId, OrgId, StreamId};
use crate::registry::Freshness;
use crate::registry::doc::{AuditKeyDoc, Capture, DurabilityClass, FailMode, RegistryVersion};
use crate::secret::Content;

/// Longest id of a client's own, in bytes.
pub const CORRELATION_BYTES: usize = 128;
/// Longest name in a context, in bytes.
pub const NAME_BYTES: usize = 256;
/// Longest code, in bytes.
pub const CODE_BYTES: usize = 64;
/// Longest line for people, in bytes.
pub const DETAIL_BYTES: usize = 1024;
/// Most roles of one caller.
pub const ROLES: usize = 128;
/// Most streams a stream header names.
pub const PREVIOUS: usize = 64;

/// The lowest version of a reader that may use what this code writes.
/// Readers of version 1 do not know payloads that are bound to their clear part.
const MIN_READER: u8 = 2;
/// Contexts one stream may number: a bound on memory no session comes near.
const CONTEXTS: usize = 1 << 20;

/// Who writes a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// The stream.
    pub stream: StreamId,
    /// The organisation.
    pub org: OrgId,
    /// The machine, as the operating system names it.
    pub machine_id: String,
    /// The key that signs this installation's batches.
    pub installation: KeyId,
    /// The process.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started: Now,
    /// The registry it started with.
    pub registry: Option<RegistryVersion>,
    /// Streams in this machine's spool beside those named in `previous`.
    pub others: u64,
    /// Streams in this machine's spool when this one began, newest first. Removing one of them
    /// from the disk leaves a hole that this list names.
    pub previous: Vec<Previous>,
}

/// A stream seen on the same machine, and how far it had come at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Previous {
    /// Which.
    pub stream: StreamId,
    /// It had at least this many records…
    pub at_least: u64,
    /// …and this was the hash of that one.
    pub hash: Digest,
}

/// How much room there is for payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// As the rules say.
    Plenty,
    /// Sizes only: the spool lives off its reserve.
    Reserve,
}

/// Makes frames of entries.
pub struct Encoder {
    header: StreamHeader,
    audit_keys: Vec<AuditKeyDoc>,
    seq: u64,
    hash: Digest,
    segment: Option<Segment>,
    /// The stream record has been written.
    headed: bool,
    contexts: Vec<Option<Slot>>,
    open: OpenCalls,
    meta: Vec<u8>,
}

struct Segment {
    first_seq: u64,
    key: Option<DataKey>,
}

struct Slot {
    body: Vec<u8>,
    digest: Digest,
    needs: Option<ContextId>,
    /// The frame it was last written in; 0 when none.
    written: u64,
}

/// What a record with a payload refers to.
#[derive(Clone, Copy)]
enum Refers {
    Call(Refs),
    /// The clear digest of its intent, where that is recorded.
    Intent(Option<Digest>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder({}/{})", self.header.stream, self.seq)
    }
}

impl Encoder {
    /// Makes an encoder at the beginning of a stream. Nothing is written before the first
    /// [`Encoder::append`].
    #[must_use]
    pub fn open(header: StreamHeader, audit_keys: &[AuditKeyDoc]) -> Self {
        Self {
            header,
            audit_keys: audit_keys.to_vec(),
            seq: 0,
            hash: GENESIS,
            segment: None,
            headed: false,
            contexts: Vec::new(),
            open: OpenCalls::default(),
            meta: Vec::with_capacity(512),
        }
    }

    /// Goes on in another stream of the same process: contexts keep their numbers, and calls that
    /// have no outcome yet end there.
    #[must_use]
    pub fn follow(mut self, header: StreamHeader) -> Self {
        self.open.carry(self.header.stream);
        for slot in self.contexts.iter_mut().flatten() {
            slot.written = 0;
        }
        Self {
            header,
            seq: 0,
            hash: GENESIS,
            segment: None,
            headed: false,
            ..self
        }
    }

    /// What was appended so far is in the file, and will not be taken back.
    pub fn settle(&mut self) {
        self.open.settle();
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.header.stream
    }

    /// The last frame's number; 0 before the first.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The last frame's hash.
    #[must_use]
    pub fn hash(&self) -> Digest {
        self.hash
    }

    /// Takes other audit keys; they hold from the next segment on. Says whether they differ.
    pub fn set_audit_keys(&mut self, keys: &[AuditKeyDoc]) -> bool {
        let differ = self.audit_keys != keys;
        if differ {
            self.audit_keys = keys.to_vec();
        }
        differ
    }

    /// Ends the segment: the next frame begins a new one, with a new data key.
    pub fn rotate(&mut self) {
        self.segment = None;
    }

    /// Goes back to the frame `seq` with hash `hash`, as if nothing had been encoded after it.
    /// Derivation numbers are not taken back: bytes of the lost frames may still lie on the disk.
    pub fn rewind(&mut self, seq: u64, hash: Digest) {
        if seq >= self.seq {
            return;
        }
        self.seq = seq;
        self.hash = hash;
        // the second record of a stream
        self.headed &= seq >= 2;
        if self
            .segment
            .as_ref()
            .is_some_and(|segment| segment.first_seq > seq)
        {
            self.segment = None;
        }
        for slot in self.contexts.iter_mut().flatten() {
            if slot.written > seq {
                slot.written = 0;
            }
        }
        self.open.rewind(seq);
    }

    /// Appends the frames of one entry to `out` and returns the number of the last frame there is.
    ///
    /// Contexts are kept here and written before their first use in each segment, so a segment
    /// can be read without those before it, and a context whose write failed is written again.
    /// `entropy` is used when a segment begins, and only then.
    pub fn append(&mut self, entry: &Entry, entropy: &mut dyn Entropy, out: &mut Vec<u8>) -> u64 {
        self.append_in(Room::Plenty, entry, entropy, out)
    }

    /// [`Encoder::append`] with a say on payloads.
    pub fn append_in(
        &mut self,
        room: Room,
        entry: &Entry,
        entropy: &mut dyn Entropy,
        out: &mut Vec<u8>,
    ) -> u64 {
        let at = &entry.at;
        match &entry.body {
            Body::Context(id, context) => self.register(*id, context),
            Body::Counted { code, count } => {
                self.begin(at, entropy, out);
                self.plain(kind::COUNTED, at, out, |meta| {
                    put_text(meta, code, CODE_BYTES);
                    put_number(meta, *count);
                });
            }
            Body::Denial { facts, code } => {
                self.begin(at, entropy, out);
                self.call(kind::DENIAL, Some(code), room, at, facts, out);
            }
            Body::Intent(facts) => {
                self.begin(at, entropy, out);
                self.call(kind::INTENT, None, room, at, facts, out);
            }
            Body::Link {
                server,
                code,
                detail,
            } => {
                self.begin(at, entropy, out);
                self.context(*server, at, out);
                self.plain(kind::LINK, at, out, |meta| {
                    put_number(meta, server.0.into());
                    put_text(meta, code, CODE_BYTES);
                    put_text(meta, detail, DETAIL_BYTES);
                });
            }
            Body::Loss { count, code } => {
                self.begin(at, entropy, out);
                self.plain(kind::LOSS, at, out, |meta| {
                    put_text(meta, code, CODE_BYTES);
                    put_number(meta, *count);
                });
            }
            Body::Outcome {
                call,
                leg,
                end,
                took_us,
                content,
                audit,
            } => {
                self.begin(at, entropy, out);
                let intent = self.intent(*call, *leg, at, out);
                let mut meta = self.meta(at);
                put_number(&mut meta, call.0);
                put_number(&mut meta, (*leg).into());
                put_end(&mut meta, *end);
                put_number(&mut meta, *took_us);
                let payload = (content, audit.results, room);
                self.finish(kind::OUTCOME, meta, payload, Refers::Intent(intent), out);
                if let Some(begun) = self.open.find(*call, *leg) {
                    begun.ended = self.seq;
                }
            }
        }
        self.seq
    }

    /// Appends the stream's last frame. Nothing where the stream has no frame yet.
    pub fn end(&mut self, at: &Now, entropy: &mut dyn Entropy, out: &mut Vec<u8>) {
        if self.seq > 0 {
            self.begin(at, entropy, out);
            let prev = self.hash;
            self.plain(kind::END, at, out, |meta| {
                put_ending(meta, Ending::Closed, 0, &prev);
            });
        }
    }

    /// Begins a segment unless one is open; begins the stream before its first.
    fn begin(&mut self, at: &Now, entropy: &mut dyn Entropy, out: &mut Vec<u8>) {
        if self.segment.is_none() {
            self.begin_segment(at, entropy, out);
        }
        // also where a write failed between the two
        if !self.headed {
            let mut meta = self.meta(at);
            put_header(&mut meta, &self.header);
            self.frame(kind::STREAM, meta, None, out);
            self.headed = true;
        }
    }

    fn begin_segment(&mut self, at: &Now, entropy: &mut dyn Entropy, out: &mut Vec<u8>) {
        let first_seq = self.seq + 1;
        let place = Place {
            org: &self.header.org,
            stream: self.header.stream,
            first_seq,
        };
        let recipients = seal::recipients(&self.audit_keys, at.unix_s());
        let mut wrapped = Vec::new();
        let key = DataKey::generate(place, &recipients, entropy, &mut wrapped);
        let mut meta = self.meta(at);
        meta.push(MIN_READER);
        meta.extend_from_slice(&self.header.stream.0);
        meta.extend_from_slice(&self.hash.0);
        put_text(&mut meta, self.header.org.as_str(), NAME_BYTES);
        put_text(&mut meta, &self.header.machine_id, NAME_BYTES);
        put_text(&mut meta, self.header.installation.as_str(), NAME_BYTES);
        let mut put = |out: &mut Vec<u8>| out.extend_from_slice(&wrapped);
        let blob: Option<PutBlob<'_>> = match key {
            Some(_) => Some(&mut put),
            None => None,
        };
        self.frame(kind::SEGMENT, meta, blob, out);
        self.segment = Some(Segment { first_seq, key });
    }

    fn register(&mut self, id: ContextId, context: &Context) {
        let Some(index) = (id.0 as usize)
            .checked_sub(1)
            .filter(|index| *index < CONTEXTS)
        else {
            return;
        };
        if self.contexts.len() <= index {
            self.contexts.resize_with(index + 1, || None);
        }
        let mut body = Vec::with_capacity(128);
        put_context(&mut body, context);
        let needs = match context {
            Context::Target { server, .. } => *server,
            Context::Caller(_)
            | Context::Client { .. }
            | Context::Credential { .. }
            | Context::Registry { .. }
            | Context::Rule { .. }
            | Context::Server { .. } => None,
        };
        let digest = Digest::of(&body);
        if let Some(slot) = self.contexts.get_mut(index) {
            *slot = Some(Slot {
                body,
                digest,
                needs,
                written: 0,
            });
        }
    }

    /// Writes the context unless this segment has it.
    fn context(&mut self, id: ContextId, at: &Now, out: &mut Vec<u8>) {
        let first_seq = self.segment.as_ref().map_or(0, |segment| segment.first_seq);
        let index = (id.0 as usize).wrapping_sub(1);
        let Some(Some(slot)) = self.contexts.get_mut(index) else {
            return;
        };
        if slot.written >= first_seq && slot.written > 0 {
            return;
        }
        let (needs, digest) = (slot.needs.take(), slot.digest);
        let body = std::mem::take(&mut slot.body);
        if let Some(needs) = needs {
            self.context(needs, at, out);
        }
        self.plain(kind::CONTEXT, at, out, |meta| {
            put_number(meta, id.0.into());
            meta.extend_from_slice(&body);
        });
        let written = self.seq;
        if let Some(Some(slot)) = self.contexts.get_mut(index) {
            *slot = Slot {
                body,
                digest,
                needs,
                written,
            };
        }
    }

    fn call(
        &mut self,
        kind: u8,
        code: Option<&str>,
        room: Room,
        at: &Now,
        facts: &CallFacts,
        out: &mut Vec<u8>,
    ) {
        let refs = Refs::from(facts);
        self.refer(refs, at, out);
        let mut meta = self.meta(at);
        if let Some(code) = code {
            put_text(&mut meta, code, CODE_BYTES);
        }
        let begin = meta.len();
        put_number(&mut meta, facts.call.0);
        put_number(&mut meta, facts.leg.into());
        for id in [facts.caller, facts.client, facts.target] {
            put_number(&mut meta, id.0.into());
        }
        put_number(&mut meta, facts.registry.map_or(0, |id| id.0.into()));
        put_number(&mut meta, facts.rule.0.into());
        let class = match facts.audit.class {
            DurabilityClass::Process => 0,
            DurabilityClass::Disk => 1,
            DurabilityClass::Collector => 2,
        };
        let fail_mode = match facts.audit.fail_mode {
            FailMode::Closed => 0,
            FailMode::Open => 1 << 4,
        };
        meta.push(class | fail_mode);
        put_correlation(&mut meta, &facts.correlation);
        let payload_at = meta.len();
        let payload = (&facts.content, facts.audit.arguments, room);
        let clear = self.finish(kind, meta, payload, Refers::Call(refs), out);
        if kind == kind::INTENT {
            let mut said = self.open.buffer();
            said.extend_from_slice(self.meta.get(begin..payload_at).unwrap_or_default());
            self.open.begin(Begun {
                call: facts.call,
                leg: facts.leg,
                refs,
                said,
                clear,
                written: self.seq,
                from: None,
                ended: 0,
            });
        }
    }

    /// Writes the contexts a call refers to, unless this segment has them.
    fn refer(&mut self, refs: Refs, at: &Now, out: &mut Vec<u8>) {
        for id in [refs.caller, refs.client, refs.target, refs.rule] {
            self.context(id, at, out);
        }
        for id in [refs.registry, refs.credential].into_iter().flatten() {
            self.context(id, at, out);
        }
    }

    /// The clear digest of the record an outcome belongs to. One whose intent is in another stream
    /// is told first what it belongs to.
    fn intent(&mut self, call: CallId, leg: u16, at: &Now, out: &mut Vec<u8>) -> Option<Digest> {
        let begun = self.open.find(call, leg)?;
        let Some((stream, seq)) = begun.from.filter(|_| begun.written == 0) else {
            return Some(begun.clear);
        };
        let (refs, said) = (begun.refs, std::mem::take(&mut begun.said));
        self.refer(refs, at, out);
        let mut meta = self.meta(at);
        meta.extend_from_slice(&stream.0);
        put_number(&mut meta, seq);
        meta.extend_from_slice(&said);
        meta.push(0);
        if let Some(credential) = refs.credential {
            put_number(&mut meta, credential.0.into());
        }
        let clear = self.clear(kind::CARRIED, &meta, WHOLE, Refers::Call(refs));
        self.frame(kind::CARRIED, meta, None, out);
        let written = self.seq;
        let begun = self.open.find(call, leg)?;
        (begun.said, begun.clear, begun.written) = (said, clear, written);
        Some(clear)
    }

    /// The clear digest of the next record.
    fn clear(&self, kind: u8, meta: &[u8], hole: Hole, refers: Refers) -> Digest {
        let at = At {
            stream: self.header.stream,
            seq: self.seq + 1,
            kind,
        };
        let mut clear = Clear::new(at, meta, hole);
        match refers {
            Refers::Call(refs) => {
                let slot = |id: ContextId| {
                    let index = (id.0 as usize).wrapping_sub(1);
                    self.contexts.get(index)?.as_ref()
                };
                let digest = |id| slot(id).map(|slot| &slot.digest);
                clear.add(digest(refs.caller));
                clear.add(digest(refs.client));
                clear.add(digest(refs.target));
                let server = slot(refs.target).and_then(|target| target.needs);
                clear.add(server.and_then(digest));
                clear.add(digest(refs.rule));
                clear.add(refs.registry.and_then(digest));
                clear.add(refs.credential.and_then(digest));
            }
            Refers::Intent(intent) => clear.add(intent.as_ref()),
        }
        clear.finish()
    }

    /// Writes a record that ends in a payload and, where there was one, a credential; of an
    /// outcome, whether its intent is recorded. Returns its clear digest.
    fn finish(
        &mut self,
        kind: u8,
        mut meta: Vec<u8>,
        (content, capture, room): (&Content, Capture, Room),
        refers: Refers,
        out: &mut Vec<u8>,
    ) -> Digest {
        let content = &content.0[..];
        let size = |meta: &mut Vec<u8>, why: u8| {
            meta.extend_from_slice(&[1, why]);
            put_number(meta, seal::bucket(content.len()) as u64);
        };
        let seq = self.seq + 1;
        let mut key = self.segment.as_mut().and_then(|segment| segment.key.take());
        // the form, and of the bound ones the number of the derivation
        let spot = match (&mut key, capture) {
            _ if content.is_empty() => {
                meta.push(0);
                None
            }
            (_, Capture::None) => {
                size(&mut meta, 0);
                None
            }
            (None, Capture::Digest | Capture::Full) => {
                size(&mut meta, 1);
                None
            }
            (Some(_), Capture::Digest | Capture::Full) if room == Room::Reserve => {
                size(&mut meta, 2);
                None
            }
            (Some(key), Capture::Digest | Capture::Full) => {
                let nonce = key.next_nonce();
                meta.push(match capture {
                    Capture::Full => 5,
                    Capture::Digest | Capture::None => 4,
                });
                put_number(&mut meta, seal::bucket(content.len()) as u64);
                put_number(&mut meta, nonce);
                Some(Spot { seq, kind, nonce })
            }
        };
        let hole: Hole = spot.map(|_| meta.len());
        if let (Some(spot), Some(key)) = (spot, &key) {
            // the digest is known once the clear part is, and stands where the commitment would
            meta.extend_from_slice(&match capture {
                Capture::Full => key.commitment(spot),
                Capture::Digest | Capture::None => [0; 32],
            });
        }
        // readers that do not know it ignore what follows the payload
        match refers {
            Refers::Call(refs) => {
                if let Some(credential) = refs.credential {
                    put_number(&mut meta, credential.0.into());
                }
            }
            Refers::Intent(intent) if spot.is_some() => meta.push(u8::from(intent.is_some())),
            Refers::Intent(_) => {}
        }
        let clear = self.clear(kind, &meta, hole, refers);
        match (spot, &key, hole) {
            (Some(spot), Some(key), _) if capture == Capture::Full => {
                let mut seal = |out: &mut Vec<u8>| key.seal(spot, &clear, content, out);
                self.frame(kind, meta, Some(&mut seal), out);
            }
            (Some(spot), Some(key), Some(hole)) => {
                let digest = key.digest(spot, Some(&clear), content);
                if let Some(slot) = meta.get_mut(hole..hole + 32) {
                    slot.copy_from_slice(&digest.0);
                }
                self.frame(kind, meta, None, out);
            }
            _ => self.frame(kind, meta, None, out),
        }
        if let Some(segment) = &mut self.segment {
            segment.key = key;
        }
        clear
    }

    fn plain(&mut self, kind: u8, at: &Now, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
        let mut meta = self.meta(at);
        put(&mut meta);
        self.frame(kind, meta, None, out);
    }

    /// Lends the buffer for a meta part, with the time in it. [`Encoder::frame`] takes it back.
    fn meta(&mut self, at: &Now) -> Vec<u8> {
        let mut meta = std::mem::take(&mut self.meta);
        meta.clear();
        put_now(&mut meta, at);
        meta
    }

    fn frame(&mut self, kind: u8, meta: Vec<u8>, blob: Option<PutBlob<'_>>, out: &mut Vec<u8>) {
        self.seq += 1;
        self.hash = frame::append(out, &self.hash, kind, self.seq, &meta, blob);
        self.meta = meta;
    }
}

/// Appends a damage record in the place of a writer that is gone; returns the chain's new hash.
pub(crate) fn damage(
    seq: u64,
    at: &Now,
    damage: &super::decode::Damage<'_>,
    out: &mut Vec<u8>,
) -> Digest {
    let mut meta = Vec::new();
    put_now(&mut meta, at);
    put_text(&mut meta, damage.file, NAME_BYTES);
    for number in [
        damage.offset,
        damage.bytes,
        damage.readable,
        damage.highest_seq,
    ] {
        put_number(&mut meta, number);
    }
    meta.extend_from_slice(&damage.digest.0);
    meta.extend_from_slice(&damage.prev_hash.0);
    frame::append(out, &damage.prev_hash, kind::DAMAGE, seq, &meta, None)
}

/// Appends the last record of a stream whose writer is gone; returns the chain's new hash.
pub(crate) fn adopted(
    (seq, prev): (u64, Digest),
    at: &Now,
    cut_bytes: u64,
    out: &mut Vec<u8>,
) -> Digest {
    let mut meta = Vec::new();
    put_now(&mut meta, at);
    put_ending(&mut meta, Ending::Adopted, cut_bytes, &prev);
    frame::append(out, &prev, kind::END, seq, &meta, None)
}

fn put_now(meta: &mut Vec<u8>, at: &Now) {
    put_number(meta, at.wall_us);
    put_number(meta, at.mono_us);
}

fn put_ending(meta: &mut Vec<u8>, how: Ending, cut_bytes: u64, prev: &Digest) {
    meta.push(match how {
        Ending::Closed => 0,
        Ending::Adopted => 1,
    });
    put_number(meta, cut_bytes);
    meta.extend_from_slice(&prev.0);
}

fn put_header(meta: &mut Vec<u8>, header: &StreamHeader) {
    meta.extend_from_slice(&header.stream.0);
    put_text(meta, header.org.as_str(), NAME_BYTES);
    put_text(meta, &header.machine_id, NAME_BYTES);
    put_text(meta, header.installation.as_str(), NAME_BYTES);
    put_number(meta, header.pid.into());
    put_text(meta, &header.version, CODE_BYTES);
    put_now(meta, &header.started);
    match &header.registry {
        None => meta.push(0),
        Some(version) => {
            meta.push(1);
            put_version(meta, version);
        }
    }
    let named = header.previous.len().min(PREVIOUS);
    let unnamed = header.previous.len() - named;
    put_number(meta, header.others.saturating_add(unnamed as u64));
    put_number(meta, named as u64);
    for previous in header.previous.iter().take(named) {
        meta.extend_from_slice(&previous.stream.0);
        put_number(meta, previous.at_least);
        meta.extend_from_slice(&previous.hash.0);
    }
}

fn put_version(meta: &mut Vec<u8>, version: &RegistryVersion) {
    for number in [
        version.root,
        version.timestamp,
        version.snapshot,
        version.targets,
    ] {
        put_number(meta, number);
    }
}

fn put_roles(body: &mut Vec<u8>, roles: &[String]) {
    let roles = roles.get(..ROLES).unwrap_or(roles);
    put_number(body, roles.len() as u64);
    for role in roles {
        put_text(body, role, NAME_BYTES);
    }
}

fn put_context(body: &mut Vec<u8>, context: &Context) {
    match context {
        Context::Caller(CallerContext::Nobody) => body.extend_from_slice(&[1, 0]),
        Context::Caller(CallerContext::Agent { name, key, roles }) => {
            body.extend_from_slice(&[1, 1]);
            put_text(body, name, NAME_BYTES);
            put_text(body, key, NAME_BYTES);
            put_roles(body, roles);
        }
        Context::Caller(CallerContext::Person {
            issuer,
            subject,
            display,
            roles,
        }) => {
            body.extend_from_slice(&[1, 2]);
            put_text(body, issuer, NAME_BYTES);
            put_text(body, subject, NAME_BYTES);
            put_text(body, display, NAME_BYTES);
            put_roles(body, roles);
        }
        Context::Client {
            name,
            version,
            protocol,
            session,
        } => {
            body.push(2);
            put_text(body, name, NAME_BYTES);
            put_text(body, version, NAME_BYTES);
            put_text(body, protocol, CODE_BYTES);
            body.push(u8::from(session.is_some()));
            if let Some(session) = session {
                put_text(body, session, CORRELATION_BYTES);
            }
        }
        Context::Credential {
            id,
            store,
            serial,
            owner,
        } => {
            body.push(7);
            put_text(body, id.as_str(), NAME_BYTES);
            put_text(body, store, CODE_BYTES);
            put_number(body, *serial);
            if let Some(owner) = owner {
                body.extend_from_slice(&owner.0);
            }
        }
        Context::Registry {
            org,
            version,
            digest,
            freshness,
        } => {
            body.push(3);
            put_text(body, org.as_str(), NAME_BYTES);
            put_version(body, version);
            body.extend_from_slice(&digest.0);
            body.push(match freshness {
                Freshness::Fresh => 0,
                Freshness::Grace => 1,
                Freshness::Lapsed => 2,
            });
        }
        Context::Rule { id, source, role } => {
            body.push(4);
            put_text(body, id, NAME_BYTES);
            put_text(body, source, NAME_BYTES);
            put_text(body, role, NAME_BYTES);
        }
        Context::Server {
            id,
            key,
            transport,
            protocol,
        } => {
            body.push(5);
            put_text(body, id.as_str(), NAME_BYTES);
            put_text(body, key.as_str(), NAME_BYTES);
            put_text(body, transport, CODE_BYTES);
            put_text(body, protocol, CODE_BYTES);
        }
        Context::Target {
            kind,
            server,
            name,
            exposed,
            definition,
        } => {
            body.push(6);
            body.push(match kind {
                TargetKind::Unknown => 0,
                TargetKind::Tool => 1,
                TargetKind::Prompt => 2,
                TargetKind::Resource => 3,
                TargetKind::Completion => 4,
                TargetKind::Subscription => 5,
                TargetKind::Task => 6,
                TargetKind::Ask => 7,
            });
            put_number(body, server.map_or(0, |id| id.0.into()));
            put_text(body, name, NAME_BYTES);
            body.push(u8::from(exposed.is_some()));
            if let Some(exposed) = exposed {
                put_text(body, exposed.as_str(), NAME_BYTES);
            }
            body.push(u8::from(definition.is_some()));
            if let Some(definition) = definition {
                body.extend_from_slice(&definition.0);
            }
        }
    }
}

fn put_correlation(meta: &mut Vec<u8>, ids: &Correlation) {
    let trace = ids.trace_id.as_deref().and_then(|hex| {
        let mut bytes = [0; 16];
        let decoded = data_encoding::HEXLOWER_PERMISSIVE.decode_mut(
            hex.get(..32).filter(|_| hex.len() == 32)?.as_bytes(),
            &mut bytes,
        );
        decoded.is_ok().then_some(bytes)
    });
    let texts = [&ids.tool_use_id, &ids.call_id, &ids.session_id];
    let mut present = u8::from(trace.is_some()) << 3;
    for (bit, text) in texts.iter().enumerate() {
        present |= u8::from(text.is_some()) << bit;
    }
    meta.push(present);
    for text in texts.into_iter().flatten() {
        put_text(meta, text, CORRELATION_BYTES);
    }
    if let Some(trace) = trace {
        meta.extend_from_slice(&trace);
    }
}

fn put_end(meta: &mut Vec<u8>, end: End) {
    match end {
        End::Unknown => meta.push(0),
        End::Ok => meta.push(1),
        End::ToolError => meta.push(2),
        End::Error(code) => {
            meta.push(3);
            put_signed(meta, code);
        }
        End::Cancelled => meta.push(4),
        End::Timeout => meta.push(5),
        End::NotSent => meta.push(6),
        End::Input => meta.push(7),
    }
}
