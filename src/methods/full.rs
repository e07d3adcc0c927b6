//! Full rank: AdamW on every parameter. The baseline of every comparison.

use crate::error::Result;
use crate::model::Model;

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
