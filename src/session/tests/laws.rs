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
