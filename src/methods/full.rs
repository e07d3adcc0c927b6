//! Full rank: AdamW on every parameter. The baseline of every comparison.

use crate::error::Result;

use super::{Context, Export, Method, MethodState, StateReader};

/// Trains every parameter.
#[derive(Debug)]
pub struct Full;

impl Method for Full {
    fn name(&self) -> &'static str {
        "full"
    }

    fn prepare(&mut self, cx: &mut Context<'_>) -> Result<()> {
        for id in cx.model.params.ids() {
            cx.model.params.set_trainable(id, true);
        }
        Ok(())
    }

    fn restore(&mut self, cx: &mut Context<'_>, _state: &dyn StateReader) -> Result<()> {
        self.prepare(cx)
    }

    fn state(&self, _cx: &Context<'_>) -> MethodState {
        MethodState::default()
    }

    fn export(&self) -> Export {
        Export::Merged
    }
}
