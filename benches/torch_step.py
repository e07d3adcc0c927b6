"""One training step of the same LLaMA in PyTorch on the CPU (f32, AdamW), for `beside_torch.sh`.

Prints one JSON line. `full` trains everything; `lora` is PEFT on the seven linear layers with the base frozen and
embedding, norms and head trained, as ours does. Needs torch, transformers and (for lora) peft.
Example: python3 torch_step.py --method lora --steps 7"""
import argparse
import json
import os
import resource
import statistics
import time
import warnings

warnings.filterwarnings("ignore")
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--method", choices=["full", "lora"], default="full")
defaults = dict(dim=256, layers=6, heads=4, ffn=688, vocab=4096, seq=256, batch=8, rank=64, steps=7, warmup=2, threads=2)
for name, value in defaults.items():
    parser.add_argument(f"--{name}", type=int, default=value)
o = parser.parse_args()

os.environ["OMP_NUM_THREADS"] = str(o.threads)
import torch  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

torch.set_num_threads(o.threads)
torch.manual_seed(0)


def resident_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


resident_at_start = resident_peak()
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=o.vocab, hidden_size=o.dim, intermediate_size=o.ffn, num_hidden_layers=o.layers,
    num_attention_heads=o.heads, num_key_value_heads=o.heads, max_position_embeddings=o.seq,
    tie_word_embeddings=False, attn_implementation="sdpa")).float()
if o.method == "lora":
    import peft
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = peft.get_peft_model(model, peft.LoraConfig(r=o.rank, lora_alpha=o.rank, lora_dropout=0.0, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_" not in name and not any(target in name for target in targets):
            parameter.requires_grad_(True)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
ids = torch.randint(0, o.vocab, (o.batch, o.seq))

seconds, cpu_seconds = [], []
for _ in range(o.warmup + o.steps):
    begin, cpu_begin = time.perf_counter(), time.process_time()
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    last_loss = loss.item()
    seconds.append(time.perf_counter() - begin)
    cpu_seconds.append(time.process_time() - cpu_begin)
seconds, cpu_seconds = seconds[o.warmup:], cpu_seconds[o.warmup:]
tokens = o.batch * o.seq
print(json.dumps({
    "method": o.method,
    "tokens_per_s": tokens / statistics.median(seconds),
    "best_tokens_per_s": tokens / min(seconds),
    "step_s": seconds,
    "cpu_s": cpu_seconds,
    "trained": sum(p.numel() for p in trained),
    "rss_bytes": resident_peak(),
    "rss_above_imports_bytes": resident_peak() - resident_at_start,
    "last_loss": last_loss,
    "threads": o.threads,
    "load": os.getloadavg()[0],
    "torch": torch.__version__,
}))
