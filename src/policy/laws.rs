//! The laws of `decide`, on random registries, against a naive oracle.

use arbtest::arbitrary::{Result, Unstructured};
use arbtest::arbtest;

use super::fixture::{
    NOW, ann, at, key, prompt, registry, resource, role_name, server, snapshot, tool,
};
use super::pattern::{Pattern, is_plain};
use super::{Access, Decision, DenialCode, Snapshot, Verdict, decide, explain};
use crate::identity::Caller;
use crate::ids::{AgentName, RoleName};
use crate::registry::doc::{AgentDoc, GrantTable, PinMode, Registry};

const ROLES: [&str; 3] = ["r0", "r1", "r2"];
const SERVERS: [&str; 3] = ["a", "b", "c"];
const TOOLS: [&str; 3] = ["x", "y", "xy"];
const URIS: [&str; 5] = ["m://p", "m://p/q", "m://q", "m://p/../q", "f://z"];
const GLOBS: [&str; 5] = ["*", "m://p*", "m://p/q", "f:*", "m://q"];
const TIMES: [u64; 4] = [NOW, NOW + 1800, NOW + 7200, NOW + 200_000];

/// An agent key's public half, and another.
const KEYS: [&str; 2] = [
    "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw=",
];

#[derive(Debug, Clone)]
struct World {
    registry: Registry,
    caller: Option<Caller>,
}

impl World {
    fn any(u: &mut Unstructured<'_>) -> Result<Self> {
        let mut registry = registry();
        for name in SERVERS {
            if u.ratio(4, 5)? {
                let pin = *u.choose(&["strict", "definitions", "names", "off"])?;
                let tools: Vec<(&str, bool)> = TOOLS
                    .iter()
                    .map(|tool| Ok((*tool, u.arbitrary()?)))
                    .collect::<Result<_>>()?;
                let from = u.int_in_range(0..=2)?;
                registry.put(server(
                    name,
                    pin,
                    &tools[from..],
                    &TOOLS[..from],
                    &URIS[..u.int_in_range(0..=4)?],
                    u.choose(&[&["m://{x}", "f://z"][..], &["m://p/{x}"], &[]])?,
                ));
            }
        }
        for role in ROLES {
            if u.ratio(4, 5)? {
                registry.put_role(role, &[]);
            }
        }
        for _ in 0..u.int_in_range(2..=14)? {
            let rule = match u.int_in_range(0..=9)? {
                0 | 2 => registry.rule(Some(*u.choose(&TIMES)?)),
                1 => 99,
                _ => registry.rule(None),
            };
            let name = (*u.choose(&TOOLS)?).to_owned();
            let glob = (*u.choose(&["*", "x*", "y"])?).to_owned();
            let uris = (*u.choose(&GLOBS)?).to_owned();
            let table = registry.table(u.choose(&ROLES)?, u.choose(&SERVERS)?);
            match u.int_in_range(0..=4)? {
                0 => table.tool_globs.push((glob, rule)),
                1 => drop(table.prompts.insert(name, rule)),
                2 => table.resources.push((uris, rule)),
                _ => drop(table.tools.insert(name, rule)),
            }
        }
        if u.ratio(1, 4)? {
            registry.revocations.servers.push(key(u.choose(&SERVERS)?));
        }
        if u.ratio(1, 4)? {
            let pair = (key(u.choose(&SERVERS)?), (*u.choose(&TOOLS)?).to_owned());
            registry.revocations.tools.push(pair);
        }
        let roles: Vec<RoleName> = ROLES
            .iter()
            .filter(|_| u.ratio(3, 4) == Ok(true))
            .map(|role| role_name(role))
            .collect();
        let bot = AgentName::parse("bot").unwrap();
        let caller = match u.int_in_range(0..=4)? {
            0 => None,
            1 | 2 => {
                let doc = AgentDoc {
                    owner: "o".to_owned(),
                    public_key: (if u.ratio(4, 5)? { KEYS[0] } else { KEYS[1] }).to_owned(),
                    roles: roles
                        .iter()
                        .filter(|_| u.ratio(3, 4) == Ok(true))
                        .cloned()
                        .collect(),
                    not_after: u
                        .choose(&[None, Some(TIMES[1]), Some(TIMES[2])])?
                        .to_owned(),
                };
                if u.ratio(4, 5)? {
                    registry.policy.agents.insert(bot.clone(), doc);
                }
                if u.ratio(1, 5)? {
                    registry.revocations.agents.push(bot.clone());
                }
                let key = crate::identity::key_id(KEYS[0]).unwrap();
                Some(Caller::Agent {
                    name: bot,
                    key,
                    roles,
                })
            }
            _ => Some(Caller::Person {
                issuer: "i".to_owned(),
                subject: "s".to_owned(),
                display: "S".to_owned(),
                roles,
                expires: *u.choose(&[TIMES[1], TIMES[3]])?,
            }),
        };
        Ok(Self { registry, caller })
    }

    fn snapshot(&self, second: u64) -> Snapshot {
        snapshot(&self.registry, self.caller.clone(), &at(second))
    }

    fn allows(&self, access: &Access, second: u64) -> bool {
        allowed(&self.snapshot(second), access, second).is_some()
    }
}

/// The role and rule that allow, if any do.
fn allowed(snapshot: &Snapshot, access: &Access, second: u64) -> Option<(RoleName, String)> {
    match decide(snapshot, access, &at(second)) {
        Decision::Allow(permit) => {
            let started = permit.start(snapshot).unwrap();
            Some((started.role, started.rule.id.clone()))
        }
        Decision::Ask(question) => panic!("{:?}", question.absurd()),
        Decision::Deny(_) => None,
    }
}

fn any_access(u: &mut Unstructured<'_>) -> Result<Access> {
    let server = *u.choose(&SERVERS)?;
    Ok(match u.int_in_range(0..=3)? {
        0 => resource(server, u.choose(&URIS)?),
        1 => prompt(server, u.choose(&TOOLS)?),
        _ => tool(server, u.choose(&TOOLS)?),
    })
}

fn every_access() -> impl Iterator<Item = Access> {
    SERVERS.iter().flat_map(|server| {
        let tools = TOOLS.iter().map(|name| tool(server, name));
        let prompts = TOOLS.iter().map(|name| prompt(server, name));
        tools
            .chain(prompts)
            .chain(URIS.iter().map(|uri| resource(server, uri)))
    })
}

/// The policy read out as plainly as it can be written.
fn oracle(world: &World, access: &Access, second: u64) -> bool {
    let registry = &world.registry;
    let revoked = &registry.revocations;
    let Some(server) = registry.servers.get(access.server()) else {
        return false;
    };
    let grace = second >= registry.expires;
    let lapsed = second >= registry.expires + 24 * 3600;
    let roles = match &world.caller {
        None => return false,
        Some(Caller::Person { roles, expires, .. }) if second < expires + 60 => roles.clone(),
        Some(Caller::Person { .. }) => return false,
        Some(Caller::Agent { name, roles, .. }) => {
            let Some(doc) = registry.policy.agents.get(name) else {
                return false;
            };
            let over = doc.not_after.is_some_and(|end| end <= second);
            if doc.public_key != KEYS[0] || over || revoked.agents.contains(name) {
                return false;
            }
            roles
                .iter()
                .filter(|role| doc.roles.contains(role))
                .cloned()
                .collect()
        }
    };
    let off = server.pin == PinMode::Off;
    let none = Default::default();
    let surface = server.surface.as_ref().unwrap_or(&none);
    let matches = |globs: &[(String, u32)], text: &str| -> Vec<u32> {
        let fits = |glob: &str| Pattern::glob(glob).matches(text);
        globs
            .iter()
            .filter(|(glob, _)| fits(glob))
            .map(|(_, rule)| *rule)
            .collect()
    };
    let rules = |table: &GrantTable| -> Vec<u32> {
        let mut rules = match access {
            Access::Prompt { name, .. } => table.prompts.get(name).into_iter().copied().collect(),
            Access::Resource { uri, .. } => matches(&table.resources, uri),
            Access::Tool { name, .. } => table.tools.get(name).into_iter().copied().collect(),
        };
        if let (Access::Tool { name, .. }, true) = (access, off) {
            rules.extend(matches(&table.tool_globs, name));
        }
        rules
    };
    let live = |rule: &u32| {
        let rule = registry.policy.rules.get(*rule as usize);
        rule.is_some_and(|rule| rule.not_after.is_none_or(|end| second < end))
    };
    let granted = roles.iter().any(|role| {
        let tables = registry.policy.grants.get(role);
        let table = tables.and_then(|tables| tables.get(access.server()));
        registry.policy.roles.contains_key(role)
            && table.is_some_and(|table| rules(table).iter().any(live))
    });
    let there = off
        || match access {
            Access::Prompt { name, .. } => surface.prompts.iter().any(|p| &p.name == name),
            Access::Resource { uri, .. } => {
                surface.resources.iter().any(|r| &r.name == uri)
                    || surface
                        .templates
                        .iter()
                        .any(|t| Pattern::template(&t.name).matches(uri))
            }
            Access::Tool { name, .. } => surface.tools.iter().any(|t| &t.name == name),
        };
    let fine = match access {
        Access::Prompt { .. } => true,
        Access::Resource { uri, .. } => is_plain(uri),
        Access::Tool { name, .. } => {
            let reads = |d: &str| d.contains("\"readOnlyHint\":true");
            let tool = surface.tools.iter().find(|t| &t.name == name);
            let reads = tool.is_some_and(|t| reads(t.definition.get()));
            !revoked.tools.contains(&(server.key.clone(), name.clone())) && (!grace || reads)
        }
    };
    granted && there && fine && !lapsed && !revoked.servers.contains(&server.key)
}

/// Tries a law on worlds of a useful size for so many milliseconds.
fn law(budget_ms: u64, law: impl FnMut(&mut Unstructured<'_>) -> Result<()>) {
    // worlds take about 200 bytes of choices; with fewer, most are empty
    arbtest(law)
        .size_min(512)
        .size_max(1024)
        .budget_ms(budget_ms);
}

#[test]
fn decide_agrees_with_the_oracle() {
    let (mut allows, mut denies) = (0_u32, 0_u32);
    law(1_500, |u| {
        let world = World::any(u)?;
        let second = *u.choose(&TIMES)?;
        let snapshot = world.snapshot(second);
        for access in every_access() {
            let allowed = allowed(&snapshot, &access, second).is_some();
            *(if allowed { &mut allows } else { &mut denies }) += 1;
            let expected = oracle(&world, &access, second);
            assert_eq!(allowed, expected, "{access} {world:#?}");
        }
        Ok(())
    });
    assert!(
        allows > 100 && denies > 100,
        "worlds are neither open nor closed: {allows} {denies}"
    );
}

#[test]
fn nothing_is_allowed_without_a_grant() {
    law(300, |u| {
        let mut world = World::any(u)?;
        world.registry.policy.grants.clear();
        assert!(!world.allows(&any_access(u)?, *u.choose(&TIMES)?));
        Ok(())
    });
}

#[test]
fn a_revocation_never_allows() {
    law(500, |u| {
        let mut world = World::any(u)?;
        let (access, second) = (any_access(u)?, *u.choose(&TIMES)?);
        let before = world.allows(&access, second);
        let revoked = &mut world.registry.revocations;
        match u.int_in_range(0..=2)? {
            0 => revoked.servers.push(key(u.choose(&SERVERS)?)),
            1 => revoked.agents.push(AgentName::parse("bot").unwrap()),
            _ => {
                let tool = (*u.choose(&TOOLS)?).to_owned();
                revoked.tools.push((key(u.choose(&SERVERS)?), tool));
            }
        }
        assert!(before || !world.allows(&access, second));
        Ok(())
    });
}

#[test]
fn what_is_revoked_is_denied() {
    law(300, |u| {
        let mut world = World::any(u)?;
        let access = any_access(u)?;
        world
            .registry
            .revocations
            .servers
            .push(access.server().clone());
        assert!(!world.allows(&access, *u.choose(&TIMES)?));
        Ok(())
    });
}

#[test]
fn losing_a_role_never_grants() {
    law(500, |u| {
        let mut world = World::any(u)?;
        let (access, second) = (any_access(u)?, *u.choose(&TIMES)?);
        let before = world.allows(&access, second);
        if let Some(Caller::Agent { roles, .. } | Caller::Person { roles, .. }) = &mut world.caller
        {
            roles.pop();
        }
        assert!(before || !world.allows(&access, second));
        Ok(())
    });
}

#[test]
fn time_only_takes_away() {
    law(500, |u| {
        let world = World::any(u)?;
        let access = any_access(u)?;
        let (one, other) = (*u.choose(&TIMES)?, *u.choose(&TIMES)?);
        let snapshot = world.snapshot(one);
        let before = allowed(&snapshot, &access, one.min(other)).is_some();
        assert!(before || allowed(&snapshot, &access, one.max(other)).is_none());
        Ok(())
    });
}

#[test]
fn nothing_changes_before_it_is_said_to() {
    law(500, |u| {
        let world = World::any(u)?;
        let access = any_access(u)?;
        let second = *u.choose(&TIMES)?;
        let snapshot = world.snapshot(second);
        let last = snapshot
            .changes_at(&at(second))
            .map_or(u64::from(u32::MAX), |next| next - 1);
        let (now, later) = (world.snapshot(second), world.snapshot(last));
        assert_eq!(now.catalog().tools(), later.catalog().tools());
        assert_eq!(
            allowed(&snapshot, &access, second),
            allowed(&snapshot, &access, last)
        );
        Ok(())
    });
}

#[test]
fn the_order_of_grants_and_roles_is_irrelevant() {
    law(500, |u| {
        let world = World::any(u)?;
        let (access, second) = (any_access(u)?, *u.choose(&TIMES)?);
        let mut turned = world.clone();
        if let Some(Caller::Agent { roles, .. } | Caller::Person { roles, .. }) = &mut turned.caller
        {
            roles.reverse();
        }
        for servers in turned.registry.policy.grants.values_mut() {
            for table in servers.values_mut() {
                table.resources.reverse();
                table.tool_globs.reverse();
            }
        }
        assert_eq!(
            allowed(&world.snapshot(second), &access, second),
            allowed(&turned.snapshot(second), &access, second),
        );
        Ok(())
    });
}

#[test]
fn the_decision_is_a_function_of_its_inputs() {
    law(300, |u| {
        let world = World::any(u)?;
        let (access, second) = (any_access(u)?, *u.choose(&TIMES)?);
        let (one, other) = (world.snapshot(second), world.snapshot(second));
        let text = |snapshot| format!("{:?}", decide(snapshot, &access, &at(second)));
        assert_eq!(text(&one), text(&other));
        assert_eq!(one.catalog().tools(), other.catalog().tools());
        Ok(())
    });
}

#[test]
fn listed_is_callable_for_some_arguments() {
    law(1_000, |u| {
        let world = World::any(u)?;
        let second = *u.choose(&TIMES)?;
        let snapshot = world.snapshot(second);
        let catalog = snapshot.catalog();
        for server in SERVERS {
            for name in TOOLS {
                let listed = catalog
                    .tool_entries()
                    .iter()
                    .any(|entry| entry.server == key(server) && entry.name == name);
                let off =
                    world.registry.servers.get(&key(server)).map(|s| s.pin) == Some(PinMode::Off);
                // what an unpinned server offers is not known before it runs
                let callable = world.allows(&tool(server, name), second) && !off;
                assert_eq!(listed, callable, "{server}/{name}");
            }
            for uri in URIS {
                let quoted = format!("\"uri\":\"{uri}\"");
                if catalog.route(uri) == Some(key(server))
                    && catalog.resources().entries().contains(&quoted)
                {
                    assert!(
                        world.allows(&resource(server, uri), second),
                        "{server} {uri}"
                    );
                }
            }
        }
        Ok(())
    });
}

/// Found by the law below, in one run of many: it had asked the first rule only.
#[test]
fn explain_names_the_rule_that_holds_among_several() {
    for by_name in [Some(NOW - 1), None] {
        let mut registry = registry();
        registry.put(server("a", "off", &[], &[], &[], &[]));
        registry.put_role("r1", &[]);
        let first = by_name.map_or(99, |end| registry.rule(Some(end)));
        let second = registry.rule(None);
        let table = registry.table("r1", "a");
        table.tools.insert("x".to_owned(), first);
        table.tool_globs.push(("*".to_owned(), second));
        let snapshot = snapshot(&registry, Some(ann(&["r1"])), &at(NOW));
        let explanation = explain(&snapshot, &tool("a", "x"), &at(NOW));
        assert!(matches!(explanation.verdict, Verdict::Allow { .. }));
        let mut reasons = explanation.reasons.iter();
        let role = reasons.find(|reason| reason.question == "role r1").unwrap();
        assert!(role.passes, "{role:?}");
    }
}

#[test]
fn explain_says_what_decide_says() {
    law(1_000, |u| {
        let world = World::any(u)?;
        let (access, second) = (any_access(u)?, *u.choose(&TIMES)?);
        let snapshot = world.snapshot(second);
        let explanation = explain(&snapshot, &access, &at(second));
        let passes = |question: &str| {
            let mut reasons = explanation.reasons.iter();
            reasons.any(|reason| reason.question.starts_with(question) && reason.passes)
        };
        match explanation.verdict {
            Verdict::Allow { role, rule, .. } => {
                assert_eq!(
                    allowed(&snapshot, &access, second),
                    Some((role_name(&role), rule.clone()))
                );
                let named = explanation
                    .reasons
                    .iter()
                    .any(|reason| reason.question == format!("role {role}") && reason.passes);
                assert!(named, "{:#?}", explanation.reasons);
                for question in ["registry", "revocations", "caller", "surface"] {
                    assert!(passes(question), "{question} {:#?}", explanation.reasons);
                }
            }
            Verdict::Deny { code, .. } => {
                assert!(!world.allows(&access, second));
                let failing = match code {
                    "lapsed" => "registry",
                    "revoked" => "revocations",
                    "no-caller" => "caller",
                    "hidden" => "surface",
                    "stale" => "grace",
                    _ => "role",
                };
                let said = explanation
                    .reasons
                    .iter()
                    .any(|reason| reason.question.starts_with(failing) && !reason.passes);
                assert!(
                    said || access.name().contains(".."),
                    "{code} {:#?}",
                    explanation.reasons
                );
            }
        }
        Ok(())
    });
}

#[test]
fn a_permit_is_worthless_under_another_snapshot() {
    let mut registry = registry();
    registry.put(server("a", "strict", &[("x", true)], &[], &[], &[]));
    registry.put_role("r0", &[]).grant("r0", "a", "x");
    let caller = Some(ann(&["r0"]));
    let first = snapshot(&registry, caller, &at(NOW));
    let second = first.with_live(super::SnapshotId(2), Default::default(), &at(NOW));
    let Decision::Allow(permit) = decide(&first, &tool("a", "x"), &at(NOW)) else {
        panic!("granted");
    };
    let denial = permit.start(&second).unwrap_err();
    assert_eq!(denial.code, DenialCode::StaleSnapshot);
}
