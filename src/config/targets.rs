//! Which linear layers get an adapter.

use super::TrainTable;
use crate::error::{Error, Result};

/// Methods that can leave layers out.
const METHODS: [&str; 6] = ["lora", "rslora", "lora-plus", "lora-ga", "pissa", "dora"];
const ALL: &str = "all-linear";

/// The layers that `train.target_modules` means, by PEFT's rule for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets(Option<Vec<String>>);

impl Targets {
    /// Every linear layer of the blocks.
    pub const ALL: Self = Self(None);

    fn parse(text: &str) -> Self {
        if text.trim() == ALL {
            return Self::ALL;
        }
        Self(Some(text.split(',').map(|name| name.trim().to_owned()).collect()))
    }

    /// The names that were given; none where all layers are meant.
    pub fn names(&self) -> &[String] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether a layer is meant: its path is a name or ends with a dot and a name.
    pub fn contains(&self, path: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.iter().any(|name| is_end(path, name)))
    }
}

/// Whether `name` is a path or its end after a dot.
fn is_end(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl TrainTable {
    /// The layers that get an adapter.
    pub fn targets(&self) -> Targets {
        self.target_modules.as_deref().map_or(Targets::ALL, Targets::parse)
    }
}

/// As far as that is known without the model.
pub(super) fn check(train: &TrainTable) -> Result<()> {
    let Some(text) = &train.target_modules else { return Ok(()) };
    if train.targets().names().iter().any(String::is_empty) {
        return Err(Error::config(
            format!("train.target_modules is `{text}`, with an empty name"),
            "give for example --target-modules q_proj,v_proj, or all-linear",
        ));
    }
    if train.targets() != Targets::ALL && !METHODS.contains(&train.method.as_str()) {
        return Err(Error::config(
            format!("train.target_modules does not go with method {}", train.method),
            format!("leave it out, or use one of {}", METHODS.join(", ")),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ends_of_paths() {
        let train = |text: &str| TrainTable {
            target_modules: Some(text.into()),
            method: "lora".into(),
            ..TrainTable::default()
        };
        let path = "model.layers.1.self_attn.q_proj";
        let means = |text: &str| train(text).targets().contains(path);
        assert!(means("q_proj") && means("v_proj, q_proj") && means("all-linear") && means(path));
        assert!(means("1.self_attn.q_proj"));
        assert!(!means("v_proj") && !means("proj") && !means("layers.11.self_attn.q_proj"));
        assert!(TrainTable::default().targets().contains(path));
        assert!(check(&train("q_proj,")).is_err());
        let wrong = TrainTable { method: "galore".into(), ..train("q_proj") };
        assert!(check(&wrong).is_err());
        assert!(check(&TrainTable { method: "galore".into(), ..train("all-linear") }).is_ok());
    }
}
