//! Every end against a clock that went back and one that was put right.

use super::fixture::{NOW, ann, at, key, registry, resource, server, snapshot, tool};
use super::{Access, Verdict, allows, explain, status};
use crate::identity::Caller;
use crate::ids::AgentName;
use crate::registry::doc::{AgentDoc, Registry};

/// What ended an hour ago by the clock of the last check.
const END: u64 = NOW - 3600;

/// A server whose grants of each kind end at `END`, checked at `checked`.
fn world(checked: u64) -> Registry {
    let mut registry = registry();
    let tools = [("get", true), ("put", false)];
    registry
        .put(server("gh", "strict", &tools, &["p"], &[], &["gh://{r}"]))
        .put_role("eng", &[]);
    registry.checked = checked;
    let rule = registry.rule(Some(END));
    let table = registry.table("eng", "gh");
    table.tools.insert("put".to_owned(), rule);
    table.prompts.insert("p".to_owned(), rule);
    table.resources.push(("gh://*".to_owned(), rule));
    registry
}

fn caller() -> Caller {
    ann(&["eng"])
}

#[test]
fn a_grant_that_ended_stays_ended_when_the_clock_goes_back() {
    let accesses = [
        tool("gh", "put"),
        resource("gh", "gh://a"),
        super::fixture::prompt("gh", "p"),
    ];
    let open = |registry: &Registry, second: u64| -> Vec<bool> {
        let now = at(second);
        let snapshot = snapshot(registry, Some(caller()), &now);
        let uses = snapshot.uses(&key("gh"), &now);
        let some = snapshot.allows_some(&key("gh"), "gh://{r}", &now);
        let all = accesses.iter().map(|one| allows(&snapshot, one, &now));
        all.chain([uses, some]).collect()
    };
    // the machine has seen a check after the end: no step back gives anything
    for back in [0, 1, 3600, 7200, 86_400] {
        let seen = world(NOW);
        assert_eq!(open(&seen, NOW - back), [false; 5], "{back} s back");
    }
    // the next check by the right clock takes the place of the last: all is as it should be
    let put_right = world(END - 60);
    assert_eq!(open(&put_right, END - 1), [true; 5]);
    assert_eq!(open(&put_right, END), [false; 5]);
}

#[test]
fn explain_and_lists_say_what_the_call_gets_when_the_clock_goes_back() {
    let (registry, now) = (world(NOW), at(END - 60));
    let snapshot = snapshot(&registry, Some(caller()), &now);
    let told = explain(&snapshot, &tool("gh", "put"), &now);
    assert!(matches!(told.verdict, Verdict::Deny { .. }), "{told:?}");
    let role = told.reasons.iter().find(|one| one.question == "role eng");
    assert!(role.is_some_and(|role| !role.passes), "{told:?}");
    assert!(
        snapshot.catalog().tools().counts().0 <= 1,
        "the status tool"
    );
}

fn agent(registry: &mut Registry, not_after: u64) -> Caller {
    let name = AgentName::parse("ci").unwrap();
    let public_key = data_encoding::BASE64.encode(&[7; 32]);
    let key = crate::identity::key_id(&public_key).unwrap();
    let roles = vec![super::fixture::role_name("eng")];
    let doc = AgentDoc {
        owner: "build team".to_owned(),
        public_key,
        roles: roles.clone(),
        not_after: Some(not_after),
    };
    registry.policy.agents.insert(name.clone(), doc);
    Caller::Agent { name, key, roles }
}

#[test]
fn an_agent_and_a_sign_in_that_ended_stay_ended_when_the_clock_goes_back() {
    let mut registry = world(NOW);
    registry.grant("eng", "gh", "get");
    let mut person = caller();
    if let Caller::Person { expires, .. } = &mut person {
        *expires = END;
    }
    let agent = agent(&mut registry, END);
    let get: Access = tool("gh", "get");
    for (who, over) in [(agent, END), (person, crate::identity::holds_until(END))] {
        for (checked, second, works) in [
            (NOW, NOW, false),
            (NOW, END - 60, false),
            (NOW, over - 1, false),
            // the clock was put right, and the next check said so
            (END - 60, END - 60, true),
            (END - 60, over - 1, true),
            (END - 60, over, false),
        ] {
            registry.checked = checked;
            let now = at(second);
            let snapshot = snapshot(&registry, Some(who.clone()), &now);
            assert_eq!(allows(&snapshot, &get, &now), works, "{who:?} {second}");
            // `status` says what calls get, in the same second
            let said = status(&snapshot, &now);
            assert_eq!(said.servers[0].tools > 0, works, "{said}");
            let holds = said.sign_in.as_ref().is_none_or(|sign_in| sign_in.holds);
            assert!(holds || !works, "{said}");
            if matches!(who, Caller::Person { .. }) {
                assert_eq!(said.to_string().contains("sign-in:      ended"), !works);
            }
            // nobody is woken again and again for an end that is past
            let next = snapshot.changes_at(&now);
            assert!(
                next.is_none_or(|next| next > second.max(checked)),
                "{next:?}"
            );
        }
    }
}

#[test]
fn a_registry_that_ended_says_so_beside_each_server() {
    let mut registry = registry();
    registry
        .put(server(
            "gh",
            "strict",
            &[("get", true), ("put", false)],
            &[],
            &[],
            &[],
        ))
        .put(server("wr", "strict", &[("put", false)], &[], &[], &[]))
        .put_role("eng", &[])
        .grant("eng", "gh", "get")
        .grant("eng", "wr", "put");
    let said = |registry: &Registry, second: u64| {
        let mut caller = caller();
        if let Caller::Person { expires, .. } = &mut caller {
            *expires = second + 600;
        }
        let snapshot = snapshot(registry, Some(caller), &at(second));
        let servers = status(&snapshot, &at(second)).servers;
        let line = |one: super::ServerStatus| {
            format!(
                "{} {}: {}",
                one.key,
                one.tools,
                one.note.unwrap_or_default()
            )
        };
        servers.into_iter().map(line).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(said(&registry, NOW), @"
    gh 1: 
    wr 1:
    ");
    insta::assert_snapshot!(said(&registry, NOW + 3600), @"
    gh 1: 
    wr 0: none only reads; what writes waits until the registry is renewed
    ");
    insta::assert_snapshot!(said(&registry, NOW + 3600 + 86_400), @"
    gh 0: the registry ended on 2027-01-15T09:00:00Z
    wr 0: the registry ended on 2027-01-15T09:00:00Z
    ");
    registry.edit("gh", |doc| doc.oncall = doc.owner.clone());
    registry.policy.grants.clear();
    insta::assert_snapshot!(said(&registry, NOW), @"
    gh 0: none granted; ask team-x
    wr 0: none granted; ask team-x or #team-x
    ");
}
