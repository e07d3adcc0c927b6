"""Turns a GGUF file into a Hugging Face directory in f32, with what transformers computes from it.

python convert_gguf.py FILE.gguf FOLDER

`expected.safetensors` in the folder holds input_ids, logits and loss. `FULLRANK_MODEL_DIR=FOLDER cargo test --release
--test interop transformers` compares fullrank with them.
"""

import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = (
    "Emma Woodhouse, handsome, clever, and rich, with a comfortable home and happy disposition, seemed to unite some of "
    "the best blessings of existence; and had lived nearly twenty-one years in the world with very little to distress "
    "or vex her."
)


def main():
    file, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    source = dict(pretrained_model_name_or_path=str(file.parent), gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # The weights are whole numbers no more: transformers would refuse to save what it takes for quantised.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    plain = type(model)(model.config).to(torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = model(input_ids=ids, labels=ids)
    save_file(
        dict(input_ids=ids, logits=output.logits.contiguous(), loss=output.loss), folder / "expected.safetensors"
    )
    print(f"{folder}: {ids.shape[1]} tokens, loss {output.loss.item():.4f}")


if __name__ == "__main__":
    main()
