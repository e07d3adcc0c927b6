//! What methods do between updates, as reports show it: which events count, under which name.

use crate::runlog::Body;

/// The parts of a run's life that change what its curves mean.
const PHASES: [&str; 4] = ["warm-start-end", "ranks-fixed", "method-disabled", "early-stop"];

/// Something that happened between updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Factors went into the dense weights.
    Merge,
    /// Factors or moments began anew.
    Reset,
    /// A gradient's subspace was found anew.
    Subspace,
    /// A layer's rank became another.
    Rank,
    /// A step was held back because it grew too fast.
    Limit,
    /// Another part of the run began: a warm start ended, ranks are final.
    Phase,
    /// A setting was changed in flight.
    Set,
    /// An update was skipped.
    Skip,
    /// The run diverged and went on from a checkpoint, this one.
    Back,
}

impl Act {
    /// All of them, in the order of legends.
    pub const ALL: [Self; 9] = [
        Self::Merge,
        Self::Reset,
        Self::Subspace,
        Self::Rank,
        Self::Limit,
        Self::Phase,
        Self::Set,
        Self::Skip,
        Self::Back,
    ];

    /// Its name in legends.
    pub fn name(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Reset => "reset",
            Self::Subspace => "new subspace",
            Self::Rank => "rank changed",
            Self::Limit => "growth limited",
            Self::Phase => "new phase",
            Self::Set => "setting changed",
            Self::Skip => "update skipped",
            Self::Back => "went back",
        }
    }

    /// Its place in [`Act::ALL`].
    pub fn number(self) -> usize {
        Self::ALL.iter().position(|act| *act == self).unwrap_or(0)
    }

    /// What an event tells: nothing, one act, or a new subspace of another rank.
    pub fn of(body: &Body) -> impl Iterator<Item = Self> {
        let (one, other) = match body {
            Body::Merge(_) => (Some(Self::Merge), None),
            Body::Reset(_) => (Some(Self::Reset), None),
            Body::Skip(_) => (Some(Self::Skip), None),
            Body::Limiter(_) => (Some(Self::Limit), None),
            Body::Subspace(found) => {
                let is_other = found.rank_before.is_some_and(|before| before != found.rank);
                // Factors that grow span more of the same space: no gradient is projected anew.
                let is_gradient = found.side != "both";
                (is_gradient.then_some(Self::Subspace), is_other.then_some(Self::Rank))
            }
            Body::Phase(phase) if PHASES.contains(&phase.name.as_str()) => {
                (Some(Self::Phase), None)
            }
            Body::Resume(resume) if resume.rollback.is_some() => (Some(Self::Back), None),
            Body::Cmd(cmd) if cmd.ok && cmd.set.is_some() => (Some(Self::Set), None),
            _ => (None, None),
        };
        one.into_iter().chain(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runlog::{Changed, Cmd, Phase, Resume, Rollback, Subspace};

    fn of(body: impl Into<Body>) -> Vec<Act> {
        Act::of(&body.into()).collect()
    }

    #[test]
    fn a_new_subspace_may_have_another_rank_and_factors_only_grow() {
        let left = |rank_before| Subspace {
            side: "left".into(),
            rank: 4,
            rank_before,
            ..Subspace::default()
        };
        assert_eq!(of(left(None)), [Act::Subspace]);
        assert_eq!(of(left(Some(4))), [Act::Subspace]);
        assert_eq!(of(left(Some(6))), [Act::Subspace, Act::Rank]);
        let both = |before| Subspace { side: "both".into(), ..left(Some(before)) };
        assert_eq!(of(both(2)), [Act::Rank]);
        assert_eq!(of(both(4)), []);
    }

    #[test]
    fn only_what_changes_the_training_counts() {
        let phase = |name: &str| Phase { name: name.into(), detail: String::new() };
        assert_eq!(of(phase("warm-start-end")), [Act::Phase]);
        assert_eq!(of(phase("export")), []);
        let cmd = |ok, set| Cmd { ok, set, ..Cmd::default() };
        assert_eq!(of(cmd(true, Some(Changed::default()))), [Act::Set]);
        assert_eq!(of(cmd(false, Some(Changed::default()))), []);
        assert_eq!(of(cmd(true, None)), []);
        let resume = |rollback| Resume { from_step: Some(4), from_seq: Some(9), rollback };
        assert_eq!(of(resume(Some(Rollback::default()))), [Act::Back]);
        assert_eq!(of(resume(None)), []);
    }

    #[test]
    fn every_act_has_a_name_of_its_own() {
        for (number, act) in Act::ALL.into_iter().enumerate() {
            assert_eq!(act.number(), number);
            assert!(Act::ALL[..number].iter().all(|other| other.name() != act.name()));
        }
    }
}
