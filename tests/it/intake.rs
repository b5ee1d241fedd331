//! Strangers at the collector: who makes up a key, or sends nothing whole, costs nobody else.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mcpshim::batch::{self, Header, InstallationKey, Kind};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::ids::{Digest, StreamId};
use mcpshim::spool::Slice;
use serde_json::json;

use super::collector::{Server, Site, devices, heir, post, read, seal};

/// A stranger's batch: a header as anybody can sign one, and a body.
struct Forged {
    key: InstallationKey,
    header: Header,
    body: Vec<u8>,
}

impl Forged {
    fn new(seed: u8, stream: StreamId, slice: &Slice) -> Self {
        let key = InstallationKey::from_seed(&[seed; 32]).unwrap();
        let header = Header {
            org: "it.example".parse().unwrap(),
            stream,
            first_seq: slice.first_seq,
            last_seq: slice.last_seq,
            prev_hash: slice.prev_hash,
            last_hash: slice.last_hash,
            kind: Kind::Following,
            remaining: 0,
            sent_us: SystemClock::new().now().wall_us,
            installation: key.public(),
        };
        Self {
            key,
            header,
            body: slice.frames.clone(),
        }
    }

    /// One frame nobody can read, which takes this much room once it is unpacked.
    fn junk(seed: u8, number: u8, bytes: usize) -> Self {
        let mut frames = vec![0; bytes];
        frames[0] = number;
        let slice = Slice {
            first_seq: 1,
            last_seq: 1,
            prev_hash: Digest::default(),
            last_hash: Digest::default(),
            frames,
        };
        let mut forged = Self::new(seed, StreamId([seed; 16]), &slice);
        forged.header.kind = Kind::Quarantine;
        forged
    }

    fn bytes(&self) -> Vec<u8> {
        batch::seal(&self.header, &self.body, self.key.pair()).unwrap()
    }

    fn send(&self, server: &Server) -> (u16, serde_json::Value) {
        server.send(self.header.stream, self.header.first_seq, &self.bytes())
    }
}

/// Bytes that do not get smaller by compression.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

fn open(address: SocketAddr, declared: usize, first: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/streams/{}/batches/1 HTTP/1.1\r\nhost: collector\r\ncontent-length: {declared}\r\n\r\n",
        StreamId([7; 16]),
    );
    drop(socket.write_all(head.as_bytes()));
    drop(socket.write_all(first));
    socket
}

fn is_open(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let open = !matches!((&mut &*socket).read(&mut [0; 512]), Ok(0));
    socket.set_nonblocking(false).unwrap();
    open
}

/// A hundred connections that nobody knows, of every speed, and a device that is known.
#[test]
fn known_device_is_served_beside_a_hundred_strangers_of_any_speed() {
    let site = Site::new();
    let server = site.collector();
    let address = server.address();
    let (stream, slices) = site.slices(6, 4);
    // a large body under a header that anybody can sign
    let large = Slice {
        first_seq: 1,
        last_seq: 1,
        prev_hash: Digest::default(),
        last_hash: Digest::default(),
        frames: noise(20 << 20),
    };
    let large = Forged::new(7, StreamId([7; 16]), &large).bytes();
    let mut held = Vec::new();
    for number in 0..90 {
        let socket = match number % 6 {
            // nothing, half a head, a head
            0 => TcpStream::connect(address).unwrap(),
            1 => {
                let mut socket = TcpStream::connect(address).unwrap();
                socket
                    .write_all(b"POST /v1/streams/x HTTP/1.1\r\nhos")
                    .unwrap();
                socket
            }
            2 => open(address, large.len(), b""),
            // some of the front, the front, and a part of the body
            3 => open(address, large.len(), &large[..100]),
            4 => open(address, large.len(), &large[..400]),
            _ => open(address, large.len(), &large[..200_000]),
        };
        held.push(socket);
    }
    // ten that are as fast as they can, each time anew
    let over = Arc::new(AtomicBool::new(false));
    let fast: Vec<_> = (0..10_u8)
        .map(|number| {
            let over = Arc::clone(&over);
            let junk = Forged::junk(100 + number, 0, 1 << 20).bytes();
            let path = format!("/v1/streams/{}/batches/1", StreamId([100 + number; 16]));
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    post(address, &path, "", &junk);
                }
            })
        })
        .collect();
    let start = Instant::now();
    for slice in &slices {
        let (status, body) = server.deliver(&site, stream, slice);
        assert_eq!((status, &body["standing"]), (200, &json!("enrolled")));
    }
    let took = start.elapsed();
    println!("{} batches beside 100 strangers: {took:?}", slices.len());
    let open = held.iter().filter(|socket| is_open(socket)).count();
    over.store(true, Ordering::Relaxed);
    for thread in fast {
        thread.join().unwrap();
    }
    // one large body is under way, the others of this address gave way to it; who sends nothing
    // is given up after 15 s, which a busy machine may take for this
    let is_slow = took > Duration::from_secs(10);
    assert!(open >= 60 || is_slow, "{open} of 90 were still there");
    assert_eq!(
        server.query(&["--agent", "ci", "--phase", "intent"]).len(),
        4
    );
}

/// What takes room for a large body and never sends it keeps no small one out, known or not.
#[test]
fn those_who_send_slowly_keep_nobody_else_waiting() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    let large = Slice {
        first_seq: 1,
        last_seq: 1,
        prev_hash: Digest::default(),
        last_hash: Digest::default(),
        frames: noise(23 << 20),
    };
    let large = Forged::new(7, StreamId([7; 16]), &large).bytes();
    // as much as ever fits, less one byte, from nine
    let slow: Vec<TcpStream> = (0..9)
        .map(|_| open(server.address(), large.len(), &large[..large.len() - 1]))
        .collect();
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    let (other, slices) = site.slices(2, 500);
    let (status, body) = Forged::new(8, other, &slices[0]).send(&server);
    assert_eq!((status, &body["standing"]), (200, &json!("unknown")));
    // what is no batch is told so at once, however much of it is to come
    let mut socket = open(server.address(), 20_000_000, &noise(400));
    let mut reply = [0; 12];
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"HTTP/1.1 400");
    drop(slow);
}

#[test]
fn body_without_a_length_is_held_to_what_its_front_says() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    let batch = site.batch(stream, &slices[0]);
    let send = |body: &[u8]| {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let head = format!(
            "POST /v1/streams/{stream}/batches/1 HTTP/1.1\r\nhost: collector\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).unwrap();
        drop(socket.write_all(&[body, b"\r\n0\r\n\r\n"].concat()));
        let mut reply = String::new();
        drop(socket.read_to_string(&mut reply));
        reply.get(9..12).map(str::to_owned)
    };
    let longer = [batch.as_slice(), b"more"].concat();
    assert_eq!(send(&longer).as_deref(), Some("400"));
    assert_eq!(send(&batch).as_deref(), Some("200"));
    assert_eq!(server.query(&["--phase", "intent"]).len(), 2);
}

/// A few bytes on the way may be many to read: they count as what they are unpacked.
#[test]
fn room_of_strangers_is_counted_unpacked() {
    let site = Site::new();
    let server = site.collector();
    let most = 31 << 20;
    for number in 1..=2 {
        let junk = Forged::junk(7, number, most);
        assert!(junk.bytes().len() < 16_384);
        assert_eq!(junk.send(&server).0, 200);
    }
    // a third one would be beyond 64 MiB, and is refused before it is unpacked
    assert_eq!(Forged::junk(7, 3, most).send(&server).0, 429);
    assert_eq!(Forged::junk(7, 4, 1 << 10).send(&server).0, 200);
    // another one has room of its own, and a known device is not counted at all
    assert_eq!(Forged::junk(8, 1, 1 << 20).send(&server).0, 200);
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    // the same is counted when the collector starts again
    let data = server.kill();
    let server = site.bare_collector();
    assert_eq!(server.data(), data);
    assert_eq!(Forged::junk(7, 5, most).send(&server).0, 429);
    assert_eq!(Forged::junk(7, 6, 1 << 10).send(&server).0, 200);
}

/// Everything a made-up key can send changes no number of those who are known.
#[test]
fn strangers_change_no_answer_about_others() {
    let site = Site::new();
    let server = site.collector();
    let [(first, one), (second, two)] = heir(&site);
    assert_eq!(server.deliver(&site, first, &one).0, 200);
    assert_eq!(server.deliver(&site, second, &two).0, 200);
    let complete = || {
        let lines = read(server.data(), "devices", &["--json"])
            .ok()
            .json_lines();
        let last = lines.last().unwrap().clone();
        (last["complete_through"].clone(), last["devices"].clone())
    };
    let before = (complete(), devices(server.data()));
    let intact = read(server.data(), "verify", &[]).ok().stdout;
    assert!(
        intact.contains("records are intact, 0 findings"),
        "{intact}"
    );

    // complete a day ago; a gap; a stream that names an honest one with another record; a stream
    // of an honest name with other records
    let (stream, slices) = site.slices(3, 500);
    let mut old = Forged::new(1, stream, &slices[0]);
    old.header.sent_us -= 86_000_000_000;
    assert_eq!(old.send(&server).0, 200);
    let (stream, slices) = site.slices(6, 4);
    let mut gap = Forged::new(2, stream, &slices[1]);
    gap.header.kind = Kind::Gap;
    assert_eq!(gap.send(&server).0, 200);
    let [_, (later, named)] = heir(&site);
    assert_eq!(Forged::new(3, later, &named).send(&server).0, 200);
    let (_, other) = site.calls(7, 9, 10_000);
    assert_eq!(Forged::new(4, first, &other[0]).send(&server).0, 200);
    assert_eq!(Forged::junk(5, 1, 100).send(&server).0, 200);

    assert_eq!((complete(), devices(server.data())), before);
    let ended = read(server.data(), "verify", &[]).ok();
    assert!(
        ended.stdout.contains("0 findings; not counted: "),
        "{ended:?}"
    );
    assert!(
        ended
            .stdout
            .contains("of 5 installations that nobody enrolled")
    );
    let last = read(server.data(), "query", &[]).ok().stdout;
    assert!(
        last.contains("for 1 of 1 devices; not counted: 5"),
        "{last}"
    );
    // the same from one that is known counts
    assert_eq!(
        server
            .send(later, 1, &seal(&site.key, later, &named, Kind::Following))
            .0,
        200
    );
    read(server.data(), "verify", &[]).refused(1, "are missing");
}

/// An answer has a limit; made-up records take none of it from honest ones.
#[test]
fn strangers_push_no_honest_record_out_of_an_answer() {
    let site = Site::new();
    let server = site.collector();
    let (stream, slices) = site.slices(3, 500);
    assert_eq!(server.deliver(&site, stream, &slices[0]).0, 200);
    for seed in 1..4 {
        let (stream, slices) = site.slices(6, 500);
        assert_eq!(Forged::new(seed, stream, &slices[0]).send(&server).0, 200);
    }
    let found = server.query(&["--agent", "ci", "--limit", "5"]);
    let known = found.iter().filter(|r| r["standing"] == "enrolled").count();
    assert_eq!((known, found.len()), (5, 10));
}
