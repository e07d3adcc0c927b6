//! Full rank: AdamW on every parameter. The baseline of every comparison.

use crate::config::RunConfig;
use crate::error::Result;
use crate::model::Model;
use crate::model::config::TargetLayer;

use super::footprint::Footprint;
use super::{Context, Export, Method, MethodState, StateReader};

/// Trains every parameter.
#[derive(Debug)]
pub struct Full;

impl Method for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    /// A network is built with everything trainable.
    fn prepare(&mut self, _cx: &mut Context<'_>) -> Result<()> {
        Ok(())
    }

    fn restore(&mut self, _cx: &mut Context<'_>, _state: &dyn StateReader) -> Result<()> {
        Ok(())
    }

    fn state(&self, _cx: &Context<'_>) -> MethodState {
        MethodState::default()
    }

    fn export(&self, _model: &Model) -> Export {
        Export::Merged
    }
}

/// What a layer needs: its weight with a gradient and two moments.
pub fn footprint(_config: &RunConfig, layer: &TargetLayer) -> Footprint {
    Footprint::dense(layer)
}
