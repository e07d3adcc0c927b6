//! One line of the event log: the envelope around a [`Body`].
//!
//! `{"v":1,"seq":n,"ts":unix_ms,"t":kind,"step":…, …}`. Readers skip kinds and fields that they do
//! not know, so that an old program can show the log of a newer one.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::body::Body;
use super::step_line;

/// The version of the log's format that this program writes.
pub const VERSION: u32 = 1;

const ENVELOPE: [&str; 5] = ["v", "seq", "ts", "t", "step"];

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its number in the log, from 1; goes on over a resume.
    pub seq: u64,
    /// When it was written, in milliseconds since 1970.
    pub ts: i64,
    /// Updates applied so far.
    pub step: u64,
    /// What happened.
    pub body: Body,
}

/// A place where events go besides the log: a progress line, a screen.
///
/// The trainer calls it on its own thread, so it must return at once and cannot fail the run.
pub trait EventSink {
    /// Takes one event.
    fn on_event(&mut self, event: &Event);
}

impl<S: EventSink + ?Sized> EventSink for &mut S {
    fn on_event(&mut self, event: &Event) {
        (**self).on_event(event);
    }
}

impl EventSink for Vec<Event> {
    fn on_event(&mut self, event: &Event) {
        self.push(event.clone());
    }
}

impl Event {
    /// The event as one line of JSON, without the line end.
    ///
    /// Errors: only if a raw body holds what JSON cannot.
    pub fn to_line(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Reads one line. A kind without a struct, or of a newer format, becomes [`Body::Raw`].
    ///
    /// Errors: not JSON, no envelope, or a field of a known kind that does not fit.
    pub fn parse(line: &[u8]) -> serde_json::Result<Self> {
        step_line::parse(line).map_or_else(|| Self::parse_any(line), Ok)
    }

    /// The general way to read a line.
    pub(super) fn parse_any(line: &[u8]) -> serde_json::Result<Self> {
        let head: Head = serde_json::from_slice(line)?;
        let known = if head.v == VERSION { Body::parse(&head.t, line) } else { None };
        let body = if let Some(body) = known {
            body?
        } else {
            let mut fields: Map<String, Value> = serde_json::from_slice(line)?;
            fields.retain(|key, _| !ENVELOPE.contains(&key.as_str()));
            Body::Raw { kind: head.t.into_owned(), fields }
        };
        Ok(Self { seq: head.seq, ts: head.ts, step: head.step, body })
    }
}

/// The envelope alone, for reading.
#[derive(Deserialize)]
struct Head<'a> {
    v: u32,
    seq: u64,
    ts: i64,
    #[serde(borrow)]
    t: Cow<'a, str>,
    #[serde(default)]
    step: u64,
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Line<'a> {
            v: u32,
            seq: u64,
            ts: i64,
            t: &'a str,
            step: u64,
            #[serde(flatten)]
            body: &'a Body,
        }
        let (seq, ts, step, t) = (self.seq, self.ts, self.step, self.body.kind());
        Line { v: VERSION, seq, ts, t, step, body: &self.body }.serialize(serializer)
    }
}

/// The time now, in milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::body::*;
    use super::super::number::Number;
    use super::super::restart::{Merge, MergeLayer, Reset};
    use super::super::switch::{Switch, SwitchLayer};
    use super::*;

    fn event(body: impl Into<Body>) -> Event {
        Event { seq: 3, ts: 1_700_000_000_000, step: 7, body: body.into() }
    }

    fn round_trip(body: impl Into<Body>) -> Event {
        let event = event(body);
        let line = event.to_line().unwrap();
        assert!(!line.contains('\n'));
        let back = Event::parse(line.as_bytes()).unwrap();
        assert_eq!(back, event, "{line}");
        back
    }

    #[test]
    fn a_step_is_one_line_with_the_envelope_first() {
        let step = Step {
            loss: 3.5,
            lr: 0.001,
            grad_norm: 1.25,
            tokens: 4096,
            active_s: 2.0,
            tok_s: 2048.0,
        };
        assert_eq!(
            event(step.clone()).to_line().unwrap(),
            r#"{"v":1,"seq":3,"ts":1700000000000,"t":"step","step":7,"loss":3.5,"lr":0.001,"grad_norm":1.25,"tokens":4096,"active_s":2.0,"tok_s":2048.0}"#
        );
        round_trip(step);
    }

    #[test]
    fn every_written_kind_reads_back_as_itself() {
        round_trip(Run { name: "demo".into(), max_s: Some(90.0), ..Run::default() });
        round_trip(Phase { name: "train".into(), detail: "x".into() });
        round_trip(Init { rank: 8, scale: 0.125, ..Init::default() });
        round_trip(Clamp { layer: "q".into(), wanted: 64, rank: 32, reason: String::new() });
        round_trip(Skip { reason: "loss".into(), loss: Some(f64::INFINITY), grad_norm: None });
        round_trip(Eval { loss: 1.0, ppl: 1.0_f64.exp(), tokens: 5 });
        let one = MergeLayer {
            layer: 2,
            dw_norm: 0.5,
            error: Some(f64::INFINITY),
            ..MergeLayer::default()
        };
        let several = MergeLayer {
            error: None,
            head_norms: [0.5, f64::INFINITY].map(Number).into(),
            cosine: Some(0.1),
            agreement: Some(0.6),
            ..one.clone()
        };
        round_trip(Merge { count: 1, l: vec![one, several] });
        round_trip(Reset { count: 1, mode: "zero".into(), m_zeroed: 1.0, ..Reset::default() });
        round_trip(Mem { bytes: [("weights".into(), 12)].into(), ..Mem::default() });
        round_trip(Time { ms: [("forward".into(), 1.5)].into() });
        round_trip(Sys { rss_bytes: Some(1), ..Sys::default() });
        round_trip(Ckpt { path: "checkpoints/step-00000007".into(), ..Ckpt::default() });
        round_trip(Sample { prompt: "It is\n".into(), text: "a \"truth\" \u{1b}".into() });
        round_trip(Alert { level: Level::Warn, what: "w".into(), remedy: String::new() });
        round_trip(Cmd { id: "1".into(), cmd: "stop".into(), ok: true, ..Cmd::default() });
        round_trip(Log { level: Level::Info, msg: "m".into() });
        round_trip(Pause::default());
        round_trip(Resume::default());
        round_trip(Resume { from_step: Some(5), from_seq: Some(9), rollback: None });
        let rollback = Rollback {
            count: 2,
            from: 9,
            checkpoint: "checkpoints/step-00000005".into(),
            what: "the smoothed loss rose".into(),
        };
        round_trip(Resume { from_step: Some(5), from_seq: Some(9), rollback: Some(rollback) });
        round_trip(End { status: EndStatus::Stopped, what: "by the user".into() });
    }

    #[test]
    fn not_finite_numbers_survive_the_log() {
        let line = event(Eval { loss: f64::NAN, ppl: f64::INFINITY, tokens: 1 }).to_line().unwrap();
        assert!(line.contains(r#""loss":"nan","ppl":"inf""#), "{line}");
        let Body::Eval(eval) = Event::parse(line.as_bytes()).unwrap().body else { panic!() };
        assert!(eval.loss.is_nan());
        assert_eq!(eval.ppl, f64::INFINITY);
    }

    #[test]
    fn a_switch_is_a_list_of_numbers_and_random_selection_adds_lists() {
        let contiguous = SwitchLayer {
            layer: 2,
            k: 1,
            wanted: 3,
            ptr_a: 4,
            slot_a: 5,
            ptr_b: 6,
            slot_b: 7,
            dw_norm: 0.5,
            ..SwitchLayer::default()
        };
        let random = SwitchLayer { slots_a: vec![5, 1], slots_b: vec![7, 0], ..contiguous.clone() };
        let event = round_trip(Switch { l: vec![contiguous, random] });
        let line = event.to_line().unwrap();
        assert!(
            line.contains(r#""l":[[2,1,3,4,5,6,7,0.5],[2,1,3,4,5,6,7,0.5,[5,1],[7,0]]]"#),
            "{line}"
        );
        let newer = br#"{"v":1,"seq":1,"ts":0,"t":"switch","l":[[2,1,3,4,5,6,7,0.5,[],[],"new"]]}"#;
        assert!(Event::parse(newer).is_ok());
        let short = br#"{"v":1,"seq":1,"ts":0,"t":"switch","l":[[2,1,3]]}"#;
        assert!(Event::parse(short).is_err());
    }

    #[test]
    fn unknown_kinds_are_kept_and_unknown_fields_skipped() {
        let line = br#"{"v":1,"seq":1,"ts":2,"t":"novel","step":3,"norm":0.5,"layers":["a"]}"#;
        let event = Event::parse(line).unwrap();
        assert_eq!(event.body.kind(), "novel");
        assert_eq!(event.to_line().unwrap().as_bytes(), line);

        let line = br#"{"v":1,"seq":1,"ts":2,"t":"phase","name":"train","colour":"red"}"#;
        let expected = Phase { name: "train".into(), detail: String::new() };
        assert_eq!(Event::parse(line).unwrap().body, Body::Phase(expected));

        let newer = br#"{"v":2,"seq":1,"ts":2,"t":"step","loss":{"train":1}}"#;
        assert!(matches!(Event::parse(newer).unwrap().body, Body::Raw { .. }));
        let status = br#"{"v":1,"seq":1,"ts":2,"t":"end","status":"melted"}"#;
        let expected = End { status: EndStatus::Failed, what: String::new() };
        assert_eq!(Event::parse(status).unwrap().body, Body::End(expected));
    }

    #[test]
    fn lines_without_an_envelope_or_with_wrong_fields_are_errors() {
        for line in [
            &b""[..],
            b"{}",
            b"7",
            b"{\"v\":1",
            b"\xff\xfe",
            br#"{"v":1,"seq":1,"ts":2,"t":"step","loss":"low"}"#,
            br#"{"v":1,"seq":1,"ts":2,"t":"eval","loss":1}"#,
            br#"{"v":1,"seq":-1,"ts":2,"t":"eval"}"#,
        ] {
            assert!(Event::parse(line).is_err(), "{:?}", String::from_utf8_lossy(line));
        }
    }
}
