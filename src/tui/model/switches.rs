//! How many vectors each layer exchanged, and when.

use crate::runlog::Switch;

/// Switches of every layer over the updates, as counts, with the newest in detail.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Switches {
    /// By layer: `(update, vectors switched on each side, vectors wanted, norm of the correction)`, oldest first.
    pub layers: Vec<Vec<(u64, u32, u32, f32)>>,
    /// Vectors switched so far, both sides of all layers together.
    pub total: u64,
    /// Of the newest update with a switch: its number and rows.
    pub newest: Option<(u64, Switch)>,
}

impl Switches {
    /// Takes an event in.
    pub fn add(&mut self, step: u64, switch: &Switch) {
        for layer in &switch.l {
            let place = layer.layer as usize;
            if self.layers.len() <= place {
                self.layers.resize_with(place + 1, Vec::new);
            }
            self.layers[place].push((step, layer.k, layer.wanted, layer.dw_norm as f32));
            self.total += 2 * u64::from(layer.k);
        }
        self.newest = Some((step, switch.clone()));
    }

    /// Takes back everything after an update.
    pub fn truncate(&mut self, step: u64) {
        for layer in &mut self.layers {
            let kept = layer.partition_point(|entry| entry.0 <= step);
            for entry in layer.drain(kept..) {
                self.total -= 2 * u64::from(entry.1);
            }
        }
    }
}
