"""Reads a GGUF file with the gguf package and computes logits of it with transformers.

python check_gguf.py FILE OUT.safetensors ID...

Writes `logits [T, V]` of the ids and prints a JSON object: some metadata, the number of tensors by format.
"""

import collections
import json
import os
import sys

import gguf
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM


def main():
    path, out, ids = sys.argv[1], sys.argv[2], [int(x) for x in sys.argv[3:]]
    reader = gguf.GGUFReader(path)
    formats = collections.Counter(t.tensor_type.name for t in reader.tensors)
    about = {key: field.contents() for key, field in reader.fields.items() if len(field.data) == 1}
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    model = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(os.path.abspath(path)),
        gguf_file=os.path.basename(path),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    save_file({"logits": logits.contiguous()}, out)
    print(json.dumps(dict(formats=formats, tokens=len(tokens), about=about)))


if __name__ == "__main__":
    main()
