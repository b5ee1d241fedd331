//! What a laptop wrote down.

use std::path::Path;

use mcpshim::audit::decode::{Said, decode};
use mcpshim::audit::{frames, verify_chain};
use mcpshim::clock::{Clock as _, SystemClock};
use mcpshim::ids::StreamId;
use mcpshim::spool::Backlog;

use super::Org;

/// Reads every stream of a spool as the shipper would: repaired, ended, chained, whole, in order.
pub(crate) fn read_spool(dir: &Path, mut each: impl FnMut(StreamId, Said<'_>)) {
    let mut backlog = Backlog::open(dir.to_owned());
    backlog.adopt(&SystemClock::new().now()).unwrap();
    for stream in backlog.streams().unwrap() {
        // one that was killed before its first record has nothing to end
        let over = stream.ended || stream.last_seq == 0;
        assert!(over && !stream.live, "{stream:?}");
        let mut next = 1;
        while let Some(slice) = backlog.read(stream.id, next, 512, 1 << 20).unwrap() {
            let tail = verify_chain(slice.prev_hash, &slice.frames).unwrap();
            assert_eq!(tail.last_seq, slice.last_seq);
            for frame in frames(&slice.frames) {
                match decode(&frame.unwrap()).unwrap().said {
                    Said::Damage(damage) => panic!("{damage:?}"),
                    said => each(stream.id, said),
                }
            }
            next = slice.last_seq + 1;
        }
        assert_eq!(next, stream.last_seq + 1, "the whole stream was read");
    }
}

/// How the calls of the organisation's one session ended, in their order, as the record says.
pub(crate) fn ends(org: &Org) -> Vec<String> {
    let mut ends = Vec::new();
    read_spool(&org.state().join("spool"), |_, said| {
        if let Said::Outcome { end, .. } = said {
            ends.push(format!("{end:?}"));
        }
    });
    ends
}
