//! How a user wants the screen: `tui.toml` in the folder of configurations, all keys optional.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::Deserialize;

use super::keymap::{self, Keymap};
use super::term::Options;
use super::theme::{self, Theme};
use crate::error::{Error, Result};

/// Most frames of data a second.
const MOST_HZ: u32 = 30;

/// Which background the colours are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Background {
    /// As the terminal says.
    #[default]
    Auto,
    /// Light letters on dark.
    Dark,
    /// Dark letters on light.
    Light,
}

/// What `tui.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prefs {
    /// Which background the colours are for.
    pub theme: Background,
    /// Whether only ASCII is drawn; not set: by the locale.
    pub ascii: Option<bool>,
    /// Whether the mouse belongs to the screen; not set: yes.
    pub mouse: Option<bool>,
    /// Frames of data a second, 1 to 30; not set: 10, over ssh and on battery 4.
    pub fps: Option<u32>,
    /// Whether the terminal's bell sounds on a warning and at the end of a run; not set: no.
    pub bell: bool,
    /// Whether the terminal shows a message then (OSC 9); not set: no.
    pub notify: bool,
    /// Other keys for commands: `fullrank keys` lists both.
    pub keys: BTreeMap<String, String>,
}

impl Prefs {
    /// Where they stand.
    pub fn path() -> Option<PathBuf> {
        let folders = etcetera::choose_base_strategy().ok()?;
        Some(folders.config_dir().join("fullrank").join("tui.toml"))
    }

    /// Reads them; none where there is no file.
    ///
    /// Errors: the file is there and is no such table.
    pub fn read(path: &Path) -> Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let wrong = |what: String| {
            let keys = "its keys are theme = \"auto|dark|light\", ascii, mouse, fps, bell, notify, and a \
                        table [keys] of COMMAND = \"KEY\"";
            Error::file(path, what, keys)
        };
        let prefs: Self = toml::from_str(&text).map_err(|error| wrong(error.message().into()))?;
        keymap::with_own(&prefs.keys).map_err(wrong)?;
        match prefs.fps {
            Some(fps) if fps == 0 || fps > MOST_HZ => {
                Err(wrong(format!("fps is {fps}, expected 1 to {MOST_HZ}")))
            }
            _ => Ok(prefs),
        }
    }

    /// The theme for a terminal of which the environment tells; `background` asks the terminal itself.
    pub fn theme(
        &self,
        wants_ascii: bool,
        variable: &dyn Fn(&str) -> Option<String>,
        background: impl FnOnce() -> bool,
    ) -> Theme {
        let is_light = match self.theme {
            Background::Dark => false,
            Background::Light => true,
            Background::Auto => background(),
        };
        let is_ascii = wants_ascii || self.ascii.unwrap_or_else(|| theme::needs_ascii(variable));
        Theme::new(theme::depth(variable), is_ascii, is_light)
    }

    /// How the screen is to be.
    pub fn options(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
        is_on_battery: bool,
    ) -> Options {
        let usual = Options::of(variable, is_on_battery);
        Options {
            has_mouse: self.mouse.unwrap_or(usual.has_mouse),
            hz: self.fps.unwrap_or(usual.hz),
            rings: self.bell,
            notifies: self.notify,
        }
    }

    /// What keys do.
    ///
    /// Errors: in words, as [`keymap::with_own`]; none for preferences that were [read](Self::read).
    pub fn keymap(&self) -> Result<Keymap, String> {
        keymap::with_own(&self.keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::action::{Action, ViewId};

    #[test]
    fn preferences_are_read_and_wrong_ones_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tui.toml");
        assert_eq!(Prefs::read(&path).unwrap(), Prefs::default());
        let text =
            "theme = \"light\"\nmouse = false\nfps = 4\nbell = true\n[keys]\nsmoother = \"u\"\n";
        std::fs::write(&path, text).unwrap();
        let prefs = Prefs::read(&path).unwrap();
        let options = prefs.options(&|_| None, true);
        assert_eq!((options.has_mouse, options.hz), (false, 4));
        assert_eq!((options.rings, options.notifies), (true, false));
        let smoother = keymap::binding(prefs.keymap().unwrap(), ViewId::Train, Action::Smoother);
        assert_eq!(smoother.unwrap().keys, "u");
        assert!(prefs.theme(false, &|_| None, || panic!("not asked")).is_light);
        let wrong = [
            "fps = 0",
            "fps = 99",
            "colour = 1",
            "theme = \"pink\"",
            "[keys]\nsmoothre = \"x\"",
            "[keys]\nsmoother = \"x\"",
            "bell = 3",
        ];
        for wrong in wrong {
            std::fs::write(&path, wrong).unwrap();
            let error = Prefs::read(&path).unwrap_err();
            assert!(error.to_string().contains("tui.toml"), "{error}");
        }
    }

    #[test]
    fn a_slow_line_gets_fewer_frames() {
        let of = |known: &'static str| {
            let variable = move |name: &str| (name == known).then(|| "x".to_owned());
            Prefs::default().options(&variable, false).hz
        };
        assert_eq!((of("SSH_CONNECTION"), of("TERM")), (4, 10));
        assert_eq!(Prefs::default().options(&|_| None, true).hz, 4, "on battery");
    }
}
