//! Batches: what is read, what is refused, and with which words.

use super::*;

fn key() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
}

fn header(key: &Ed25519KeyPair) -> Header {
    Header {
        org: OrgId::parse("example.org").unwrap(),
        stream: StreamId([3; 16]),
        first_seq: 4,
        last_seq: 9,
        prev_hash: Digest::of(b"before"),
        last_hash: Digest::of(b"after"),
        kind: Kind::Following,
        remaining: 12,
        sent_us: 1_700_000_000_000_000,
        installation: Installation(key.public_key().as_ref().try_into().unwrap()),
    }
}

fn resign(bytes: &mut [u8], key: &Ed25519KeyPair) {
    let head = FIXED + usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
    let signature = key.sign(&signed(&bytes[..head]));
    bytes[head..head + SIGNATURE].copy_from_slice(signature.as_ref());
}

/// Made from the documentation alone, in another language: `tests/data/batch/generate.py`.
fn vector() -> (serde_json::Value, Vec<u8>) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/batch");
    let text = std::fs::read(format!("{dir}/v1.json")).unwrap();
    let batch = std::fs::read(format!("{dir}/v1.batch")).unwrap();
    (serde_json::from_slice(&text).unwrap(), batch)
}

fn hex(value: &serde_json::Value) -> Vec<u8> {
    let text = value.as_str().unwrap().as_bytes();
    data_encoding::HEXLOWER.decode(text).unwrap()
}

#[test]
fn batch_made_from_the_documentation_is_read() {
    let (vector, bytes) = vector();
    let batch = open(&bytes).unwrap();
    let header = &batch.header;
    assert_eq!(header.org.as_str(), vector["org"]);
    assert_eq!(header.stream.0.to_vec(), hex(&vector["stream"]));
    assert_eq!(header.first_seq, vector["first_seq"]);
    assert_eq!(header.last_seq, vector["last_seq"]);
    assert_eq!(header.remaining, vector["remaining"]);
    assert_eq!(header.sent_us, vector["sent_us"]);
    assert_eq!(header.installation.id().as_str(), vector["installation"]);
    let frames = batch.frames().unwrap();
    let tail = crate::audit::verify_chain(header.prev_hash, &frames).unwrap();
    assert_eq!(tail.last_hash.0.to_vec(), hex(&vector["last_hash"]));
    assert_eq!((tail.first_seq, tail.last_seq), (1, header.last_seq));
}

#[test]
fn header_and_signature_are_the_documentations() {
    let (vector, bytes) = vector();
    let batch = open(&bytes).unwrap();
    let key = InstallationKey::from_seed(&hex(&vector["seed"])).unwrap();
    let own = seal(&batch.header, &batch.frames().unwrap(), key.pair()).unwrap();
    // the compressor's bytes differ, and with them digest, length and signature
    assert_eq!(own[..104], bytes[..104]);
    assert_eq!(own[140..FIXED + 11], bytes[140..FIXED + 11]);
    assert_eq!(open(&own).unwrap().header, batch.header);
}

#[test]
fn enrolment_is_the_documentations() {
    let (vector, _) = vector();
    let enrolment = &vector["enrolment"];
    let text = |name: &str| enrolment[name].as_str().unwrap().to_owned();
    let key = InstallationKey::from_seed(&hex(&vector["seed"])).unwrap();
    let agent = Ed25519KeyPair::from_seed_unchecked(&hex(&enrolment["agent_seed"])).unwrap();
    let name = text("agent").parse().unwrap();
    let org = OrgId::parse(vector["org"].as_str().unwrap()).unwrap();
    let who = protocol::Enrolling::Agent(&name, &agent);
    let request =
        protocol::answer(&org, &key, &text("machine_id"), &text("challenge"), &who).unwrap();
    assert_eq!(request.signature, text("signature"));
    let protocol::Proof::Agent { signature, .. } = request.proof else {
        panic!("an agent enrols as one")
    };
    assert_eq!(signature, text("agent_signature"));
}

#[test]
fn what_was_sealed_opens_to_the_same() {
    let key = key();
    let frames = b"frames ".repeat(500);
    let bytes = seal(&header(&key), &frames, &key).unwrap();
    let batch = open(&bytes).unwrap();
    assert_eq!(batch.header, header(&key));
    assert_eq!(batch.frames().unwrap(), frames);
}

#[test]
fn one_changed_bit_anywhere_is_refused() {
    let key = key();
    let bytes = seal(&header(&key), b"frames", &key).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(open(&bad).is_err(), "bit {bit} of byte {at} passed");
        }
    }
}

#[test]
fn every_truncation_and_a_longer_tail_are_refused() {
    let key = key();
    let mut bytes = seal(&header(&key), b"frames", &key).unwrap();
    for length in 0..bytes.len() {
        assert!(open(&bytes[..length]).is_err(), "{length} bytes passed");
    }
    bytes.push(0);
    assert!(matches!(open(&bytes), Err(BatchError::Size { .. })));
}

#[test]
fn signature_of_another_message_is_refused() {
    let key = key();
    let mut bytes = seal(&header(&key), b"frames", &key).unwrap();
    let head = FIXED + "example.org".len();
    // the same key over the same bytes, without the domain
    let signature = key.sign(&bytes[..head]);
    bytes[head..head + SIGNATURE].copy_from_slice(signature.as_ref());
    assert!(matches!(open(&bytes), Err(BatchError::Signature(_))));
}

#[test]
fn bomb_stops_at_the_declared_size() {
    let key = key();
    let mut bytes = seal(&header(&key), &vec![0; limits::BATCH_BYTES.1], &key).unwrap();
    assert!(bytes.len() < 20_000, "zeroes compress well");
    bytes[140..144].copy_from_slice(&1000_u32.to_be_bytes());
    resign(&mut bytes, &key);
    let batch = open(&bytes).unwrap();
    assert_eq!(
        batch.frames(),
        Err(BatchError::Compression { expected: 1000 })
    );
}

#[test]
fn declared_size_over_the_bound_is_refused_before_anything_is_read() {
    let key = key();
    let mut bytes = seal(&header(&key), b"frames", &key).unwrap();
    bytes[140..144].copy_from_slice(&u32::MAX.to_be_bytes());
    resign(&mut bytes, &key);
    assert!(matches!(open(&bytes), Err(BatchError::TooLarge { .. })));
}

#[test]
fn second_frame_behind_the_first_is_refused() {
    let key = key();
    let mut bytes = seal(&header(&key), b"frames", &key).unwrap();
    let extra = zstd::bulk::compress(b"more", 1).unwrap();
    let head = FIXED + "example.org".len() + SIGNATURE;
    bytes.extend_from_slice(&extra);
    let body_bytes = u32::try_from(bytes.len() - head).unwrap();
    let digest = Digest::of(&bytes[head..]);
    bytes[104..136].copy_from_slice(&digest.0);
    bytes[136..140].copy_from_slice(&body_bytes.to_be_bytes());
    resign(&mut bytes, &key);
    assert!(matches!(
        open(&bytes).unwrap().frames(),
        Err(BatchError::Compression { .. })
    ));
}

#[test]
fn ranges_that_are_none_are_refused() {
    let key = key();
    for (first, last) in [(0, 3), (5, 4), (1, 100_000), (1, u64::MAX)] {
        let odd = Header {
            first_seq: first,
            last_seq: last,
            ..header(&key)
        };
        assert!(seal(&odd, b"", &key).is_err(), "{first}..={last} passed");
    }
    for kind in [Kind::Body, Kind::Quarantine, Kind::Withheld] {
        let two = Header {
            kind,
            ..header(&key)
        };
        assert_eq!(seal(&two, b"", &key), Err(BatchError::Field("flags")));
    }
}

#[test]
fn any_bytes_are_survived() {
    arbtest::arbtest(|u| {
        let bytes: Vec<u8> = u.arbitrary()?;
        fuzz_batch(&bytes);
        Ok(())
    });
}

#[test]
fn the_front_alone_says_who_signed_and_how_much_is_to_come() {
    let key = key();
    let header = header(&key);
    let batch = seal(&header, b"frames", &key).unwrap();
    let front = Front::read(&batch[..HEADER_BYTES.min(batch.len())]).unwrap();
    assert_eq!(front.header, header);
    assert_eq!(front.batch_bytes(), batch.len());
    assert_eq!(front.raw_bytes, 6);
    let mut forged = batch.clone();
    forged[140] ^= 1;
    assert!(Front::read(&forged).is_err(), "a length nobody signed");
    assert_eq!(
        Front::read(&batch[..100]).unwrap_err(),
        BatchError::Field("last hash"),
    );
}
