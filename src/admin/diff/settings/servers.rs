//! Servers: which there are, where they run, what they may ask of a client.

use std::collections::{BTreeMap, BTreeSet};

use super::{List, both, grown, often, short};
use crate::admin::diff::markup::code;
use crate::admin::diff::view::View;
use crate::admin::diff::{Change, Effect};
use crate::registry::doc::{Isolation, PinMode, ServerDoc, ServerLimits, Transport};
use crate::text;

pub(super) fn servers(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    for (key, doc) in &is.servers {
        let server = format!("server {}", code(key.as_str()));
        if was.servers.contains_key(key) {
            continue;
        }
        let reach = reach(&doc.transport);
        let owner = code(&doc.owner);
        list.add(
            Effect::Review,
            format!("{server} of {owner} is new: {reach}"),
        );
        for (what, _, on) in asks(doc, doc) {
            if on {
                list.add(Effect::Widens, format!("{server} {what}"));
            }
        }
        if from_project(&doc.transport) {
            list.add(Effect::Widens, format!("{server} {FROM_PROJECT}"));
        }
        if doc.pin == PinMode::Off {
            list.add(Effect::Review, format!("{server} is not pinned"));
        }
    }
    for (key, _) in was
        .servers
        .iter()
        .filter(|(key, _)| !is.servers.contains_key(*key))
    {
        let sentence = format!("server {} is gone", code(key.as_str()));
        list.add(Effect::Narrows, sentence);
    }
    for (key, old, new) in both(was, is) {
        let server = format!("server {}", code(key.as_str()));
        transport(&server, &old.transport, &new.transport, &mut list);
        if let Some(effect) = grown(&looseness(old.pin), &looseness(new.pin)) {
            let (old, new) = (word(old.pin), word(new.pin));
            list.add(
                effect,
                format!("{server} has `pin: {new}` now, was `pin: {old}`"),
            );
        }
        for (what, old, new) in asks(old, new) {
            list.switched(&format!("{server} {what}"), old, new);
        }
        let (was, is) = (from_project(&old.transport), from_project(&new.transport));
        list.switched(&format!("{server} {FROM_PROJECT}"), was, is);
        if (old.isolation, new.isolation) == (Isolation::Session, Isolation::User) {
            let sentence = format!("{server} may serve several sessions of a user in one process");
            list.add(Effect::Review, sentence);
        }
        let texts = [
            ("id", Effect::Review, old.id.as_str(), new.id.as_str()),
            ("owner", Effect::Review, &*old.owner, &*new.owner),
            ("zone", Effect::Review, &*old.zone, &*new.zone),
            (
                "environment",
                Effect::Review,
                &*old.environment,
                &*new.environment,
            ),
            ("on_call", Effect::Neutral, &*old.oncall, &*new.oncall),
            ("purpose", Effect::Neutral, &*old.purpose, &*new.purpose),
        ];
        for (what, effect, old, new) in texts {
            list.moved(effect, &format!("{what} of {server}"), old, new);
        }
        if old.hosted != new.hosted {
            let sentence = format!("{server} is run by somebody else: {:?}", new.hosted);
            list.add(Effect::Review, sentence);
        }
        let classes = |doc: &ServerDoc| doc.data_classes.join(", ");
        let what = format!("data classes of {server}");
        list.moved(Effect::Review, &what, &classes(old), &classes(new));
        repeats(&server, &old.limits, &new.limits, &mut list);
        let others = |doc: &ServerDoc| {
            let limits = &doc.limits;
            (
                limits.call_ms,
                limits.idle_ms,
                limits.in_flight,
                doc.stateful,
            )
        };
        if others(old) != others(new) {
            list.add(Effect::Neutral, format!("limits of {server} changed"));
        }
    }
    list.0
}

/// How often the same call may be made.
fn repeats(server: &str, old: &ServerLimits, new: &ServerLimits, list: &mut List) {
    let what = format!("how often the same call to {server} may be made");
    list.moved(
        Effect::Review,
        &what,
        &often(old.repeat),
        &often(new.repeat),
    );
    let tools: BTreeSet<&String> = old.tools.keys().chain(new.tools.keys()).collect();
    for tool in tools {
        let of = |limits: &ServerLimits| often(limits.tools.get(tool).and_then(|own| own.repeat));
        let what = format!(
            "how often the same call to {server}/{} may be made",
            text::printable(tool)
        );
        list.moved(Effect::Review, &what, &of(old), &of(new));
    }
}

fn looseness(mode: PinMode) -> u8 {
    match mode {
        PinMode::Strict => 0,
        PinMode::Definitions => 1,
        PinMode::Names => 2,
        PinMode::Off => 3,
    }
}

fn word(mode: PinMode) -> &'static str {
    match mode {
        PinMode::Definitions => "definitions",
        PinMode::Strict => "strict",
        PinMode::Names => "names",
        PinMode::Off => "off",
    }
}

/// What a reviewer is told of `program_from_project`.
const FROM_PROJECT: &str = "runs a program that the client's project brings: whoever can write a \
                            repository that a developer clones decides what it is";

fn from_project(transport: &Transport) -> bool {
    match transport {
        Transport::Http { .. } => false,
        Transport::Stdio {
            program_from_project,
            ..
        } => *program_from_project,
    }
}

/// What a server may ask of a client, before and now.
fn asks(old: &ServerDoc, new: &ServerDoc) -> [(&'static str, bool, bool); 4] {
    [
        ("learns the client's roots", old.roots, new.roots),
        ("asks the person", old.elicitation, new.elicitation),
        ("asks the client's model", old.sampling, new.sampling),
        ("shows apps in the client", old.apps, new.apps),
    ]
}

fn reach(transport: &Transport) -> String {
    match transport {
        Transport::Http { url, .. } => format!("http {}", code(url)),
        Transport::Stdio { command, args, .. } => {
            let line: Vec<&str> = std::iter::once(command).chain(args).map(|s| &**s).collect();
            format!("stdio {}", code(&line.join(" ")))
        }
    }
}

fn transport(server: &str, old: &Transport, new: &Transport, list: &mut List) {
    let mut look = |what: &str, was: String, is: String| {
        if was != is {
            let sentence = format!("{server}: {what} is {} now, was {}", code(&is), code(&was));
            list.add(Effect::Review, sentence);
        }
    };
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    match (old, new) {
        (
            Transport::Http {
                url,
                ca_pem,
                legacy_sse,
            },
            Transport::Http {
                url: to,
                ca_pem: ca,
                legacy_sse: to_legacy,
            },
        ) => {
            look("the address", url.clone(), to.clone());
            let short = |pem: &Option<String>| match pem {
                Some(pem) => short(pem.as_bytes()),
                None => "none".to_owned(),
            };
            look("the private CA", short(ca_pem), short(ca));
            let spoken = |legacy: &bool| match legacy {
                true => "HTTP+SSE".to_owned(),
                false => "Streamable HTTP".to_owned(),
            };
            look("the transport", spoken(legacy_sse), spoken(to_legacy));
        }
        (
            Transport::Stdio {
                command,
                args,
                cwd,
                env,
                package,
                program_from_project: _,
            },
            Transport::Stdio {
                command: to_command,
                args: to_args,
                cwd: to_cwd,
                env: to_env,
                package: to_package,
                program_from_project: _,
            },
        ) => {
            look("the program", command.clone(), to_command.clone());
            look("the arguments", args.join(" "), to_args.join(" "));
            look("the directory", optional(cwd), optional(to_cwd));
            look("the package", optional(package), optional(to_package));
            let value = |env: &BTreeMap<String, String>, name: &String| {
                env.get(name).cloned().unwrap_or_else(|| "unset".to_owned())
            };
            let names: BTreeSet<&String> = env.keys().chain(to_env.keys()).collect();
            for name in names {
                let what = format!("the variable {}", code(name));
                look(&what, value(env, name), value(to_env, name));
            }
        }
        (Transport::Http { .. }, Transport::Stdio { .. })
        | (Transport::Stdio { .. }, Transport::Http { .. }) => {
            let sentence = format!("{server} moved: {}, was {}", reach(new), reach(old));
            list.add(Effect::Review, sentence);
        }
    }
}
