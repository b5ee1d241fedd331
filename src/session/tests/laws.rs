//! Laws that hold whatever happens.

use super::*;

pub(super) type Unstructured<'a> = arbtest::arbitrary::Unstructured<'a>;

/// See [`crate::session::fuzz`] for what is asserted.
#[test]
fn any_interleaving_keeps_the_laws() {
    arbtest::arbtest(|u| {
        let bytes: Vec<u8> = (0..u.int_in_range(0..=1500)?)
            .map(|_| u.arbitrary())
            .collect::<Result<_, _>>()?;
        fuzz::run(&bytes);
        Ok(())
    })
    .size_min(10_000)
    .size_max(20_000)
    .budget_ms(3_000);
}

/// A law that is never put to the test proves nothing: the same runs every time, until they came by
/// everything that the laws are about.
#[test]
fn the_laws_are_put_to_the_test() {
    let mut missing: Vec<&str> = fuzz::Reached::ALL.to_vec();
    for run in 1..=1_000 {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(run);
        let mut byte = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32).to_le_bytes()[0]
        };
        let bytes: Vec<u8> = (0..3_000).map(|_| byte()).collect();
        let reached = fuzz::play(&bytes);
        missing.retain(|what| !reached.0.contains_key(what));
        if missing.is_empty() {
            return;
        }
    }
    panic!("never reached: {missing:?}");
}

#[test]
fn a_stranger_cannot_make_the_session_grow() {
    let mut rig = Rig::handshake();
    for n in 0..3000 {
        rig.play(&format!(
            r#"> {{"jsonrpc":"2.0","id":{n},"method":"tools/call","params":{{"name":"stranger{n}"}}}}"#
        ));
        rig.seen.clear();
    }
    assert!(rig.contexts.len() < crate::limits::STRANGE_CONTEXTS + 20);
}
