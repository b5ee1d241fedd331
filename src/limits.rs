//! Every bound, named, with its unit and its reason.
#![warn(missing_docs)]

/// Longest line accepted from a client or an upstream server, in bytes.
/// SDKs in the field stop at 10 to 16 MiB.
pub const LINE_BYTES: usize = 16 << 20;
/// A server whose line is longer than this and has no end yet is ended, in bytes: it costs
/// processor time for ever, and the calls that wait behind it get no answer.
pub const LINE_ENDLESS_BYTES: usize = 256 << 20;
/// Longest line written to a client, in bytes: the TypeScript SDK's read buffer is 10 MB.
pub const LINE_OUT_BYTES: usize = 10_000_000;
/// Deepest nesting of arrays and objects in one message. The readers of SDKs in the field stop at
/// 64 (.NET), 128 (Rust), 200 (Python's pydantic), 1,000 (Java) and 10,000 (Go) levels, or when
/// their stack ends (Node): what two of them can say to each other must pass.
pub const JSON_DEPTH: usize = 1_000;
/// Deepest nesting in a definition that is pinned: it is compared by a reader that recurses.
pub const PIN_DEPTH: usize = 96;
/// Longest JSON-RPC id token, in bytes.
pub const ID_BYTES: usize = 4 << 10;
/// Longest id token that the refusal of a message repeats, in bytes.
pub const ID_ECHO_BYTES: usize = 64 << 10;
/// Longest method name, in bytes.
pub const METHOD_BYTES: usize = 128;
/// Longest tool or prompt name of an upstream, in bytes (MCP 2026-07-28, tools: 1 to 128).
pub const TOOL_NAME_BYTES: usize = 128;
/// Longest exposed name: 64 less `mcp__mcpshim__`.
pub const EXPOSED_NAME_BYTES: usize = 50;
/// Characters of a name or URI of the client's that an error gives back.
pub const ECHOED_CHARS: usize = 2_048;
/// Longest resource URI that is routed, in bytes.
pub const URI_BYTES: usize = 8 << 10;
/// Calls one session may have in flight.
pub const CALLS_IN_FLIGHT: usize = 1024;
/// The same call (tool and arguments) may be made so often in so many seconds, unless the registry
/// says otherwise: a model that is stuck makes the same one for ever; one that looks at a page
/// after each click makes one every two seconds.
pub const REPEAT: (u32, u32) = (30, 60);
/// Largest such limit a registry may set, in calls and in seconds; `off` lifts it.
pub const REPEAT_MOST: (u32, u32) = (1_000, 3_600);
/// Calls that one session remembers to notice repeated ones; the oldest are forgotten first.
pub const REPEAT_MARKS: usize = 16 << 10;
/// Bytes of calls a session may have in flight to one link, before new calls to it are refused.
pub const LINK_QUEUE_BYTES: usize = 32 << 20;
/// A link for which more than this waits is ended, in bytes: calls alone cannot be so much.
pub const LINK_UNREAD_BYTES: usize = 48 << 20;
/// Servers in one registry.
pub const SERVERS: usize = 1000;
/// Tools in one server's pin.
pub const TOOLS_PER_SERVER: usize = 10_000;
/// Largest definition of a tool, prompt or resource that is offered, in bytes: it goes to a model
/// as a whole.
pub const DEFINITION_BYTES: usize = 256 << 10;
/// Deepest nesting of arrays and objects in one: readers of schemas recurse.
pub const DEFINITION_DEPTH: usize = 64;
/// Entries of a server that are named in what a session says of itself, of those not offered.
pub const QUARANTINED_SHOWN: usize = 16;
/// The same of those that are not what was approved: `explain` looks each call up there.
pub const DIFFERING_SHOWN: usize = 256;
/// Pages read of one upstream list.
pub const LIST_PAGES: usize = 200;
/// Largest merged `instructions`, in bytes: Claude Code cuts at 4096.
pub const INSTRUCTIONS_BYTES: usize = 4096;
/// How long an upstream may take to answer `server/discover` before it is taken for a server of
/// the handshake era, in milliseconds.
pub const PROBE_MS: u64 = 3_000;
/// The same for a server that is known to answer it (its pin says so), in milliseconds: a first
/// `npx` downloads before it reads.
pub const PROBE_KNOWN_MS: u64 = 30_000;
/// The same for `pin`, where a person waits and a wrong era would be signed, in milliseconds.
pub const PROBE_SURVEY_MS: u64 = 10_000;
/// How long it is remembered how a server speaks, in seconds.
pub const LEARNED_S: u64 = 7 * 86_400;
/// How long the lists of a running upstream may take to be read again, in milliseconds.
pub const SURVEY_MS: u64 = 30_000;
/// Largest sum of an upstream's list pages, in bytes.
pub const SURFACE_BYTES: usize = 32 << 20;
/// How long an upstream may take from start to ready, in milliseconds (first `npx` included).
pub const LINK_OPEN_MS: u64 = 120_000;
/// Default time a call may take, in milliseconds; a server entry may set its own.
pub const CALL_MS: u64 = 600_000;
/// A link without calls is stopped after this, in milliseconds, unless its server is stateful.
pub const LINK_IDLE_MS: u64 = 600_000;
/// First and longest pause before a link is started again, in milliseconds.
pub const LINK_BACKOFF_MS: (u64, u64) = (500, 60_000);
/// Unusable lines on one transport after which it is not taken for an MCP server while it opens.
pub const LINK_FAULTS: u32 = 1000;
/// Exchanges of one link that may fail one after the other before it is given a pause.
pub const LINK_STRAIN: u32 = 3;
/// Shortest and longest pause an HTTP server may ask for (`Retry-After`), in milliseconds.
pub const RETRY_AFTER_MS: (u64, u64) = (1_000, 300_000);
/// Answers of one HTTP server that may be held incomplete at once, in bytes.
pub const HTTP_HELD_BYTES: usize = 64 << 20;
/// Body of an HTTP refusal that is read for its reason, in bytes.
pub const REFUSAL_BYTES: usize = 64 << 10;
/// Shortest and longest pause before a broken event stream is opened again, in milliseconds.
pub const STREAM_PAUSE_MS: (u64, u64) = (100, 60_000);
/// How long a server of HTTP+SSE may take to say where messages go, in milliseconds.
pub const ENDPOINT_MS: u64 = 30_000;
/// Longest address that such a server may name, in bytes.
pub const ENDPOINT_BYTES: usize = 2_048;
/// Bytes of one event that is too long that are read over before its stream is given up.
pub const PASSED_OVER_BYTES: usize = 32 << 20;
/// The same of a body in a coding, in bytes that were unpacked without a message among them.
pub const UNPACKED_BYTES: usize = 32 << 20;
/// Largest window of a body in the coding `zstd`, as a power of two: 8 MiB (RFC 9659).
pub const CODED_WINDOW_LOG: u32 = 23;
/// How long the text of an HTTP refusal may take to come, in milliseconds.
pub const REFUSAL_MS: u64 = 5_000;
/// Characters that are shown of what a server says beside a refusal.
pub const REFUSAL_CHARS: usize = 200;
/// A server that refuses a call may have lost its session: a new one is tried at once if a call was
/// answered since the last such trial, else after so many milliseconds…
pub const DOUBT_MS: u64 = 60_000;
/// …and so often within them.
pub const DOUBTS: u32 = 20;
/// Times in a row that a broken answer may fail to be resumed.
pub const RESUME_TRIES: u32 = 5;
/// Room that is made at once for a body whose length is said, in bytes. Of a lie, only what is
/// written costs memory.
pub const BODY_BELIEVED_BYTES: usize = 2 << 20;
/// How long the end of an answer is waited for once everything in it has come, in milliseconds:
/// its connection can be used again then.
pub const ANSWER_END_MS: u64 = 1_000;
/// Messages that one JSON array of an HTTP server may hold (MCP 2025-03-26); one with more is not
/// read.
pub const HTTP_MESSAGES: usize = 1024;
/// Answers to questions of one HTTP server and notifications that may be on their way to it at
/// once: each holds a connection.
pub const HTTP_NOTES: usize = 32;
/// How long a remote server may take to take a notification, in milliseconds.
pub const HTTP_NOTE_MS: u64 = 30_000;
/// How long a remote session's end may take to be said, in milliseconds.
pub const FAREWELL_MS: u64 = 2_000;
/// First and longest pause before a broken `subscriptions/listen` is asked for again, in
/// milliseconds.
pub const RELISTEN_MS: (u64, u64) = (1_000, 300_000);
/// Contexts of one stream whose text a stranger chose (names that lead nowhere, client names);
/// later ones are recorded without the text.
pub const STRANGE_CONTEXTS: usize = 1024;
/// Messages that never became a call are counted and recorded together this often, in
/// milliseconds.
pub const COUNTED_MS: u64 = 2_000;
/// How long one process waits for another to leave the vault, in milliseconds.
pub const VAULT_LOCK_MS: u64 = 5_000;
/// Shortest and longest credential, in bytes. A shorter one could not be told from ordinary text,
/// so it could not be kept out of logs.
pub const SECRET_BYTES: (usize, usize) = (8, 16 << 10);
/// How long the keychain may take while a session waits, in milliseconds…
pub const KEYCHAIN_SERVE_MS: u64 = 10_000;
/// …and while a person waits, who may have to type a password, in milliseconds.
pub const KEYCHAIN_PERSON_MS: u64 = 60_000;
/// Largest sealed file of the vault, in bytes.
pub const VAULT_BYTES: u64 = 8 << 20;
/// Items in one vault, removed ones included.
pub const VAULT_ITEMS: usize = 4096;
/// Longest name of an item (an issuer's URL), in bytes.
pub const VAULT_NAME_BYTES: usize = 1024;
/// Largest value in the vault, in bytes: a person's tokens, groups included.
pub const VAULT_VALUE_BYTES: usize = 256 << 10;
/// The use of a credential is noted at most this often, in seconds.
pub const USED_NOTE_S: u64 = 3_600;
/// `subscriptions/listen` requests one session may have open.
pub const LISTENS: usize = 64;
/// Longest `subscriptions/listen`, in bytes: it is kept while it is open.
pub const LISTEN_BYTES: usize = 256 << 10;
/// A `subscriptions/listen` is acknowledged after this even if not every server of what it watches
/// has confirmed it, in milliseconds: sooner than clients give up (the TypeScript SDK: a minute).
pub const LISTEN_ACK_MS: u64 = 10_000;
/// News that are kept for one until it is acknowledged, in bytes; more acknowledges it at once.
pub const LISTEN_NEWS_BYTES: usize = 256 << 10;
/// Legs of one execution: its first request, the questions during it, and the requests that carry
/// what was answered.
pub const LEGS: u16 = 128;
/// Questions outside of calls that one transport of an upstream may ask and get answered; later
/// ones are refused.
pub const ASKS: u32 = 1024;
/// Refused questions of one transport that are recorded one by one; later ones are counted.
pub const ASKS_REFUSED: u32 = 16;
/// Questions to one client that may be open at once: a person answers one after the other…
pub const QUESTIONS: usize = 32;
/// …and of one upstream.
pub const QUESTIONS_PER_SERVER: usize = 8;
/// How long a person may take to answer one, in milliseconds.
pub const QUESTION_MS: u64 = 600_000;
/// For so long in all the time of a call stands still while a person is asked, in milliseconds.
pub const CALL_PAUSED_MS: u64 = 3_600_000;
/// Longest question that a person reads (elicitation), in bytes.
pub const ELICITATION_BYTES: usize = 256 << 10;
/// Elicitations of one upstream whose end it may still say (`notifications/elicitation/complete`).
pub const ELICITATION_IDS: usize = 64;
/// Longest reason why a server ended that is shown, in characters.
pub const REASON_CHARS: usize = 1000;
/// Longest name of a server's logger that is passed on, in characters.
pub const LOGGER_CHARS: usize = 64;
/// How often a client may say to an upstream how far it is with one question.
pub const QUESTION_NEWS: u32 = 256;
/// Longest progress of a client's and end of an elicitation of an upstream's, in bytes.
pub const NEWS_BYTES: usize = 64 << 10;
/// Longest value of a known key in a request's `_meta` that is not part of the recorded payload.
pub const PLAIN_BYTES: usize = 512;
/// Things that an upstream of the stateless era may ask for in one result.
pub const INPUT_REQUESTS: usize = 16;
/// Longest name that a server gives to one thing it asks for, in bytes.
pub const INPUT_NAME_BYTES: usize = 1024;
/// Longest `requestState` that is carried, in bytes.
pub const REQUEST_STATE_BYTES: usize = 1 << 20;
/// Times that one call may be sent again with what was answered: as often as SDK clients do.
pub const ROUNDS: u32 = 10;
/// Pause before a call is sent again whose upstream asks for nothing but that, in milliseconds: as
/// SDK clients pause.
pub const ROUND_PAUSE_MS: u64 = 250;
/// Calls that may wait for answers of a client between two legs.
pub const DRIVES: usize = 64;
/// Longest request that is kept to be sent again, in bytes, and all of them with the answers.
pub const DRIVEN_LINE_BYTES: usize = 4 << 20;
/// See [`DRIVEN_LINE_BYTES`].
pub const DRIVEN_BYTES: usize = 32 << 20;
/// Calls of one session that may wait for an answer of a client of the stateless era, and what is
/// kept of their questions and answers, in bytes.
pub const PARKED: usize = 64;
/// See [`PARKED`].
pub const PARKED_BYTES: usize = 8 << 20;
/// Questions of one call that come within this are asked together, in milliseconds.
pub const PARK_GATHER_MS: u64 = 20;
/// How long such a call waits for the client's retry, in milliseconds.
pub const PARKED_MS: u64 = 600_000;
/// Questions of upstreams for the client's roots that may wait for it.
pub const ROOTS_WAITING: usize = 64;
/// How long the client may take to say its roots, in milliseconds.
pub const ROOTS_MS: u64 = 10_000;
/// Roots of one client.
pub const ROOTS: usize = 256;
/// Longest list of roots, in bytes.
pub const ROOTS_BYTES: usize = 256 << 10;
/// Tasks of one session that can be followed; the oldest is forgotten for a newer one.
pub const TASKS: usize = 1024;
/// Longest id of an upstream's task, in bytes.
pub const TASK_ID_BYTES: usize = 512;
/// Resources and tasks one session may be subscribed to.
pub const SUBSCRIPTIONS: usize = 1024;
/// A list longer than this is handed to a client in pages of this size, in bytes. Clients that
/// read one page only see what one line can hold: less than 8 MB, two below the smallest read
/// buffer in the field, so that 10,000 tools of a usual size fit.
pub const LIST_PAGE_BYTES: usize = 7_900_000;
/// Burst of `list_changed` notifications is gathered for this long, in milliseconds.
pub const LIST_CHANGED_DEBOUNCE_MS: u64 = 250;
/// How long a machine with no verified registry waits for its first one before it answers
/// lists, in milliseconds.
pub const FIRST_REGISTRY_MS: u64 = 5_000;
/// A spool whose last append took longer than this is moved to its own thread, in microseconds.
pub const SLOW_APPEND_US: u64 = 20_000;
/// Largest payload sealed into the record, in bytes; the rest is cut and said to be cut.
pub const PAYLOAD_BYTES: usize = 16 << 20;
/// A spool segment is closed at this size, in bytes…
pub const SEGMENT_BYTES: u64 = 4 << 20;
/// …or this age, in milliseconds.
pub const SEGMENT_AGE_MS: u64 = 600_000;
/// Largest spool of one device, in bytes.
pub const SPOOL_BYTES: u64 = 256 << 20;
/// Room kept in the spool for denials, losses and outcomes once it is full, in bytes.
pub const SPOOL_RESERVE_BYTES: u64 = 16 << 20;
/// Records in one batch.
pub const BATCH_RECORDS: usize = 512;
/// Largest batch, compressed and not, in bytes: one record with the largest payload fits.
pub const BATCH_BYTES: (usize, usize) = (24 << 20, 32 << 20);
/// A batch is not filled beyond this, in bytes before compression, unless one record needs it.
pub const BATCH_FILL_BYTES: usize = 1 << 20;
/// First and longest pause before a batch is sent again, in milliseconds; full jitter.
pub const SHIP_BACKOFF_MS: (u64, u64) = (1_000, 300_000);
/// How long the shipper stays after the last shim ended and everything was sent, in milliseconds.
pub const SHIP_LINGER_MS: u64 = 10_000;
/// Between two tries of a sealed part that was too large for the way, the first and the longest,
/// in milliseconds: at most twelve an hour, and not before somebody may have raised the limit.
pub const SHIP_BODY_MS: (u64, u64) = (300_000, 3_600_000);
/// A batch from this size on whose connection is cut twice is taken for one too large; below it, no
/// refusal is remembered as a limit, in bytes.
pub const SHIP_CUT_BYTES: usize = 64 << 10;
/// How long one request of the shipper may take, in milliseconds.
pub const SHIP_REQUEST_MS: u64 = 60_000;
/// TUF: largest root, timestamp and snapshot metadata, in bytes.
pub const METADATA_BYTES: usize = 1 << 20;
/// TUF: largest targets metadata and largest single target, in bytes.
pub const TARGET_BYTES: usize = 16 << 20;
/// TUF: all documents of one registry together, in bytes.
pub const REGISTRY_BYTES: usize = 256 << 20;
/// TUF: most root updates followed in one refresh.
pub const ROOT_ROTATIONS: u64 = 256;
/// Life of the timestamp metadata, in seconds; whoever runs `refresh` daily has a week to notice that
/// it stopped.
pub const TIMESTAMP_LIFE_S: u64 = 7 * 86_400;
/// Life of the snapshot metadata, in seconds; `refresh` renews it at half.
pub const SNAPSHOT_LIFE_S: u64 = 30 * 86_400;
/// Life of the targets metadata, in seconds: signed by hand, so a publication every half year.
pub const TARGETS_LIFE_S: u64 = 180 * 86_400;
/// Life of the root metadata, in seconds.
pub const ROOT_LIFE_S: u64 = 730 * 86_400;
/// One refresh of the registry may take this long, in milliseconds.
pub const FETCH_MS: u64 = 60_000;
/// A download that brings fewer bytes than the first in so many milliseconds as the second has
/// stalled.
pub const FETCH_STALL: (usize, u64) = (4096, 10_000);
/// A wall clock that steps back by up to this is tolerated with a warning, in seconds.
pub const CLOCK_STEP_S: u64 = 86_400;
/// How far the clock of an identity provider may differ from ours, in seconds.
pub const TOKEN_LEEWAY_S: u64 = 60;
/// The end of a sign-in that was not renewed is warned of this long ahead, in seconds.
pub const SIGN_IN_WARNING_S: u64 = 1_800;
/// How long a silent renewal may take before it counts as failed, in seconds: two polls.
pub const RENEWAL_S: u64 = 60;
/// Longest ID token accepted, in bytes; 200 groups of 36 characters are about 11 KiB encoded.
pub const ID_TOKEN_BYTES: usize = 64 << 10;
/// How long a person may take to sign in, in milliseconds.
pub const LOGIN_MS: u64 = 600_000;
/// While a person signs in, a word that we still wait comes this often, in milliseconds.
pub const LOGIN_WORD_MS: u64 = 60_000;
/// How long one request to an identity provider may take, in milliseconds.
pub const LOGIN_REQUEST_MS: u64 = 30_000;
/// Longest answer of an identity provider that is read, in bytes.
pub const LOGIN_REPLY_BYTES: usize = 256 << 10;
/// How long one process waits for another to change the sign-in, in milliseconds: as long as a
/// slow provider takes to answer twice.
pub const LOGIN_LOCK_MS: u64 = 65_000;
/// Longest request the loopback listener reads, in bytes, and how long it may take, in
/// milliseconds.
pub const LOOPBACK_REQUEST: (usize, u64) = (16 << 10, 5_000);
/// A sign-in is renewed at least this long before its end, in seconds, unless it is short.
pub const RENEW_AHEAD_S: u64 = 1_800;
/// A renewal that could not be done now is tried again after this, in seconds.
pub const RENEW_RETRY_S: u64 = 60;
/// How often one process of a device asks for a new timestamp, in seconds.
pub const POLL_S: u64 = 30;
/// Log files kept, one a day.
pub const LOG_FILES: usize = 7;
/// Log events kept in memory until the log is opened, in bytes.
pub const LOG_HELD_BYTES: usize = 64 << 10;
