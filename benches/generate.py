"""Tokens per second of greedy generation: fullrank and transformers in turns, in f32 on the CPU.

python benches/generate.py MODEL.gguf [--binary target/release/fullrank] [--tokens 64] [--turns 5] [--threads 2]

transformers runs in this process with its own KV cache; fullrank is started for each turn and reports the time of the
tokens alone (`generate --stats`). Both read the same prompt first, which is not counted. Prints a line for each turn and
the ratio of the medians. Needs torch, transformers and gguf.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM

PROMPT = "It is a truth universally acknowledged, that a single man in possession of a good fortune"


def ours(arguments):
    command = [
        arguments.binary, "generate", arguments.model, "--prompt", PROMPT, "--temperature", "0",
        "--max-tokens", str(arguments.tokens), "--ignore-eos", "--stats", "--device", "cpu",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    line = [line for line in run.stderr.splitlines() if line.startswith("{")][-1]
    stats = json.loads(line)
    assert stats["tokens"] == arguments.tokens, stats
    return stats["tokens_per_s"], run.stdout


@torch.inference_mode()
def theirs(model, ids, count):
    out = model(input_ids=ids, use_cache=True)
    cache, token, tokens = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True), []
    start = time.perf_counter()
    for _ in range(count):
        tokens.append(token.item())
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
    return count / (time.perf_counter() - start), tokens


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--binary", default="target/release/fullrank")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from transformers import AutoTokenizer

    folder, name = os.path.split(os.path.abspath(arguments.model))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(PROMPT, add_special_tokens=False)["input_ids"]])
    theirs(model, ids, 8)
    rates = ([], [])
    for turn in range(arguments.turns):
        own, text = ours(arguments)
        other, tokens = theirs(model, ids, arguments.tokens)
        same = text.strip() == (PROMPT + tokenizer.decode(tokens)).strip()
        rates[0].append(own)
        rates[1].append(other)
        print(f"turn {turn}: fullrank {own:.2f}, transformers {other:.2f} tokens/s, same text: {same}", flush=True)
    medians = [statistics.median(rate) for rate in rates]
    print(f"medians: {medians[0]:.2f} and {medians[1]:.2f} tokens/s, ratio {medians[0] / medians[1]:.2f}")


if __name__ == "__main__":
    main()
