//! Random cases for the tests that read damaged files: few in a usual run, and with `FULLRANK_FUZZ_SECONDS=600` as many
//! as that time holds, for each test that draws them.

// Not every test uses every part; clippy.toml allows a panic in test functions, not in those that help them.
#![allow(dead_code, clippy::panic, clippy::print_stderr)]

use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

/// Cases between two looks at the clock.
const BATCH: u32 = 200;

/// How long to go on, where that is said.
fn time() -> Option<Duration> {
    let text = std::env::var("FULLRANK_FUZZ_SECONDS").ok()?;
    let seconds = text.parse().unwrap_or_else(|_| panic!("FULLRANK_FUZZ_SECONDS is `{text}`"));
    Some(Duration::from_secs(seconds))
}

/// Tries values of a strategy: `few` of them, or until the time is up. A failure is shrunk and told.
pub fn each<S: Strategy>(
    name: &str,
    few: u32,
    strategy: &S,
    check: impl Fn(S::Value) -> TestCaseResult,
) where
    S::Value: Debug,
{
    let batch = |cases: u32| {
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        if let Err(error) = TestRunner::new(config).run(strategy, &check) {
            panic!("{name}: {error}");
        }
    };
    let Some(time) = time() else { return batch(few) };
    let (begin, mut cases) = (Instant::now(), 0_u64);
    while begin.elapsed() < time {
        batch(BATCH);
        cases += u64::from(BATCH);
    }
    eprintln!("{name}: {cases} cases in {:.0} s", begin.elapsed().as_secs_f64());
}

/// Numbers for rounds of a test that draws by itself: 0 alone, or on and on until the time is up.
pub fn rounds(name: &'static str) -> impl Iterator<Item = u64> {
    let (begin, time) = (Instant::now(), time().unwrap_or_default());
    (0..).take_while(move |&round| {
        let goes_on = round == 0 || begin.elapsed() < time;
        if !goes_on && !time.is_zero() {
            eprintln!("{name}: {round} rounds in {:.0} s", begin.elapsed().as_secs_f64());
        }
        goes_on
    })
}
