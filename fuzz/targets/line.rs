//! Lines come out the same however the bytes come in.
#![no_main]

use mcpshim::wire::line::LineBuffer;

/// The first byte says how long the pieces are; the bound is small so that it is reached.
fn read(bytes: &[u8], piece: usize) -> Vec<Result<Vec<u8>, String>> {
    let mut buffer = LineBuffer::with_bound(64);
    let mut lines = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend(piece);
        while let Some(line) = buffer.next_line() {
            lines.push(line.map(<[u8]>::to_vec).map_err(|fault| format!("{fault:?}")));
        }
    }
    lines.extend(buffer.finish().map(|fault| Err(format!("{fault:?}"))));
    lines
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
});
