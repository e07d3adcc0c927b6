//! How many vectors each layer exchanged, and when.

use std::ops::Range;

use crate::runlog::{Run, Switch, SwitchLayer};

/// What one layer, or all together, exchanged in one update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Exchange {
    /// The update.
    pub step: u64,
    /// Vectors switched on each side.
    pub k: u32,
    /// Vectors that the schedule asked for.
    pub wanted: u32,
    /// Norm of the correction to the weight.
    pub dw_norm: f32,
    /// Vectors switched on each side up to here, these included.
    pub sum: u32,
}

/// Exchanges in the order of their updates. Counts over any stretch come from two look-ups.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exchanges {
    entries: Vec<Exchange>,
}

impl Exchanges {
    fn add(&mut self, step: u64, k: u32, wanted: u32, dw_norm: f64) {
        let sum = self.entries.last().map_or(0, |last| last.sum).saturating_add(k);
        match self.entries.last_mut().filter(|last| last.step == step) {
            Some(last) => {
                last.k = last.k.saturating_add(k);
                last.wanted = last.wanted.saturating_add(wanted);
                last.dw_norm = last.dw_norm.hypot(dw_norm as f32);
                last.sum = sum;
            }
            None => self.entries.push(Exchange { step, k, wanted, dw_norm: dw_norm as f32, sum }),
        }
    }

    /// All of them, oldest first.
    pub fn entries(&self) -> &[Exchange] {
        &self.entries
    }

    /// The newest.
    pub fn last(&self) -> Option<Exchange> {
        self.entries.last().copied()
    }

    /// Vectors switched on each side in the updates of a range.
    pub fn count(&self, steps: Range<u64>) -> u32 {
        let before = |step: u64| {
            let place = self.entries.partition_point(|entry| entry.step < step);
            place.checked_sub(1).map_or(0, |place| self.entries[place].sum)
        };
        before(steps.end).saturating_sub(before(steps.start))
    }

    fn truncate(&mut self, step: u64) {
        self.entries.truncate(self.entries.partition_point(|entry| entry.step <= step));
    }
}

/// Switches of every layer over the updates, as counts, with the newest in detail.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Switches {
    /// By layer.
    pub layers: Vec<Exchanges>,
    /// All layers together.
    pub together: Exchanges,
    /// Vectors switched so far, both sides of all layers together.
    pub total: u64,
    /// Of each layer the newest exchange: the update, and which vectors.
    pub newest: Vec<Option<(u64, SwitchLayer)>>,
}

impl Switches {
    /// Takes an event of a run in. A row of a layer that the run does not have is damage and counts nothing.
    pub fn add(&mut self, step: u64, switch: &Switch, run: &Run) {
        for layer in switch.l.iter().filter(|layer| run.has_layer(layer.layer)) {
            let place = layer.layer as usize;
            if self.layers.len() <= place {
                self.layers.resize_with(place + 1, Exchanges::default);
                self.newest.resize(place + 1, None);
            }
            self.layers[place].add(step, layer.k, layer.wanted, layer.dw_norm);
            self.together.add(step, layer.k, layer.wanted, layer.dw_norm);
            self.total += 2 * u64::from(layer.k);
            self.newest[place] = Some((step, layer.clone()));
        }
    }

    /// Takes back everything after an update.
    pub fn truncate(&mut self, step: u64) {
        self.layers.iter_mut().for_each(|layer| layer.truncate(step));
        self.together.truncate(step);
        self.total = self.together.last().map_or(0, |last| 2 * u64::from(last.sum));
        for newest in &mut self.newest {
            *newest = newest.take().filter(|newest| newest.0 <= step);
        }
    }

    /// Whether nothing was switched.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(rows: &[(u32, u32)]) -> Switch {
        let row = |&(layer, k): &(u32, u32)| SwitchLayer {
            layer,
            k,
            wanted: k,
            dw_norm: 3.0,
            ..SwitchLayer::default()
        };
        Switch { l: rows.iter().map(row).collect() }
    }

    #[test]
    fn counts_of_a_stretch_are_the_sum_of_its_updates() {
        let mut switches = Switches::default();
        for step in 1..=100 {
            switches.add(step, &switch(&[(0, 1), (2, (step % 3) as u32)]), &Run::default());
        }
        let of = |layer: usize, range: Range<u64>| switches.layers[layer].count(range);
        assert_eq!((of(0, 0..101), of(0, 10..20), of(0, 100..200)), (100, 10, 1));
        assert_eq!(of(2, 1..4), 3, "1 + 2 + 0");
        assert_eq!((of(1, 0..1000), of(0, 50..50)), (0, 0));
        assert_eq!(switches.together.count(1..4), 6);
        assert!((switches.together.entries()[0].dw_norm - 18.0_f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn going_back_leaves_what_a_shorter_run_would_have() {
        let (mut long, mut short) = (Switches::default(), Switches::default());
        for step in 1..=20 {
            long.add(step, &switch(&[(0, 2), (1, 1)]), &Run::default());
            if step <= 12 {
                short.add(step, &switch(&[(0, 2), (1, 1)]), &Run::default());
            }
        }
        long.truncate(12);
        assert_eq!((&long.layers, long.total), (&short.layers, short.total));
        assert_eq!(long.newest, [None, None], "what was newest is not kept twice");
    }

    #[test]
    fn a_layer_that_the_run_does_not_have_takes_no_memory() {
        let damaged = switch(&[(u32::MAX, 7), (2, 1), (1, 3)]);
        let named = Run { layers: vec!["a".into(), "b".into()], ..Run::default() };
        let mut switches = Switches::default();
        switches.add(1, &damaged, &named);
        assert_eq!((switches.layers.len(), switches.total), (2, 6));
        let mut unnamed = Switches::default();
        unnamed.add(1, &damaged, &Run::default());
        assert_eq!((unnamed.layers.len(), unnamed.total), (3, 8));
    }
}
