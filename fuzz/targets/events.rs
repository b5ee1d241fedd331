//! Events come out the same however the bytes come in.
#![no_main]

use mcpshim::wire::http::flatten;
use mcpshim::wire::sse::{Parser, Piece};

/// The bound is small so that it is reached.
fn read(bytes: &[u8], piece: usize) -> (Vec<Piece>, Option<Vec<u8>>) {
    let mut parser = Parser::new(64);
    let mut pieces = Vec::new();
    for piece in bytes.chunks(piece) {
        parser.push(piece, &mut |piece| pieces.push(piece));
        assert!(parser.held_bytes() <= 64 + 64);
    }
    // how much of an event that is too long was counted depends on where it was cut
    for piece in &mut pieces {
        if let Piece::TooLong { bytes } = piece {
            *bytes = 0;
        }
    }
    (pieces, parser.last_id().map(<[u8]>::to_vec))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
    let mut line = bytes.to_vec();
    flatten(&mut line);
    assert_eq!(line.len(), bytes.len());
});
