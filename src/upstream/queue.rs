//! What waits to be written: whole lines, and of the first one what is left of it. The sinks of every
//! platform share it.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

/// Room for so many lines is kept when all are written; more was a burst, and is given back.
const KEEP_LINES: usize = 1024;

/// Lines in the order in which they are to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The first without what is written of it.
    lines: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    /// Adds a line.
    pub(super) fn push(&mut self, line: Bytes) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    /// Bytes not yet written.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    #[cfg(any(unix, test))]
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What is to be written next.
    #[cfg(windows)]
    pub(super) fn first(&self) -> Option<&Bytes> {
        self.lines.front()
    }

    /// What is to be written, from the first on.
    pub(super) fn lines(&self) -> impl ExactSizeIterator<Item = &Bytes> {
        self.lines.iter()
    }

    /// So many bytes were written.
    pub(super) fn consume(&mut self, mut len: usize) {
        self.bytes = self.bytes.saturating_sub(len);
        while let Some(first) = self.lines.front_mut() {
            if len < first.len() {
                first.advance(len);
                return;
            }
            len -= first.len();
            self.lines.pop_front();
        }
        if self.lines.capacity() > KEEP_LINES {
            self.lines = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_however_it_is_written() {
        arbtest::arbtest(|u| {
            let mut queue = Queue::default();
            let (mut expected, mut written) = (Vec::new(), Vec::new());
            for _ in 0..u.int_in_range(0..=20)? {
                if u.arbitrary()? {
                    let line: Vec<u8> = u.arbitrary()?;
                    expected.extend_from_slice(&line);
                    queue.push(line.into());
                } else {
                    let all: Vec<u8> = queue.lines().flatten().copied().collect();
                    let len = u.int_in_range(0..=all.len())?;
                    written.extend_from_slice(&all[..len]);
                    queue.consume(len);
                }
                assert_eq!(queue.bytes(), expected.len() - written.len());
            }
            written.extend(queue.lines().flatten());
            assert_eq!(written, expected);
            queue.consume(queue.bytes());
            assert!(queue.is_empty() && queue.bytes() == 0);
            Ok(())
        });
    }

    #[test]
    fn room_for_a_burst_is_given_back() {
        let mut queue = Queue::default();
        for _ in 0..100_000 {
            queue.push(Bytes::from_static(b"x\n"));
        }
        queue.consume(200_000);
        assert!(queue.lines.capacity() <= KEEP_LINES);
    }
}
