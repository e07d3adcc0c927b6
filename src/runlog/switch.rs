//! The `switch` event: which vectors `SwitchLoRA` exchanged. There is one on most updates, with a row
//! for each layer, so the rows are lists of numbers without names.

use std::fmt;

use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::number::Number;

/// Vectors that `SwitchLoRA` exchanged in one update, one entry for each layer that switched or wanted
/// to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Switch {
    /// The layers.
    pub l: Vec<SwitchLayer>,
}

/// The switch of one layer: vectors `ptr … ptr+k-1 (mod r)` of each side were replaced by candidates.
///
/// In the log: `[layer,k,wanted,ptr_a,slot_a,ptr_b,slot_b,dw_norm]`, and for random selection two
/// more entries, `slots_a` and `slots_b`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SwitchLayer {
    /// The layer's number in [`Run::layers`](super::Run::layers).
    pub layer: u32,
    /// Vectors switched on each side.
    pub k: u32,
    /// Vectors that the schedule asked for; above `k` where freezing or the pool allowed fewer.
    pub wanted: u32,
    /// First vector of A that was replaced.
    pub ptr_a: u32,
    /// First candidate that came in for A.
    pub slot_a: u32,
    /// First vector of B that was replaced.
    pub ptr_b: u32,
    /// First candidate that came in for B.
    pub slot_b: u32,
    /// Frobenius norm of the correction to W.
    pub dw_norm: f64,
    /// Random selection: all candidates that came in for A; empty for contiguous selection.
    pub slots_a: Vec<u32>,
    /// Random selection: all candidates that came in for B; empty for contiguous selection.
    pub slots_b: Vec<u32>,
}

impl Serialize for SwitchLayer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let has_lists = !self.slots_a.is_empty() || !self.slots_b.is_empty();
        let mut tuple = serializer.serialize_tuple(if has_lists { 10 } else { 8 })?;
        for number in
            [self.layer, self.k, self.wanted, self.ptr_a, self.slot_a, self.ptr_b, self.slot_b]
        {
            tuple.serialize_element(&number)?;
        }
        tuple.serialize_element(&Number(self.dw_norm))?;
        if has_lists {
            tuple.serialize_element(&self.slots_a)?;
            tuple.serialize_element(&self.slots_b)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for SwitchLayer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(SwitchLayerVisitor)
    }
}

struct SwitchLayerVisitor;

impl<'de> Visitor<'de> for SwitchLayerVisitor {
    type Value = SwitchLayer;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[layer,k,wanted,ptr_a,slot_a,ptr_b,slot_b,dw_norm]")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<SwitchLayer, A::Error> {
        let mut numbers = [0_u32; 7];
        for (position, number) in numbers.iter_mut().enumerate() {
            *number = seq.next_element()?.ok_or_else(|| Error::invalid_length(position, &self))?;
        }
        let [layer, k, wanted, ptr_a, slot_a, ptr_b, slot_b] = numbers;
        let dw_norm: Number = seq.next_element()?.ok_or_else(|| Error::invalid_length(7, &self))?;
        let slots_a = seq.next_element()?.unwrap_or_default();
        let slots_b = seq.next_element()?.unwrap_or_default();
        while seq.next_element::<IgnoredAny>()?.is_some() {} // fields of a newer version
        let dw_norm = dw_norm.0;
        Ok(SwitchLayer {
            layer,
            k,
            wanted,
            ptr_a,
            slot_a,
            ptr_b,
            slot_b,
            dw_norm,
            slots_a,
            slots_b,
        })
    }
}
