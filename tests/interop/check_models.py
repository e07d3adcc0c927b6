"""Loads models that fullrank wrote in transformers and compares their logits with those that were expected.

python check_models.py EXPORTED EXPECTED...   (pairs of a folder and its expected.safetensors)

Prints one JSON list with the class, the largest difference of the logits and their size for each pair. Every tensor of
the model must be in the files and the other way round.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def check(folder, expected):
    expected = load_file(expected)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if wrong:
        sys.exit(f"{folder}: {wrong}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Emma Woodhouse, handsome"
    if tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) != text:
        sys.exit(f"{folder}: the tokenizer does not give the text back")
    with torch.no_grad():
        logits = model.eval()(input_ids=expected["input_ids"]).logits
    result = dict(
        model=type(model).__name__,
        difference=(logits - expected["logits"]).abs().max().item(),
        largest=expected["logits"].abs().max().item(),
    )
    if tokenizer.chat_template is not None:
        chat = [{"role": "user", "content": "Hello"}]
        result["chat"] = tokenizer.apply_chat_template(chat, tokenize=False)
    return result


def main():
    arguments = sys.argv[1:]
    pairs = zip(arguments[::2], arguments[1::2])
    print(json.dumps([check(folder, expected) for folder, expected in pairs]))


if __name__ == "__main__":
    main()
