//! Bodies in a coding (RFC 9110, 8.4), unpacked piece by piece.
//!
//! `Accept-Encoding: identity` is sent, yet some hosts and proxies compress all they send. What
//! comes is unpacked in steps of at most [`PIECE_BYTES`] and a block of the coding, so that a small
//! body that stands for a huge one costs no more than its reader takes: whoever reads counts what
//! comes out, as of a body without a coding.
//!
//! Refused: more than one coding, and any but `gzip`, `deflate`, `zstd` and `br`.

use std::io;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::{Buf as _, Bytes};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use hyper::header::{CONTENT_ENCODING, HeaderMap};

use super::pool::Reply;
use crate::limits;
use crate::text::printable;

/// Most bytes of a body that are looked at in one step, and that `br` gives in one.
const PIECE_BYTES: usize = 16 << 10;
/// Longest name of a coding that is told, in characters.
const NAME_CHARS: usize = 40;

/// Bytes that are unpacked before others have a turn.
const TURN_BYTES: usize = 256 << 10;

/// Why there is no more of a body.
#[derive(Debug)]
pub(super) enum BodyError {
    Broken(hyper::Error),
    /// It is not what its coding says.
    Spoilt(&'static str),
}

/// A body that is read as if it had no coding.
#[derive(Debug)]
pub(super) struct Body<'a> {
    reply: Reply<'a>,
    unpacker: Option<Unpacker>,
    /// What came and is not unpacked yet.
    rest: Bytes,
    /// The last step gave something, so another may without more input.
    more: bool,
    /// How much was unpacked since others had a turn.
    turn: usize,
}

impl<'a> Body<'a> {
    /// Of a reply.
    ///
    /// # Errors
    /// A phrase that follows the server's key, where its coding cannot be unpacked.
    pub(super) fn of(reply: Reply<'a>) -> Result<Self, String> {
        Ok(Self {
            unpacker: Unpacker::of(reply.headers())?,
            reply,
            rest: Bytes::new(),
            more: false,
            turn: 0,
        })
    }

    /// Whether what comes out may be much more than what came in.
    pub(super) fn is_coded(&self) -> bool {
        self.unpacker.is_some()
    }

    /// How long it is, where the server says so.
    pub(super) fn length(&self) -> Option<u64> {
        match self.unpacker {
            None => self.reply.length(),
            Some(_) => None,
        }
    }

    /// The next piece. Dropping the future loses nothing.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let Some(unpacker) = &mut self.unpacker else {
            return self.reply.chunk().await.map_err(BodyError::Broken);
        };
        loop {
            if self.turn > TURN_BYTES {
                self.turn = 0;
                tokio::task::yield_now().await;
            }
            if !self.rest.is_empty() || self.more {
                let mut input = &self.rest[..];
                let out = unpacker.step(&mut input);
                let out = out.map_err(|_error| BodyError::Spoilt(unpacker.name()))?;
                let left = input.len();
                self.rest.advance(self.rest.len() - left);
                self.more = !out.is_empty();
                self.turn += out.len();
                if self.more {
                    return Ok(Some(Bytes::from(out)));
                }
                continue;
            }
            match self.reply.chunk().await.map_err(BodyError::Broken)? {
                Some(chunk) => self.rest = chunk,
                None if unpacker.ends() => return Ok(None),
                None => return Err(BodyError::Spoilt(unpacker.name())),
            }
        }
    }
}

type Brotli = BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>;

/// Unpacks one body.
pub(super) enum Unpacker {
    Brotli(Box<Brotli>),
    /// `deflate`, before its first byte: servers send it with a zlib header, as the standard wants,
    /// and without.
    Deflate,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Raw(Box<DeflateDecoder<Vec<u8>>>),
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Unpacker {
    fn name(&self) -> &'static str {
        match self {
            Self::Brotli(_) => "br",
            Self::Deflate | Self::Raw(_) | Self::Zlib(_) => "deflate",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        }
    }

    /// Whether a body may end here, as far as its coding checks itself.
    fn ends(&mut self) -> bool {
        match self {
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
            Self::Brotli(_) | Self::Deflate | Self::Raw(_) | Self::Zlib(_) | Self::Zstd(_) => true,
        }
    }

    /// For a body with these headers; `None` where it is in no coding.
    ///
    /// # Errors
    /// A phrase that follows the server's key, where it cannot be unpacked.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let mut codings = Vec::new();
        for value in headers.get_all(CONTENT_ENCODING) {
            let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            let names = text.split(',').map(|name| name.trim().to_owned());
            codings.extend(names.filter(|name| !name.is_empty() && name != "identity"));
        }
        let unpacker = match &codings[..] {
            [] => return Ok(None),
            [one] => match one.as_str() {
                "br" => {
                    let of = StandardAlloc::default;
                    Some(Self::Brotli(Box::new(Brotli::new(of(), of(), of()))))
                }
                "deflate" => Some(Self::Deflate),
                "gzip" | "x-gzip" => Some(Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
                "zstd" => zstd::stream::write::Decoder::new(Vec::new())
                    .and_then(|mut decoder| {
                        decoder.window_log_max(limits::CODED_WINDOW_LOG)?;
                        Ok(Self::Zstd(Box::new(decoder)))
                    })
                    .ok(),
                _ => None,
            },
            [_, _, ..] => None,
        };
        let named: String = codings.join(", ").chars().take(NAME_CHARS).collect();
        let unknown = || {
            format!(
                "answered in the coding `{}`, which mcpshim cannot unpack and did not ask for",
                printable(&named)
            )
        };
        unpacker.map(Some).ok_or_else(unknown)
    }

    /// Unpacks some of `input` and gives what came out, perhaps nothing. How much of `input` was
    /// taken is taken from it.
    pub(super) fn step(&mut self, input: &mut &[u8]) -> io::Result<Vec<u8>> {
        if let (Self::Deflate, Some(first)) = (&self, input.first()) {
            // RFC 1950: the method 8 in the low bits; as raw blocks it would be a reserved kind
            *self = match first & 0x0f {
                8 => Self::Zlib(Box::new(ZlibDecoder::new(Vec::new()))),
                _ => Self::Raw(Box::new(DeflateDecoder::new(Vec::new()))),
            };
        }
        let piece = input.get(..PIECE_BYTES).unwrap_or(input);
        let (taken, out) = match self {
            Self::Brotli(state) => brotli(state, piece)?,
            Self::Deflate => (0, Vec::new()),
            Self::Gzip(decoder) => {
                let taken = write(&mut **decoder, piece)?;
                (taken, std::mem::take(decoder.get_mut()))
            }
            Self::Raw(decoder) => {
                let taken = write(&mut **decoder, piece)?;
                (taken, std::mem::take(decoder.get_mut()))
            }
            Self::Zlib(decoder) => {
                let taken = write(&mut **decoder, piece)?;
                (taken, std::mem::take(decoder.get_mut()))
            }
            Self::Zstd(decoder) => {
                let taken = write(&mut **decoder, piece)?;
                (taken, std::mem::take(decoder.get_mut()))
            }
        };
        if taken == 0 && out.is_empty() && !input.is_empty() {
            return Err(io::Error::other("something follows its end"));
        }
        *input = input.get(taken..).unwrap_or_default();
        Ok(out)
    }
}

/// Hands a piece to a decoder: it takes as much as it gives room for, and what it held back comes
/// once all is taken.
fn write(decoder: &mut impl io::Write, piece: &[u8]) -> io::Result<usize> {
    let taken = decoder.write(piece)?;
    if taken == piece.len() {
        decoder.flush()?;
    }
    Ok(taken)
}

fn brotli(state: &mut Brotli, piece: &[u8]) -> io::Result<(usize, Vec<u8>)> {
    let mut out = vec![0; PIECE_BYTES];
    let (mut left, mut taken) = (piece.len(), 0);
    let (mut room, mut given, mut total) = (out.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut left, &mut taken, piece, &mut room, &mut given, &mut out, &mut total, state,
    );
    out.truncate(given);
    match result {
        BrotliResult::ResultFailure => Err(io::Error::other("it is not of its coding")),
        BrotliResult::NeedsMoreInput
        | BrotliResult::NeedsMoreOutput
        | BrotliResult::ResultSuccess => Ok((taken, out)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use hyper::header::HeaderValue;

    use super::*;

    fn headers(codings: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for coding in codings {
            headers.append(CONTENT_ENCODING, HeaderValue::from_static(coding));
        }
        headers
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn raw(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// Unpacks a body that comes in pieces of `step` bytes; the largest piece that came out too.
    fn unpack(coding: &'static str, body: &[u8], step: usize) -> io::Result<(Vec<u8>, usize)> {
        let mut unpacker = Unpacker::of(&headers(&[coding])).unwrap().unwrap();
        let (mut all, mut largest) = (Vec::new(), 0);
        for mut piece in body.chunks(step) {
            loop {
                let out = unpacker.step(&mut piece)?;
                largest = largest.max(out.len());
                all.extend_from_slice(&out);
                if out.is_empty() && piece.is_empty() {
                    break;
                }
            }
        }
        match unpacker.ends() {
            true => Ok((all, largest)),
            false => Err(io::Error::other("cut")),
        }
    }

    /// What another program made of 100,000 times `x`.
    const BROTLI: &[u8] = &[91, 159, 134, 129, 95, 2, 47, 30, 11, 4, 178, 252, 2, 0];

    #[test]
    fn every_coding_is_unpacked_however_it_is_cut() {
        let text: Vec<u8> = (0..200_000_u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        let zstd = zstd::bulk::compress(&text, 3).unwrap();
        let bodies = [
            ("gzip", gzip(&text)),
            ("x-gzip", gzip(&text)),
            ("deflate", zlib(&text)),
            ("deflate", raw(&text)),
            ("zstd", zstd),
        ];
        for (coding, body) in &bodies {
            for step in [1000, 65_536, usize::MAX] {
                let (all, _) = unpack(coding, body, step).unwrap();
                assert!(all == text, "{coding} {step}");
            }
        }
        for (coding, body) in [("gzip", gzip(b"{}")), ("deflate", raw(b"{}"))] {
            assert_eq!(unpack(coding, &body, 1).unwrap().0, b"{}");
        }
        let two = [gzip(b"{\"a\":"), gzip(b"1}")].concat();
        assert_eq!(unpack("gzip", &two, 7).unwrap().0, b"{\"a\":1}");
        let (all, _) = unpack("br", BROTLI, 3).unwrap();
        assert!(all == vec![b'x'; 100_000]);
    }

    #[test]
    fn a_small_body_that_stands_for_a_huge_one_comes_in_small_pieces() {
        let zeros = vec![0; 64 << 20];
        let zstd = zstd::bulk::compress(&zeros, 19).unwrap();
        for (coding, body) in [
            ("gzip", gzip(&zeros)),
            ("deflate", raw(&zeros)),
            ("zstd", zstd),
        ] {
            assert!(body.len() < 128 << 10, "{coding}");
            let (all, largest) = unpack(coding, &body, usize::MAX).unwrap();
            assert_eq!(all.len(), zeros.len(), "{coding}");
            assert!(largest <= 512 << 10, "{coding}: {largest}");
        }
    }

    #[test]
    fn a_body_that_is_not_of_its_coding_is_an_error() {
        // `deflate` without a header has nothing to tell it by: what it gives is no JSON then
        for coding in ["gzip", "zstd", "br"] {
            assert!(
                unpack(coding, b"{\"jsonrpc\":\"2.0\"}  ...............", 5).is_err(),
                "{coding}"
            );
        }
        let mut spoilt = gzip(b"{}");
        let end = spoilt.len() - 5;
        spoilt[end] ^= 1;
        assert!(unpack("gzip", &spoilt, 100).is_err(), "its checksum");
        assert!(unpack("gzip", &gzip(b"{}")[..15], 100).is_err(), "cut");
        assert!(unpack("deflate", &[zlib(b"{}"), b"more".to_vec()].concat(), 100).is_err());
    }

    #[test]
    fn no_coding_is_none_and_an_unknown_one_is_named() {
        for none in [&[][..], &["identity"], &["", " Identity , "]] {
            assert!(Unpacker::of(&headers(none)).unwrap().is_none(), "{none:?}");
        }
        for (codings, named) in [
            (&["compress"][..], "`compress`"),
            (&["gzip, br"], "`gzip, br`"),
            (&["gzip", "gzip"], "`gzip, gzip`"),
            (&["aes128gcm"], "`aes128gcm`"),
        ] {
            let why = Unpacker::of(&headers(codings)).unwrap_err();
            assert!(
                why.contains(named) && why.contains("cannot unpack"),
                "{why}"
            );
        }
        assert!(
            Unpacker::of(&headers(&["GZIP", "identity"]))
                .unwrap()
                .is_some()
        );
    }
}
