//! Secrets: which server gets which, how, and where it goes.

use super::{List, grown};
use crate::admin::diff::markup::code;
use crate::admin::diff::view::View;
use crate::admin::diff::{Change, Effect};
use crate::registry::doc::{Inject, Transport};

pub(super) fn credentials(was: &View, is: &View) -> Vec<Change> {
    let mut list = List::default();
    for (key, new) in &is.servers {
        let server = format!("server {}", code(key.as_str()));
        let old = was.servers.get(key);
        let before = old.and_then(|old| old.credential.as_ref());
        let Some(credential) = &new.credential else {
            if let Some(before) = before {
                let id = code(before.id.as_str());
                list.add(Effect::Narrows, format!("{server} no longer gets {id}"));
            }
            continue;
        };
        let id = code(credential.id.as_str());
        let Some(before) = before else {
            let how = how(&credential.inject);
            list.add(
                Effect::Widens,
                format!("{server} gets the secret {id} {how}"),
            );
            continue;
        };
        if before.id != credential.id {
            let old = code(before.id.as_str());
            list.add(
                Effect::Widens,
                format!("{server} gets the secret {id}, was {old}"),
            );
        }
        let elsewhere = old.is_some_and(|old| place(&old.transport) != place(&new.transport));
        if elsewhere {
            let to = code(&place(&new.transport));
            list.add(
                Effect::Widens,
                format!("the secret {id} of {server} goes to {to} now"),
            );
        }
        if before.inject != credential.inject {
            let (old, new) = (how(&before.inject), how(&credential.inject));
            list.add(
                Effect::Review,
                format!("{server} gets {id} {new}, was {old}"),
            );
        }
        let what = format!("where to obtain {id}");
        list.moved(Effect::Review, &what, &before.obtain, &credential.obtain);
        let days = |days: Option<u32>| days.map_or("never".to_owned(), |days| days.to_string());
        let end = |days: Option<u32>| days.unwrap_or(u32::MAX);
        let effect = match grown(&end(before.rotate_days), &end(credential.rotate_days)) {
            Some(Effect::Widens) => Effect::Review,
            _ => Effect::Neutral,
        };
        let (old, new) = (days(before.rotate_days), days(credential.rotate_days));
        list.moved(effect, &format!("rotate_days of {id}"), &old, &new);
    }
    list.0
}

/// Who receives what is sent: the host, or the program. A newer version of the same package is
/// looked at elsewhere.
fn place(transport: &Transport) -> String {
    match transport {
        Transport::Http { url, .. } => match reqwest::Url::parse(url) {
            Ok(url) => url.origin().ascii_serialization(),
            Err(_) => url.clone(),
        },
        Transport::Stdio {
            command, package, ..
        } => {
            let package = package.as_deref().unwrap_or_default();
            let name = package.rsplit_once('@').map_or(package, |(name, _)| name);
            match name.is_empty() {
                true => command.clone(),
                false => format!("{command} {name}"),
            }
        }
    }
}

fn how(inject: &Inject) -> String {
    match inject {
        Inject::Bearer => "as a bearer token".to_owned(),
        Inject::Env { name } => format!("in the variable {}", code(name)),
        Inject::Header { name } => format!("in the header {}", code(name)),
    }
}
