//! Reading the live surface, and comparing it with the pin.

use serde_json::value::RawValue;

use super::survey::{self, Changes, Offer, Page, Survey};
use super::{Answer, Ask, Link, LinkOutput, Opening, Phase, Probed};
use crate::clock::Now;
use crate::limits;
use crate::pin::{self, Comparison, Kind, Shown};
use crate::registry::doc::{PinMode, Pinned, Surface};
use crate::text::printable;
use crate::wire::era::Era;
use crate::wire::http::headers_of;

impl Link {
    pub(super) fn start_survey(&mut self, era: Era, now: &Now) {
        self.relisten_at_us = None;
        self.asks.retain(|_, ask| *ask == Ask::Listen);
        let about = self.live.take().unwrap_or_default();
        let offer = Offer::of(about.capabilities.as_deref());
        let listening = !self.asks.is_empty();
        if era == Era::Stateless && offer.changes.any() && !listening {
            self.listen(offer.changes);
            self.listened_us = now.mono_us;
        }
        let lists = offer.lists();
        for kind in &lists {
            self.request(Ask::List(*kind), survey::method(*kind), "", era);
        }
        // a comparison on a running link is not allowed the time a first `npx` takes
        let deadline_us = match self.phase {
            Phase::Initializing { deadline_us } | Phase::Probing { deadline_us, .. } => deadline_us,
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Ready { .. }
            | Phase::Starting { .. }
            | Phase::Surveying { .. } => now.mono_us + limits::SURVEY_MS * 1000,
        };
        self.phase = Phase::Surveying {
            era,
            survey: Box::new(Survey::new(without_lists(about), lists.len())),
            deadline_us,
            changed: false,
        };
        self.finish_survey(now);
    }

    /// MCP 2026-07-28, subscriptions: change notifications come only to who listens.
    fn listen(&mut self, changes: Changes) {
        let mut wanted = Vec::new();
        if changes.tools {
            wanted.push(r#""toolsListChanged":true"#);
        }
        if changes.prompts {
            wanted.push(r#""promptsListChanged":true"#);
        }
        if changes.resources {
            wanted.push(r#""resourcesListChanged":true"#);
        }
        let wanted = format!(r#""notifications":{{{}}},"#, wanted.join(","));
        self.request(Ask::Listen, "subscriptions/listen", &wanted, Era::Stateless);
    }

    pub(super) fn answered_list(&mut self, kind: Kind, answer: Answer<'_>, now: &Now) {
        let Phase::Surveying { era, survey, .. } = &mut self.phase else {
            return;
        };
        let era = *era;
        let method = survey::method(kind);
        let page = match answer {
            Answer::Result(text) => survey.page(kind, text),
            // declared and not there: seen for templates and prompts
            Answer::Error { code: -32601, .. } => {
                survey.end_of_list();
                Ok(Page::Last)
            }
            Answer::Error { code, message, .. } => {
                Err(format!("refused {method}: {} ({code})", printable(message)))
            }
        };
        match page {
            Ok(Page::Last) => self.finish_survey(now),
            Ok(Page::More(cursor)) => {
                let cursor = serde_json::Value::from(cursor);
                self.request(
                    Ask::List(kind),
                    method,
                    &format!(r#""cursor":{cursor},"#),
                    era,
                );
            }
            Err(phrase) => self.fail(phrase, now),
        }
    }

    /// Compares, once every list is at its end.
    fn finish_survey(&mut self, now: &Now) {
        if !matches!(&self.phase, Phase::Surveying { survey, .. } if survey.is_complete()) {
            return;
        }
        let Phase::Surveying {
            era,
            survey,
            changed,
            ..
        } = std::mem::replace(&mut self.phase, Phase::Closed)
        else {
            return;
        };
        let (live, remarks) = survey.into_surface();
        for remark in remarks {
            self.out.push_back(LinkOutput::Note("list", remark));
        }
        match self.compare(era, &live) {
            Ok(compared) => self.compared(era, compared),
            Err(sentence) => return self.drifted(era, sentence, live, now),
        }
        let headers = (era == Era::Stateless && self.is_remote()).then(|| {
            let tools = live.tools.iter();
            let as_reviewed = |tool: &&Pinned| {
                let entry = (Kind::Tool, tool.name.clone());
                !self.differing.contains_key(&entry)
            };
            let tools = tools.filter(as_reviewed);
            headers_of(tools.map(|tool| (tool.name.as_str(), tool.definition.get())))
        });
        let wants_lists = self.survey || self.server.pin == PinMode::Off;
        if wants_lists {
            self.out
                .push_back(LinkOutput::Surface(Box::new(live.clone())));
            self.live = Some(live);
        } else {
            self.live = Some(without_lists(live));
        }
        if let Some(headers) = headers {
            self.out.push_back(LinkOutput::Headers(Box::new(headers)));
        }
        self.out.push_back(LinkOutput::Ready(era));
        if self.run.ready_us.is_none() {
            self.run.ready_us = Some(now.mono_us);
            // one slow or broken start must not bind the next week to the older era
            let proved = self.run.probed != Probed::Silent && !self.run.reopened;
            if self.learned.is_some() && (proved || self.learned == Some(Opening::Probe)) {
                self.out.push_back(LinkOutput::Learned(self.learned));
            }
        }
        self.retry_at_s = None;
        let times = self.failures;
        // one that works at the second try is nothing to tell
        if self.last_failure.take().is_some() && times > 1 {
            let detail = format!("works again, after {times} failures in a row");
            self.out.push_back(LinkOutput::Note("up", detail));
        }
        self.phase = if changed {
            Phase::Gathering {
                era,
                until_us: now.mono_us + limits::LIST_CHANGED_DEBOUNCE_MS * 1000,
            }
        } else {
            Phase::Ready {
                era,
                since_us: now.mono_us,
                idle_at_us: self.idle_at(now),
            }
        };
    }

    /// Compares with the pin.
    ///
    /// # Errors
    /// Why the whole server may not be used.
    fn compare(&self, era: Era, live: &Surface) -> Result<Comparison, String> {
        if self.survey || self.server.pin == PinMode::Off {
            return Ok(Comparison::default());
        }
        let Some(pinned) = &self.server.surface else {
            return Err(format!(
                "server {} has no pinned surface to compare with",
                self.server.key
            ));
        };
        // the pin was made for a client that can be asked for all that is allowed
        let shown = match self.lacking(era).is_empty() {
            true => Shown::All,
            false => Shown::Less,
        };
        pin::compare(pinned, live, self.server.pin, shown, self.is_remote())
            .map_err(|drift| drift.sentence)
    }

    /// Takes the result, and tells the record what differs where that is news.
    fn compared(&mut self, era: Era, compared: Comparison) {
        let Comparison {
            absent,
            changed,
            differences,
        } = compared;
        self.absent = (!absent.is_empty()).then_some((era, absent));
        self.differing = changed;
        if self.differences != differences {
            let note = match (differences.split_first(), self.differing.len()) {
                (None, _) => "is what was approved again".to_owned(),
                (Some((first, more)), calls) => {
                    let more = match more.len() {
                        0 => String::new(),
                        more => format!(", and {more} more"),
                    };
                    let calls = match calls {
                        0 => "no call is refused for it",
                        _ => "calls of what changed are refused",
                    };
                    format!("{first}{more}: {calls}")
                }
            };
            self.out.push_back(LinkOutput::Note("drift", note));
            self.differences = differences;
        }
    }

    pub(super) fn changed(&mut self, now: &Now) {
        match &mut self.phase {
            Phase::Ready { era, .. } => {
                self.phase = Phase::Gathering {
                    era: *era,
                    until_us: now.mono_us + limits::LIST_CHANGED_DEBOUNCE_MS * 1000,
                };
            }
            Phase::Surveying { changed, .. } => *changed = true,
            // gathered already, or read anyway before the next call
            Phase::Closed
            | Phase::Draining(_)
            | Phase::Gathering { .. }
            | Phase::Initializing { .. }
            | Phase::Probing { .. }
            | Phase::Starting { .. } => {}
        }
    }
}

pub(super) fn is_same_surface(a: &Surface, b: &Surface) -> bool {
    let raw = |value: &Option<Box<RawValue>>| value.as_ref().map(|raw| raw.get().to_owned());
    a.protocol == b.protocol
        && a.instructions == b.instructions
        && raw(&a.capabilities) == raw(&b.capabilities)
        && Kind::ALL.into_iter().all(|kind| {
            let digests = |surface| {
                Kind::of(kind, surface)
                    .iter()
                    .map(|pinned| pinned.digest)
                    .collect::<Vec<_>>()
            };
            digests(a) == digests(b)
        })
}

pub(super) fn without_lists(surface: Surface) -> Surface {
    Surface {
        tools: Vec::new(),
        prompts: Vec::new(),
        templates: Vec::new(),
        resources: Vec::new(),
        ..surface
    }
}
