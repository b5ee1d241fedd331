//! Do records arrive where they should?

use std::time::Duration;

use mcpshim::batch::protocol::Standing;
use mcpshim::report::{Exit, Failure};
use mcpshim::{fetch, ship};

use super::Context;
use super::finding::{Finding, found};
use super::registry::{run, span, unreachable};
use crate::audit;

/// Records may wait this long, in seconds.
const BACKLOG_S: u64 = 86_400;

pub(super) fn check(context: &Context) -> Vec<Finding> {
    let config = &context.config;
    let mut findings = Vec::new();
    match audit::damaged(config) {
        Ok(None) => {}
        Ok(Some(damage)) => findings.push(
            found(
                "record-damaged",
                "records that wait on this machine do not hold",
            )
            .detail(damage),
        ),
        Err(failure) => findings.push(unread(&failure)),
    }
    let note = ship::read_note(&config.state_dir);
    match audit::standing(config) {
        Err(failure) => findings.push(unread(&failure)),
        Ok(standing) => {
            let collected = context.collector().is_some();
            let waiting = standing.waiting;
            if let Some(trouble) = standing.trouble.clone().filter(|_| collected) {
                let records = match waiting {
                    1 => "1 record is".to_owned(),
                    many => format!("{many} records are"),
                };
                let mut finding = found(
                    "record-held",
                    format!("{records} not delivered yet: {trouble}"),
                );
                if let Some(note) = &note {
                    finding = finding.detail(format!("said at {}", note.written));
                }
                findings.push(finding);
            }
            if collected && standing.oldest_age_s.is_some_and(|age_s| age_s > BACKLOG_S) {
                let age = span(standing.oldest_age_s.unwrap_or_default());
                let mut finding = found(
                    "backlog-old",
                    format!("{waiting} records are not delivered yet, the oldest for {age}"),
                );
                finding.details.extend(standing.trouble.clone());
                findings.push(finding);
            }
        }
    }
    let stands = note.as_ref().and_then(|note| note.standing);
    let trouble = note.as_ref().and_then(|note| note.trouble.clone());
    match stands.filter(|_| context.collector().is_some()) {
        Some(Standing::Revoked) => findings.push(found(
            "installation-revoked",
            "the collector treats this machine as revoked",
        )),
        Some(Standing::Unknown) => {
            let mut finding = found(
                "not-enrolled",
                "the collector does not know whose installation this is: its records wait apart",
            );
            finding.details.extend(trouble);
            findings.push(finding);
        }
        Some(Standing::Enrolled) | None => {}
    }
    findings
}

fn unread(failure: &Failure) -> Finding {
    let mut finding = found("record-damaged", failure.sentence.clone());
    finding.details.clone_from(&failure.causes);
    match &failure.hint {
        Some(hint) => finding.fix(hint.clone()),
        None => finding,
    }
}

/// Asks the collector whether it is there.
pub(super) fn collector(context: &Context) -> Vec<Finding> {
    let Some(collector) = context.collector() else {
        return Vec::new();
    };
    let url = &collector.url;
    let client = match fetch::client(&context.config.network, collector.ca_pem.as_deref()) {
        Ok(client) => client,
        Err(error) => {
            let failure = Failure::from_error(Exit::Failed, &error);
            return vec![found("collector-tls", failure.in_one_line())];
        }
    };
    let path = format!("{}/healthz", url.trim_end_matches('/'));
    let asked = async {
        let answer = client.get(path).timeout(Duration::from_secs(10)).send();
        match answer.await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!(
                "it answered with status {}",
                answer.status().as_u16()
            )),
            Err(error) => Some(chain(&error)),
        }
    };
    let Some(Some(why)) = run(asked) else {
        return Vec::new();
    };
    let (code, how) = unreachable(&why);
    let code = if code == "registry-tls" {
        "collector-tls"
    } else {
        "collector-unreachable"
    };
    vec![found(code, format!("the collector at {url} {how}")).detail(why)]
}

fn chain(error: &dyn std::error::Error) -> String {
    let failure = Failure::from_error(Exit::Failed, error);
    failure.in_one_line()
}
