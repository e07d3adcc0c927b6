#!/bin/sh
# Our training step and PyTorch's, turn by turn, at the reference shape: A B A B …
# Usage: [PYTHON=/path/to/python] [THREADS=2] benches/beside_torch.sh [ROUNDS=3] [STEPS=5]
# Python needs torch, transformers and peft; without them nothing is run.
#
# Wall-clock ratios mean something on a quiet machine only: under load PyTorch's two threads wait for each other and lose
# far more than ours. On a busy one use THREADS=1 and the last column, the processor time of a step.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3} steps=${2:-5} python=${PYTHON:-python3} threads=${THREADS:-2}
if ! "$python" -c 'import torch, transformers, peft' 2>/dev/null; then
    echo "skipped: $python has no torch, transformers and peft (set PYTHON)" >&2
    exit 0
fi
ours=$(cargo bench --quiet --bench step --no-run --message-format=json | "$python" -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "step":
        print(message["executable"])')
results=$(mktemp)
trap 'rm -f "$results"' EXIT
round=0
while [ "$round" -lt "$rounds" ]; do
    round=$((round + 1))
    for method in full lora switchlora; do
        "$ours" --method "$method" --rounds "$steps" --threads "$threads" >>"$results"
        if [ "$method" != switchlora ]; then
            "$python" benches/torch_step.py --method "$method" --steps "$steps" --threads "$threads" >>"$results"
        fi
    done
    echo "round $round of $rounds, load $(cut -d' ' -f1 /proc/loadavg 2>/dev/null || echo '?')" >&2
done
"$python" - "$results" "$threads" <<'PYTHON'
import json
import statistics
import sys

wall, cpu, memory, tokens = {}, {}, {}, 0
for line in open(sys.argv[1]):
    record = json.loads(line)
    side = "torch" if "torch" in record else "ours"
    if side == "ours":
        tokens = record["tokens"]
    for step in record.get("steps", [record]):
        key = (side, step["method"])
        wall.setdefault(key, []).extend(step["step_s"])
        cpu.setdefault(key, []).extend(step["cpu_s"])
        # Without the libraries, which take more than the model.
        resident = step.get("rss_above_imports_bytes", step["rss_bytes"])
        memory[key] = max(memory.get(key, 0), resident or 0)

print(f"{sys.argv[2]} threads; tokens/s by the best step, by the median step; processor time of the median step; peak resident size (PyTorch: above imports)")
print(f"{'':<12}" + "".join(f"{name:>11}" for name in ["ours best", "torch best", "ratio", "ours med.", "torch med.", "ratio",
                                                       "ours MiB", "torch MiB", "ours cpu s", "torch cpu s", "ratio"]))
for method in ["full", "lora", "switchlora"]:
    # SwitchLoRA has no PyTorch row of its own: its arithmetic is that of LoRA.
    keys = [("ours", method), ("torch", "full" if method == "full" else "lora")]
    best = [tokens / min(wall[key]) for key in keys]
    middle = [tokens / statistics.median(wall[key]) for key in keys]
    mib = [memory[key] >> 20 for key in keys]
    seconds = [statistics.median(cpu[key]) for key in keys]
    print(f"{method:<12}{best[0]:>11.0f}{best[1]:>11.0f}{best[0] / best[1]:>11.2f}"
          f"{middle[0]:>11.0f}{middle[1]:>11.0f}{middle[0] / middle[1]:>11.2f}{mib[0]:>11}{mib[1]:>11}"
          f"{seconds[0]:>11.2f}{seconds[1]:>11.2f}{seconds[1] / seconds[0]:>11.2f}")
PYTHON
