//! Reads the lines that a log is made of for the most part: updates, as this program writes them. Every other line, and
//! every line that is not exactly so, goes the general way. Long runs have a million of them.

use super::body::Step;
use super::event::Event;

/// The event of a line that is an update in the form of the writer; `None` for all else.
pub(super) fn parse(line: &[u8]) -> Option<Event> {
    let mut rest = Rest(line);
    rest.skip(b"{\"v\":1,\"seq\":")?;
    let seq = rest.whole()?;
    rest.skip(b",\"ts\":")?;
    let ts = i64::try_from(rest.whole()?).ok()?;
    rest.skip(b",\"t\":\"step\",\"step\":")?;
    let step = rest.whole()?;
    rest.skip(b",\"loss\":")?;
    let loss = rest.number()?;
    rest.skip(b",\"lr\":")?;
    let lr = rest.number()?;
    rest.skip(b",\"grad_norm\":")?;
    let grad_norm = rest.number()?;
    rest.skip(b",\"tokens\":")?;
    let tokens = rest.whole()?;
    rest.skip(b",\"active_s\":")?;
    let active_s = rest.number()?;
    rest.skip(b",\"tok_s\":")?;
    let tok_s = rest.number()?;
    rest.skip(b"}")?;
    let body = Step { loss, lr, grad_norm, tokens, active_s, tok_s }.into();
    rest.0.is_empty().then_some(Event { seq, ts, step, body })
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, word: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(word)?;
        Some(())
    }

    /// A whole number that is not negative.
    fn whole(&mut self) -> Option<u64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(digits);
        if digits.is_empty() || (digits[0] == b'0' && digits.len() > 1) {
            return None;
        }
        self.0 = rest;
        digits
            .iter()
            .try_fold(0_u64, |all, digit| all.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
    }

    /// A number as JSON has it. Numbers of other forms that Rust would read are left to the general way.
    fn number(&mut self) -> Option<f64> {
        let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E');
        let (text, rest) = self.0.split_at(self.0.iter().take_while(is_part).count());
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let is_digit = |place: usize| digits.get(place).is_some_and(u8::is_ascii_digit);
        let leads_with_zero = digits.first() == Some(&b'0') && is_digit(1);
        let point = digits.iter().position(|byte| *byte == b'.');
        let has_bare_point = point.is_some_and(|point| !is_digit(point + 1));
        if !is_digit(0) || leads_with_zero || has_bare_point {
            return None;
        }
        let number: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
        self.0 = rest;
        number.is_finite().then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        let number =
            || prop_oneof![-1e3..1e3, any::<f64>().prop_filter("finite", |n| n.is_finite())];
        let numbers = (number(), number(), number(), number(), number());
        (any::<u64>(), 0_i64.., any::<u64>(), any::<u64>(), numbers).prop_map(
            |(seq, ts, step, tokens, (loss, lr, grad_norm, active_s, tok_s))| {
                let body = Step { loss, lr, grad_norm, tokens, active_s, tok_s }.into();
                Event { seq, ts, step, body }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_the_short_way(event in event()) {
            let line = event.to_line().unwrap();
            prop_assert_eq!(parse(line.as_bytes()), Some(event));
        }

        #[test]
        fn the_short_way_reads_nothing_that_the_general_way_reads_otherwise(
            event in event(), at in 0_usize..250, byte in prop::sample::select(b"0123456789.-+eE\",}{ a\n".to_vec()),
            how in 0..3,
        ) {
            let mut line = event.to_line().unwrap().into_bytes();
            let at = at % line.len();
            match how {
                0 => line[at] = byte,
                1 => line.insert(at, byte),
                _ => { line.remove(at); }
            }
            if let Some(read) = parse(&line) {
                prop_assert_eq!(Event::parse_any(&line).unwrap(), read);
            }
        }
    }

    #[test]
    fn numbers_that_are_not_json_go_the_general_way() {
        let line = |loss: &str| {
            format!(
                r#"{{"v":1,"seq":1,"ts":2,"t":"step","step":3,"loss":{loss},"lr":1,"grad_norm":0.5,"tokens":4,"active_s":-0.0,"tok_s":1e2}}"#
            )
        };
        assert!(parse(line("7").as_bytes()).is_some());
        for loss in
            ["\"nan\"", "null", "01", ".5", "5.", "+5", "1.e5", "inf", "1e999", "--1", "", "-"]
        {
            assert_eq!(parse(line(loss).as_bytes()), None, "{loss}");
        }
    }
}
