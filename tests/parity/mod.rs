//! Golden cases by kind, and what they share.

pub mod adamw;
pub mod galore;
pub mod llama;
pub mod lora_ga;
pub mod lte;
pub mod peft;
pub mod relora;
pub mod schedules;
pub mod switchlora;
pub mod tokenizer;
pub mod train;

use std::path::PathBuf;

use fullrank::device::Device;
use fullrank::formats::hf_config::{HfConfig, Rope, RopeKind, Variant};
use fullrank::formats::safetensors::SafetensorsFile;
use fullrank::model::{LinearId, Model};

/// The folder of cases.
pub fn folder() -> PathBuf {
    match std::env::var_os("GOLDEN_DIR") {
        Some(folder) => folder.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
    }
}

/// A number of the file's metadata.
pub fn number(file: &SafetensorsFile, key: &str) -> f64 {
    let text = file.metadata().get(key).unwrap_or_else(|| panic!("metadata {key}"));
    text.parse().unwrap_or_else(|_| panic!("metadata {key} = {text}"))
}

/// Values of an f32 tensor.
pub fn values(file: &SafetensorsFile, name: &str) -> Vec<f32> {
    file.read_f32(name).unwrap().values
}

/// Asserts `max|ours - theirs| <= tolerance * max|theirs|`.
pub fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}: length");
    let largest = theirs.iter().fold(0f64, |m, &v| m.max(f64::from(v).abs()));
    let mut worst = (0, 0f64);
    for (i, (&a, &b)) in ours.iter().zip(theirs).enumerate() {
        let difference = (f64::from(a) - f64::from(b)).abs();
        assert!(!difference.is_nan(), "{what}: entry {i}: ours {a}, theirs {b}");
        if difference > worst.1 {
            worst = (i, difference);
        }
    }
    assert!(
        worst.1 <= tolerance * largest,
        "{what}: entry {} differs by {:.3e} ({} against {}), allowed {tolerance:.0e} of {largest:.3e}",
        worst.0,
        worst.1,
        ours[worst.0],
        theirs[worst.0]
    );
}

/// A network whose gate projection has the shape of the case.
pub fn model_with_layer(m: usize, n: usize, device: &Device) -> (Model, LinearId) {
    let config = HfConfig {
        variant: Variant::default(),
        hidden_size: n,
        intermediate_size: m,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: 2,
        rms_norm_eps: 1e-6,
        vocab_size: 4,
        max_position_embeddings: 4,
        tie_word_embeddings: false,
        rope: Rope { theta: 10_000.0, kind: RopeKind::Default },
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        initializer_range: 0.02,
    };
    let model = Model::init(config, 0, device);
    let place = model.linears().iter().position(|l| (l.rows, l.cols) == (m, n)).unwrap();
    (model, LinearId(place))
}
