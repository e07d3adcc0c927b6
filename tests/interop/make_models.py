"""Makes tiny models of every architecture that fullrank reads, with what transformers computes from them.

python make_models.py FOLDER [--seed N]

Each model is a Hugging Face directory as `save_pretrained` writes it, and `expected.safetensors` beside it: input_ids,
logits, loss, loss and gradients with masked labels. tests/models was made with seed 0; tests/interop/transformers.rs
makes others where Python has torch, transformers and safetensors.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers import AutoModelForCausalLM

SIZES = dict(
    hidden_size=18,
    intermediate_size=26,
    num_hidden_layers=2,
    vocab_size=41,
    max_position_embeddings=64,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)


def configurations():
    """Name and configuration: heads, ties, biases and rope differ."""
    grouped = dict(num_attention_heads=6, num_key_value_heads=2, head_dim=6)
    llama3 = dict(
        rope_type="llama3", rope_theta=500000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=16,
    )
    linear = dict(rope_type="linear", rope_theta=10000.0, factor=2.0)
    plain = lambda theta: dict(rope_type="default", rope_theta=theta)
    return {
        "llama_bias": LlamaConfig(
            **SIZES, **grouped, attention_bias=True, mlp_bias=True, rope_parameters=linear
        ),
        "mistral": MistralConfig(**SIZES, **grouped, sliding_window=None, rope_parameters=plain(1e6)),
        "qwen2": Qwen2Config(
            **SIZES, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True, rope_parameters=plain(1e6)
        ),
        "qwen3": Qwen3Config(**SIZES, **(grouped | dict(head_dim=10)), rope_parameters=plain(1e6)),
        "qwen3_bias": Qwen3Config(
            **SIZES, **grouped, attention_bias=True, tie_word_embeddings=True, rope_parameters=llama3
        ),
    }


def randomise(model, generator):
    """Values large enough that every nonlinearity bends; gains around 1, biases that matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.4 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1.0 + 0.3 * noise)
            else:
                parameter.copy_(0.3 * noise)


def gradients(model, ids, labels):
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone().contiguous() for name, p in model.named_parameters()}


def make(folder, name, config, seed):
    generator = torch.Generator().manual_seed(seed)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    randomise(model, generator)
    ids = torch.randint(3, config.vocab_size, (2, 33), generator=generator)
    labels = ids.clone()
    labels[:, ::3] = -100
    labels[0, :9] = -100
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    loss, _ = gradients(model, ids, ids)
    loss_masked, grads_masked = gradients(model, ids, labels)
    expected = dict(input_ids=ids, labels_masked=labels, logits=logits.contiguous(), loss=loss, loss_masked=loss_masked)
    expected |= {f"grad_masked.{name}": grad for name, grad in grads_masked.items()}
    target = folder / name
    model.save_pretrained(target)
    save_file(expected, target / "expected.safetensors")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for place, (name, config) in enumerate(configurations().items()):
        make(arguments.folder, name, config, 100 * arguments.seed + place)
    print(json.dumps(sorted(configurations())))


if __name__ == "__main__":
    main()
