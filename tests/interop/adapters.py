"""Adapters between PEFT and fullrank.

python adapters.py make BASE OUT                        adapters of every supported kind, each with the logits of its model
python adapters.py check BASE [ADAPTER EXPECTED]...     loads adapters that fullrank wrote and compares their logits

`check` prints one JSON list with the largest difference of the logits and their size for each pair. Every tensor of an
adapter must have a place in PEFT's model and the other way round.
"""

import json
import os
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "lora": dict(r=4, lora_alpha=8, target_modules=ALL),
    "rslora": dict(r=6, lora_alpha=9, target_modules=ALL, use_rslora=True),
    "dora": dict(r=4, lora_alpha=4, target_modules=ALL, use_dora=True),
    "some-layers": dict(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"]),
    "one-block": dict(r=2, lora_alpha=4, target_modules=["q_proj", "up_proj"], layers_to_transform=[1]),
    "all-linear": dict(r=3, lora_alpha=5, target_modules="all-linear"),
    "pattern": dict(r=2, lora_alpha=4, target_modules=r".*\.(k_proj|down_proj)"),
    "left-out": dict(r=2, lora_alpha=4, target_modules=ALL, exclude_modules=["o_proj"]),
    "ranks": dict(
        r=4,
        lora_alpha=8,
        target_modules=ALL,
        rank_pattern={"q_proj": 2, r"^model\.layers\.1\.mlp\..*": 3},
        alpha_pattern={"layers.0.mlp.down_proj": 5.0},
    ),
    "both": dict(r=4, lora_alpha=4, target_modules=ALL, use_dora=True, use_rslora=True),
}


def base_model(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits.contiguous()


def make(base, out):
    for number, (name, settings) in enumerate(KINDS.items()):
        torch.manual_seed(number)
        model = get_peft_model(base_model(base), LoraConfig(task_type="CAUSAL_LM", **settings))
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_" in parameter_name and "magnitude" not in parameter_name:
                    parameter.normal_(std=0.2)
                elif "magnitude" in parameter_name:
                    parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
        model.eval()
        folder = os.path.join(out, name)
        model.save_pretrained(folder)
        ids = torch.randint(0, model.config.vocab_size, (2, 12))
        expected = dict(input_ids=ids, logits=logits_of(model, ids))
        expected["merged_logits"] = logits_of(model.merge_and_unload(), ids)
        save_file(expected, os.path.join(folder, "expected.safetensors"))


def check(base, pairs):
    results = []
    for folder, expected in pairs:
        expected = load_file(expected)
        plain = logits_of(base_model(base), expected["input_ids"])
        model = PeftModel.from_pretrained(base_model(base), folder).eval()
        outcome = set_peft_model_state_dict(model, load_peft_weights(folder, device="cpu"))
        missing = [key for key in outcome.missing_keys if "lora_" in key]
        if missing or outcome.unexpected_keys:
            sys.exit(f"{folder}: missing {missing}, unexpected {outcome.unexpected_keys}")
        logits = logits_of(model, expected["input_ids"])
        results.append(
            dict(
                difference=(logits - expected["logits"]).abs().max().item(),
                change=(logits - plain).abs().max().item(),
                largest=expected["logits"].abs().max().item(),
            )
        )
    print(json.dumps(results))


if __name__ == "__main__":
    command, base, *rest = sys.argv[1:]
    if command == "make":
        make(base, rest[0])
    else:
        check(base, list(zip(rest[::2], rest[1::2])))
