//! What is held of one stream, and where the next batch goes. Pure.
//!
//! A ledger is a list of runs: contiguous pieces of the chain. One run that begins at 1 is a
//! stream without gaps. Every batch meets exactly one [`Place`]; nothing that was signed is ever
//! refused for good, so that nothing a device deletes afterwards is lost.

use crate::audit::frame::GENESIS;
use crate::batch::{Header, Kind};
use crate::ids::Digest;

/// A contiguous piece of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Its first record.
    pub first_seq: u64,
    /// Its last record.
    pub last_seq: u64,
    /// The chain before its first record.
    pub prev_hash: Digest,
    /// The chain at its last record.
    pub last_hash: Digest,
}

impl Run {
    /// The piece one batch covers.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        Self {
            first_seq: header.first_seq,
            last_seq: header.last_seq,
            prev_hash: header.prev_hash,
            last_hash: header.last_hash,
        }
    }
}

/// Where a batch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Appended to the run it follows, or begins one.
    Append,
    /// Its beginning is stored already: equal if the stored chain has this hash at that record.
    /// Then everything up to there is a repeat, otherwise it is a fork.
    Compare {
        /// The last record both have.
        seq: u64,
    },
    /// It contradicts the stored chain.
    Fork,
    /// Something before it is missing, and the device may still hold it.
    Rewind {
        /// The record to go on from.
        expected_seq: u64,
        /// The last one before what is already stored begins.
        upto_seq: Option<u64>,
    },
}

/// The runs of one stream, in order and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    runs: Vec<Run>,
}

impl Ledger {
    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The records missing between runs, and before the first: first and last of each hole.
    pub fn gaps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let before = std::iter::once(0).chain(self.runs.iter().map(|run| run.last_seq));
        before
            .zip(&self.runs)
            .filter(|(before, run)| before + 1 < run.first_seq)
            .map(|(before, run)| (before + 1, run.first_seq - 1))
    }

    /// The last record held.
    #[must_use]
    pub fn last(&self) -> Option<&Run> {
        self.runs.last()
    }

    /// Finds the place of a batch whose own chain was checked.
    #[must_use]
    pub fn place(&self, header: &Header) -> Place {
        let (first, last) = (header.first_seq, header.last_seq);
        // the run it meets or follows, and the one behind it
        let at = self.runs.partition_point(|run| run.first_seq <= first);
        let before = at.checked_sub(1).and_then(|at| self.runs.get(at));
        let behind = self.runs.get(at);
        if let Some(run) = before
            && first <= run.last_seq
        {
            return Place::Compare {
                seq: last.min(run.last_seq),
            };
        }
        let (held, hash) = before.map_or((0, GENESIS), |run| (run.last_seq, run.last_hash));
        // a body whose record is not here carries it: the device has nothing else of it any more
        let anywhere = matches!(header.kind, Kind::Body | Kind::Gap);
        if first > held + 1 && !anywhere {
            return Place::Rewind {
                expected_seq: held + 1,
                upto_seq: behind.map(|run| run.first_seq - 1),
            };
        }
        if first == held + 1 && header.prev_hash != hash {
            return Place::Fork;
        }
        match behind {
            Some(run) if last >= run.first_seq => Place::Rewind {
                expected_seq: first,
                upto_seq: Some(run.first_seq - 1),
            },
            Some(run) if last + 1 == run.first_seq && header.last_hash != run.prev_hash => {
                Place::Fork
            }
            _ => Place::Append,
        }
    }

    /// Takes note of a batch that [`Ledger::place`] said to append and that is durable now.
    pub fn append(&mut self, new: Run) {
        let at = self
            .runs
            .partition_point(|run| run.first_seq <= new.first_seq);
        self.runs.insert(at, new);
        // joins both ways where nothing is missing between
        self.runs.dedup_by(|next, run| {
            let joined = run.last_seq + 1 == next.first_seq && run.last_hash == next.prev_hash;
            if joined {
                run.last_seq = next.last_seq;
                run.last_hash = next.last_hash;
            }
            joined
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Installation;
    use crate::ids::StreamId;

    /// The hash of a made-up chain at a record.
    fn hash(seq: u64) -> Digest {
        if seq == 0 {
            GENESIS
        } else {
            Digest::of(&seq.to_be_bytes())
        }
    }

    fn batch(first: u64, last: u64, kind: Kind) -> Header {
        Header {
            org: "example".parse().unwrap(),
            stream: StreamId([0; 16]),
            first_seq: first,
            last_seq: last,
            prev_hash: hash(first - 1),
            last_hash: hash(last),
            kind,
            remaining: 0,
            sent_us: 0,
            installation: Installation([0; 32]),
        }
    }

    fn ledger(pieces: &[(u64, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for &(first, last) in pieces {
            let header = batch(first, last, Kind::Gap);
            assert_eq!(ledger.place(&header), Place::Append, "{first}..={last}");
            ledger.append(Run::of(&header));
        }
        ledger
    }

    fn follows(held: &[(u64, u64)], first: u64, last: u64) -> Place {
        ledger(held).place(&batch(first, last, Kind::Following))
    }

    fn rewind(expected_seq: u64, upto_seq: impl Into<Option<u64>>) -> Place {
        Place::Rewind {
            expected_seq,
            upto_seq: upto_seq.into(),
        }
    }

    #[test]
    fn next_one_is_appended_and_a_later_one_sent_back() {
        assert_eq!(follows(&[], 1, 5), Place::Append);
        assert_eq!(follows(&[(1, 5)], 6, 9), Place::Append);
        assert_eq!(follows(&[(1, 5)], 7, 9), rewind(6, None));
        assert_eq!(follows(&[], 7, 9), rewind(1, None));
    }

    #[test]
    fn repeats_are_compared_at_the_last_record_both_have() {
        assert_eq!(follows(&[(1, 5)], 1, 5), Place::Compare { seq: 5 });
        assert_eq!(follows(&[(1, 5)], 2, 4), Place::Compare { seq: 4 });
        assert_eq!(follows(&[(1, 5)], 4, 9), Place::Compare { seq: 5 });
    }

    #[test]
    fn other_chain_is_a_fork() {
        let mut odd = batch(6, 9, Kind::Following);
        odd.prev_hash = hash(77);
        assert_eq!(ledger(&[(1, 5)]).place(&odd), Place::Fork);
        odd.first_seq = 1;
        assert_eq!(Ledger::default().place(&odd), Place::Fork);
        let mut bridge = batch(6, 7, Kind::Following);
        bridge.last_hash = hash(77);
        assert_eq!(ledger(&[(1, 5), (8, 9)]).place(&bridge), Place::Fork);
    }

    #[test]
    fn gap_is_kept_open_until_it_is_filled() {
        let mut held = ledger(&[(4, 6), (9, 9)]);
        assert_eq!(held.gaps().collect::<Vec<_>>(), [(1, 3), (7, 8)]);
        assert_eq!(held.place(&batch(1, 4, Kind::Following)), rewind(1, 3));
        for (first, last) in [(1, 3), (7, 7), (8, 8)] {
            let header = batch(first, last, Kind::Following);
            assert_eq!(held.place(&header), Place::Append);
            held.append(Run::of(&header));
        }
        assert_eq!(held.gaps().count(), 0);
        assert_eq!(held.runs(), [Run::of(&batch(1, 9, Kind::Following))]);
    }

    /// Whatever order and overlap honest batches come in, the ledger ends with exactly the union
    /// of what was appended, every record once, and a device that obeys gets everything in.
    #[test]
    fn honest_batches_in_any_order_are_held_once() {
        arbtest::arbtest(|u| {
            let total = u.int_in_range(1..=40)?;
            let mut held = Ledger::default();
            let mut stored = std::collections::BTreeSet::new();
            for _ in 0..u.int_in_range(0..=20)? {
                let first = u.int_in_range(1..=total)?;
                let last = u.int_in_range(first..=total)?;
                let kind = *u.choose(&[Kind::Following, Kind::Gap])?;
                let header = batch(first, last, kind);
                match held.place(&header) {
                    Place::Append => {
                        held.append(Run::of(&header));
                        for seq in first..=last {
                            assert!(stored.insert(seq), "{seq} was stored twice");
                        }
                    }
                    Place::Compare { seq } => assert!(stored.contains(&seq)),
                    Place::Fork => panic!("an honest batch was taken for a fork"),
                    Place::Rewind { expected_seq, .. } => assert!(expected_seq <= total),
                }
            }
            let mut next = 1;
            while next <= total {
                let header = batch(next, total, Kind::Following);
                match held.place(&header) {
                    Place::Append => {
                        held.append(Run::of(&header));
                        next = total + 1;
                    }
                    Place::Compare { seq } => next = seq + 1,
                    Place::Rewind {
                        expected_seq,
                        upto_seq,
                    } => {
                        assert_eq!(expected_seq, next);
                        let part = batch(next, upto_seq.unwrap(), Kind::Following);
                        assert_eq!(held.place(&part), Place::Append);
                        held.append(Run::of(&part));
                        next = part.last_seq + 1;
                    }
                    Place::Fork => panic!("an honest batch was taken for a fork"),
                }
            }
            assert_eq!(held.runs().len(), 1);
            assert_eq!(held.gaps().count(), 0);
            Ok(())
        });
    }
}
