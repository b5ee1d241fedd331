//! The sealed file against the bytes of an attacker, and against other writers.

use super::file::{FileVault, Place};
use super::sealed::{MasterKey, Sealed};
use super::*;
use crate::clock::{CountingEntropy, SystemEntropy};
use crate::identity::Owner;
use crate::ids::{AgentName, CredentialId, OrgId};

fn org(name: &str) -> OrgId {
    OrgId::parse(name).unwrap()
}

/// As format 1 had it.
fn credential(name: &str) -> ItemId {
    ItemId::Unowned(CredentialId::parse(name).unwrap())
}

fn ann() -> Owner {
    Owner::person("https://login.example", "ann")
}

fn bob() -> Owner {
    Owner::person("https://login.example", "bob")
}

fn of(owner: Owner, name: &str) -> ItemId {
    ItemId::Credential(owner, CredentialId::parse(name).unwrap())
}

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

fn key(byte: u8) -> MasterKey {
    MasterKey::from_bytes(&[byte; 32]).unwrap()
}

fn text(item: Option<Item>) -> Option<String> {
    item.map(|item| String::from_utf8(item.value.expose().to_vec()).unwrap())
}

/// A vault with a key of its own, in this state directory.
fn vault(state: &Path) -> FileVault {
    let place = Place::at(state, &org("acme"));
    let vault = FileVault::new(place.clone(), StoreKind::Keychain, key(7));
    let held = place.lock().unwrap();
    if !place.file().exists() {
        let (org, store) = (org("acme"), StoreKind::Keychain);
        let first = Sealed::new(&org, store, &key(7), &mut SystemEntropy).unwrap();
        vault.create(first, &held).unwrap();
    }
    vault
}

fn sample() -> Sealed {
    let mut entropy = CountingEntropy(1);
    let (acme, store) = (org("acme"), StoreKind::Keychain);
    let mut sealed = Sealed::new(&acme, store, &key(7), &mut entropy).unwrap();
    sealed.generation = 5;
    for (name, value) in [("github", "ghp_one"), ("jira", "jira-two")] {
        let value = secret(value);
        sealed
            .put(&credential(name), &value, 1_700_000_000, &mut entropy)
            .unwrap();
    }
    let tokens = ItemId::Tokens("https://login.example".to_owned());
    sealed
        .put(&tokens, &secret("{}"), 1_700_000_001, &mut entropy)
        .unwrap();
    sealed.used(&credential("github"), 1_700_000_002);
    sealed.remove(&credential("jira"));
    sealed
}

#[test]
fn the_vector_is_read_and_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vault/one.hex");
    let written = data_encoding::HEXLOWER.encode(&sample().encode().unwrap());
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    let kept: String = file.split_whitespace().collect();
    assert_eq!(kept, written, "{}", path.display());
    let bytes = data_encoding::HEXLOWER.decode(kept.as_bytes()).unwrap();
    let sealed = Sealed::parse(&bytes, &org("acme"), &key(7)).unwrap();
    let (value, facts) = sealed.get(&credential("github")).unwrap().unwrap();
    assert_eq!(value.expose(), b"ghp_one");
    assert_eq!((facts.serial, facts.used_s), (1, Some(1_700_000_002)));
    assert!(sealed.get(&credential("jira")).unwrap().is_none());
    assert_eq!(sealed.list().len(), 2);
    assert!(!bytes.windows(7).any(|window| window == b"ghp_one"));
}

/// The sample with owned credentials beside it: format 2.
fn owned_sample() -> Sealed {
    let mut entropy = CountingEntropy(2);
    let mut sealed = sample();
    for (owner, value) in [(ann(), "ann-one"), (bob(), "bob-one")] {
        let id = of(owner, "github");
        sealed
            .put(&id, &secret(value), 1_800_000_000, &mut entropy)
            .unwrap();
    }
    sealed
}

#[test]
fn the_vector_of_owned_credentials_is_read_and_written() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vault/two.hex");
    let written = data_encoding::HEXLOWER.encode(&owned_sample().encode().unwrap());
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    let kept: String = file.split_whitespace().collect();
    assert_eq!(kept, written, "{}", path.display());
    let bytes = data_encoding::HEXLOWER.decode(kept.as_bytes()).unwrap();
    // an older program says that it needs a newer one, and does not call it damaged
    assert_eq!(bytes[8..12], [2, 0, 2, 0]);
    let sealed = Sealed::parse(&bytes, &org("acme"), &key(7)).unwrap();
    let value = |id: &ItemId| sealed.get(id).unwrap().unwrap().0;
    assert_eq!(value(&of(ann(), "github")).expose(), b"ann-one");
    assert_eq!(value(&of(bob(), "github")).expose(), b"bob-one");
    assert_eq!(value(&credential("github")).expose(), b"ghp_one");
}

#[test]
fn a_credential_cannot_be_handed_to_somebody_else() {
    let mut sealed = owned_sample();
    for (from, to) in [
        (of(ann(), "github"), of(bob(), "github")),
        (credential("github"), of(bob(), "github")),
        (of(ann(), "github"), credential("github")),
    ] {
        sealed.transplant(&from, &to, 1);
        assert_eq!(
            sealed.get(&to).err(),
            Some(SealedFault::Damaged("a value does not open"))
        );
        sealed = owned_sample();
    }
}

/// A vault of before credentials had owners: `github`, and the sign-ins of these people.
fn old_vault(state: &Path, signed_in: &[&str]) -> FileVault {
    let mut old = vault(state);
    old.put(&credential("github"), 0, &secret("a"), 5).unwrap();
    old.put(&credential("github"), 1, &secret("b"), 6).unwrap();
    old.used(&credential("github"), 7).unwrap();
    for (at, subject) in signed_in.iter().enumerate() {
        let issuer = "https://login.example";
        let tokens = serde_json::json!({"format": 1, "min_reader": 1, "issuer": issuer,
            "client_id": "mcpshim", "subject": subject, "nonce": null, "refresh_token": "r"});
        let id = ItemId::Tokens(format!("{issuer}{}", "/".repeat(at)));
        old.put(&id, 0, &secret(&tokens.to_string()), 7).unwrap();
    }
    old
}

#[test]
fn credentials_of_before_belong_to_the_person_whose_sign_in_the_vault_holds() {
    let state = tempfile::tempdir().unwrap();
    let mut old = old_vault(state.path(), &["ann"]);
    let ci = AgentName::parse("ci").unwrap();
    old.adopt(Some(&ci)).unwrap();
    let item = old.get(&of(ann(), "github")).unwrap().unwrap();
    let facts = item.facts;
    // the same value with its age: a server that runs with it is not opened anew
    assert_eq!((facts.serial, facts.put_s, facts.used_s), (2, 6, Some(7)));
    assert_eq!(text(Some(item)).as_deref(), Some("b"));
    assert!(old.get(&credential("github")).unwrap().is_none());
    for other in [bob(), Owner::agent(&ci)] {
        assert!(old.get(&of(other, "github")).unwrap().is_none());
    }
    let before = std::fs::read(vault_file(state.path())).unwrap();
    old.adopt(None).unwrap();
    let after = std::fs::read(vault_file(state.path())).unwrap();
    assert_eq!(before, after, "once is enough");
}

#[test]
fn credentials_of_before_are_nobodys_where_nobody_can_be_told() {
    let ci = AgentName::parse("ci").unwrap();
    let still_there = |mut vault: FileVault| vault.get(&credential("github")).unwrap().is_some();
    // nobody is signed in: whoever comes next may be somebody else
    let state = tempfile::tempdir().unwrap();
    let mut nobody = old_vault(state.path(), &[]);
    nobody.adopt(None).unwrap();
    assert!(still_there(nobody));
    // two sign-ins are left over from a crash
    let state = tempfile::tempdir().unwrap();
    let mut two = old_vault(state.path(), &["ann", "bob"]);
    two.adopt(Some(&ci)).unwrap();
    assert!(still_there(two));
    // a machine that runs as an agent, where nobody signed in
    let state = tempfile::tempdir().unwrap();
    let mut machine = old_vault(state.path(), &[]);
    machine.adopt(Some(&ci)).unwrap();
    let own = of(Owner::agent(&ci), "github");
    assert_eq!(text(machine.get(&own).unwrap()).as_deref(), Some("b"));
    assert!(!still_there(machine));
}

#[test]
fn no_bit_can_be_changed_and_no_byte_taken() {
    let bytes = sample().encode().unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(
                Sealed::parse(&changed, &org("acme"), &key(7)).is_err(),
                "byte {at} bit {bit}"
            );
        }
        assert!(Sealed::parse(&bytes[..at], &org("acme"), &key(7)).is_err());
    }
    let longer = [bytes, vec![0]].concat();
    Sealed::parse(&longer, &org("acme"), &key(7)).err().unwrap();
}

#[test]
fn a_value_cannot_stand_for_another() {
    // even someone who could make the code at the end cannot move what is sealed inside
    let bytes = sample().encode().unwrap();
    let mut other = Sealed::parse(&bytes, &org("acme"), &key(7)).unwrap();
    for (from, to) in [
        (credential("github"), credential("jira")),
        (credential("github"), ItemId::Tokens("github".to_owned())),
    ] {
        other.transplant(&from, &to, 1);
        let moved = other.encode().unwrap();
        let read = Sealed::parse(&moved, &org("acme"), &key(7)).unwrap();
        assert_eq!(
            read.get(&to).err(),
            Some(SealedFault::Damaged("a value does not open"))
        );
    }
    // nor an older value for a newer one of the same name
    other.transplant(&credential("github"), &credential("github"), 2);
    other.get(&credential("github")).err().unwrap();
}

#[test]
fn another_key_organisation_or_format_says_so() {
    let bytes = sample().encode().unwrap();
    let fault = |bytes: &[u8], name: &str, byte| {
        Sealed::parse(bytes, &org(name), &key(byte)).err().unwrap()
    };
    assert_eq!(
        fault(&bytes, "acme", 8),
        SealedFault::OtherKey(StoreKind::Keychain)
    );
    let organisation = fault(&bytes, "umbrella", 7).to_string();
    assert_eq!(organisation, "it belongs to the organisation acme");
    let mut newer = bytes;
    newer[10] = 3;
    assert_eq!(fault(&newer, "acme", 7), SealedFault::Newer(3));
    assert_eq!(
        fault(b"something else entirely", "acme", 7),
        SealedFault::Damaged("it does not begin as a vault")
    );
}

#[test]
fn serials_grow_over_removal_and_decide_who_was_first() {
    let state = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (vault(state.path()), vault(state.path()));
    let id = credential("github");
    assert_eq!(one.put(&id, 0, &secret("a"), 1).unwrap(), Some(1));
    assert_eq!(two.put(&id, 0, &secret("b"), 2).unwrap(), None);
    assert_eq!(text(two.get(&id).unwrap()).as_deref(), Some("a"));
    assert_eq!(two.put(&id, 1, &secret("b"), 2).unwrap(), Some(2));
    assert!(!one.remove(&id, 1).unwrap());
    assert!(one.remove(&id, 2).unwrap());
    assert!(one.get(&id).unwrap().is_none());
    assert!(one.list().unwrap().is_empty());
    assert!(!one.remove(&id, 2).unwrap());
    assert!(one.remove(&id, 0).unwrap(), "nothing is there, as expected");
    assert_eq!(two.put(&id, 0, &secret("c"), 3).unwrap(), Some(3));
    assert_eq!(two.get(&id).unwrap().unwrap().facts.put_s, 3);
}

#[test]
fn a_use_is_noted_once_an_hour() {
    let state = tempfile::tempdir().unwrap();
    let mut vault = vault(state.path());
    let id = credential("github");
    vault.used(&id, 5).unwrap();
    vault.put(&id, 0, &secret("a"), 10).unwrap();
    let used = |vault: &mut FileVault| vault.list().unwrap()[&credential("github")].used_s;
    assert_eq!(used(&mut vault), None);
    vault.used(&id, 100).unwrap();
    assert_eq!(used(&mut vault), Some(100));
    let before = std::fs::read(vault_file(state.path())).unwrap();
    vault.used(&id, 100 + limits::USED_NOTE_S - 1).unwrap();
    assert_eq!(std::fs::read(vault_file(state.path())).unwrap(), before);
    vault.used(&id, 100 + limits::USED_NOTE_S).unwrap();
    assert_eq!(used(&mut vault), Some(100 + limits::USED_NOTE_S));
}

fn vault_file(state: &Path) -> PathBuf {
    state.join("vault/vault.sealed")
}

#[test]
fn an_older_file_is_seen_while_the_vault_is_open() {
    let state = tempfile::tempdir().unwrap();
    let mut vault = vault(state.path());
    let id = credential("github");
    vault.put(&id, 0, &secret("a"), 1).unwrap();
    let old = std::fs::read(vault_file(state.path())).unwrap();
    vault.put(&id, 1, &secret("b"), 2).unwrap();
    std::fs::write(vault_file(state.path()), old).unwrap();
    let error = vault.get(&id).unwrap_err();
    assert!(matches!(error, VaultError::WentBack { .. }), "{error}");
    std::fs::remove_file(vault_file(state.path())).unwrap();
    assert!(matches!(vault.get(&id), Err(VaultError::Gone(_))));
    assert!(matches!(
        vault.put(&id, 0, &secret("c"), 3),
        Err(VaultError::Gone(_))
    ));
}

#[test]
fn drafts_of_the_dead_are_removed_and_never_read() {
    let state = tempfile::tempdir().unwrap();
    let mut vault = vault(state.path());
    let id = credential("github");
    vault.put(&id, 0, &secret("a"), 1).unwrap();
    let draft = state.path().join("vault/.vault.sealed.0011223344556677");
    std::fs::write(&draft, "half of a").unwrap();
    assert_eq!(text(vault.get(&id).unwrap()).as_deref(), Some("a"));
    vault.put(&id, 1, &secret("b"), 2).unwrap();
    assert!(!draft.exists());
    let mut names: Vec<_> = std::fs::read_dir(state.path().join("vault"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["vault.lock", "vault.sealed"]);
}

#[test]
fn ten_who_add_one_each_lose_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut all = vault(state.path());
    let id = credential("counter");
    all.put(&id, 0, &secret("0"), 1).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                let mut own = vault(state.path());
                let id = credential("counter");
                for _ in 0..5 {
                    loop {
                        let item = own.get(&id).unwrap().unwrap();
                        let serial = item.facts.serial;
                        let number: u32 = text(Some(item)).unwrap().parse().unwrap();
                        let next = secret(&(number + 1).to_string());
                        if own.put(&id, serial, &next, 2).unwrap().is_some() {
                            break;
                        }
                    }
                }
            });
        }
    });
    let item = all.get(&id).unwrap().unwrap();
    assert_eq!(item.facts.serial, 51);
    assert_eq!(text(Some(item)).as_deref(), Some("50"));
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut vault = vault(state.path());
    let id = credential("github");
    vault.put(&id, 0, &secret("a"), 1).unwrap();
    let huge = Secret::new(vec![b'x'; limits::VAULT_VALUE_BYTES + 1]);
    let error = vault.put(&id, 1, &huge, 2).unwrap_err();
    assert!(matches!(error, VaultError::Sealed { .. }), "{error}");
    let long = ItemId::Tokens("x".repeat(limits::VAULT_NAME_BYTES + 1));
    vault.put(&long, 0, &secret("b"), 2).unwrap_err();
    assert_eq!(text(vault.get(&id).unwrap()).as_deref(), Some("a"));
}

#[cfg(unix)]
#[test]
fn a_file_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let state = tempfile::tempdir().unwrap();
    let mut vault = vault(state.path());
    let file = vault_file(state.path());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&state.path().join("vault")), 0o700);
    assert_eq!(mode(&state.path().join("vault/vault.lock")), 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = vault.list().unwrap_err();
    assert!(matches!(error, VaultError::Open { mode: 0o644, .. }));
}

#[test]
fn nothing_prints_a_secret() {
    assert_eq!(format!("{:?}", key(7)), "«redacted 32 bytes»");
}
