//! ReLoRA's phases: how a run is cut into a warm start and whole cycles.

use crate::config::RunConfig;
use crate::error::{Error, Result};

/// Cycles of a run that says nothing about them: three restarts.
const CYCLES: u64 = 4;

/// The fewest updates of a cycle: one at rate 0, one that learns.
pub const LEAST_CYCLE: u64 = 2;

/// Fills in warm start, cycle and warm-ups for a run of `iters` updates, so that whole cycles follow the warm
/// start.
///
/// By default the warm start is a quarter of the run and the rest is four cycles. What does not go into whole
/// cycles is added to the warm start, unless both are given (as in a `run.toml` that is made longer) or
/// the warm start is switched off: then it is an error. A cycle as long as the rest never restarts.
pub(super) fn resolve(config: &mut RunConfig, iters: u64) -> Result<()> {
    let table = &mut config.relora;
    let is_fixed =
        table.warm_start == Some(0) || (table.warm_start.is_some() && table.cycle.is_some());
    let wanted = table.warm_start.unwrap_or_else(|| iters.div_ceil(4).min(iters - 1));
    if wanted >= iters {
        return Err(Error::config(
            format!("relora.warm_start = {wanted} leaves nothing of {iters} updates"),
            "make the warm start shorter or the run longer",
        ));
    }
    let rest = iters - wanted;
    let cycle = table.cycle.unwrap_or_else(|| (rest / CYCLES).max(LEAST_CYCLE));
    let cycles = match table.cycle {
        Some(_) => rest / cycle,
        None => (rest / cycle).min(CYCLES),
    };
    let whole = if cycle >= rest { rest } else { cycles * cycle };
    if is_fixed && whole != rest {
        let fewer = wanted + whole;
        return Err(Error::config(
            format!(
                "ReLoRA: {rest} updates after a warm start of {wanted} are no multiple of the cycle of {cycle}"
            ),
            format!(
                "train {fewer} or {} updates in all, or set --relora-warm-start {} or another --relora-cycle",
                fewer + cycle,
                iters - whole
            ),
        ));
    }
    let rewarm = *table.rewarm_steps.get_or_insert((cycle / 20).clamp(2, 100).min(cycle - 1));
    let warmup = *table.warmup_steps.get_or_insert((cycle / 10).min(500));
    for (key, value, limit) in
        [("rewarm_steps", rewarm, cycle - 1), ("warmup_steps", warmup, cycle)]
    {
        if value > limit {
            return Err(Error::config(
                format!("relora.{key} = {value} does not go into a cycle of {cycle} updates"),
                format!("use at most {limit}, or a longer --relora-cycle"),
            ));
        }
    }
    table.warm_start = Some(iters - whole);
    table.cycle = Some(cycle);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(iters: u64, change: impl FnOnce(&mut RunConfig)) -> Result<RunConfig> {
        let mut config = RunConfig::default();
        change(&mut config);
        resolve(&mut config, iters).map(|()| config)
    }

    fn phases(config: &RunConfig) -> [u64; 4] {
        let table = &config.relora;
        [table.warm_start, table.cycle, table.warmup_steps, table.rewarm_steps].map(Option::unwrap)
    }

    #[test]
    fn the_default_is_a_quarter_of_warm_start_and_four_cycles() {
        for (iters, expected) in [
            (600, [152, 112, 11, 5]),
            (20_000, [5_000, 3_750, 375, 100]),
            (40_000, [10_000, 7_500, 500, 100]),
            (20, [8, 3, 0, 2]),
            (6, [2, 2, 0, 1]),
            (1, [0, 2, 0, 1]),
        ] {
            let config = resolved(iters, |_| {}).unwrap();
            assert_eq!(phases(&config), expected, "{iters} updates");
        }
    }

    #[test]
    fn whole_cycles_follow_a_warm_start_of_any_length() {
        for iters in 1..400 {
            let config = resolved(iters, |_| {}).unwrap();
            let [warm, cycle, warmup, rewarm] = phases(&config);
            let rest = iters - warm;
            assert!(rest > 0 && (rest % cycle == 0 || cycle >= rest), "{iters}: {rest} by {cycle}");
            assert!(rest / cycle <= 4 && rewarm >= 1 && rewarm < cycle && warmup <= cycle);
            assert!(warm >= iters / 4, "{iters}: a quarter at least");
            assert!(cycle < 3 || rewarm >= 2, "{iters}: re-warm at least 2");
        }
    }

    #[test]
    fn resolving_again_changes_nothing() {
        for iters in 1..200 {
            let mut config = resolved(iters, |_| {}).unwrap();
            let once = config.clone();
            resolve(&mut config, iters).unwrap();
            assert_eq!(config, once);
        }
    }

    #[test]
    fn a_given_cycle_is_kept_and_the_rest_goes_to_the_warm_start() {
        let config = resolved(1_000, |c| c.relora.cycle = Some(200)).unwrap();
        assert_eq!(phases(&config), [400, 200, 20, 10]);
        let config = resolved(1_000, |c| c.relora.cycle = Some(900)).unwrap();
        assert_eq!(config.relora.warm_start, Some(250), "no restart, nothing to round");
        let config = resolved(103, |c| c.relora.warm_start = Some(10)).unwrap();
        assert_eq!(phases(&config)[..2], [11, 23]);
    }

    #[test]
    fn what_does_not_fit_is_an_error_with_the_numbers_that_do() {
        let error = resolved(1_100, |c| {
            c.relora.warm_start = Some(250);
            c.relora.cycle = Some(200);
        });
        let error = error.unwrap_err();
        assert_eq!(
            error.to_string(),
            "ReLoRA: 850 updates after a warm start of 250 are no multiple of the cycle of 200"
        );
        assert!(error.remedy().starts_with("train 1050 or 1250 updates in all"));
        assert!(error.remedy().contains("--relora-warm-start 300"), "{}", error.remedy());
        assert!(resolved(102, |c| c.relora.warm_start = Some(0)).is_err());
        assert!(resolved(100, |c| c.relora.warm_start = Some(0)).is_ok());
        assert!(resolved(100, |c| c.relora.warm_start = Some(100)).is_err());
        assert!(resolved(100, |c| c.relora.rewarm_steps = Some(18)).is_err());
        assert!(resolved(100, |c| c.relora.warmup_steps = Some(19)).is_err());
    }

    #[test]
    fn a_longer_run_must_be_longer_by_whole_cycles() {
        let config = resolved(600, |_| {}).unwrap();
        let longer = |iters| resolve(&mut config.clone(), iters);
        assert!(longer(712).is_ok() && longer(824).is_ok());
        assert!(longer(700).unwrap_err().remedy().contains("712"));
    }
}
