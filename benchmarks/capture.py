"""Does capturing cost anything? Extraction to disk against the plain forward pass, with and without its LM head.

    python benchmarks/capture.py [RUNS] [KEY=VALUE ...]      keys of the spec, such as capture.batch_tokens=4096

plain      `model(**batch)` of transformers over the same length-sorted batches
truncated  the same without the LM head and without a KV cache, as capture runs it
extract    all layers and tokens of mlp_act and attn_out captured, checksummed and fsynced to disk

The model is loaded and the two partition buffers are allocated (once a run) before the clock starts; everything else
is timed, to the last fsync. 64 texts, SmolLM2-135M. Set
ACTLAKE_TEXTS to a JSONL of chain-of-thought texts to use those; see common.py.
"""

import shutil
import sys
import tempfile
from itertools import count
from pathlib import Path

import torch

from actlake.pipeline.batches import batch_size, groups, make_batch
from actlake.pipeline.extract import Silent, allocate, compute
from actlake.pipeline.model import load_model
from actlake.pipeline.prepare import make_request, prepare
from actlake.pipeline.sites import resolve
from actlake.pipeline.spec import load_spec
from actlake.storage.ledger import Ledger
from common import interleaved, report, spec_dict, texts_file

TEXTS = 64


def main(runs: str = "5", *overrides: str) -> None:
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        spec = load_spec(spec_dict(texts_file(TEXTS, folder), folder / "run"), list(overrides))
        prepared = prepare(make_request(spec))
        device = torch.device("cpu")
        model = load_model(prepared.request.source, prepared.config, getattr(torch, prepared.dtype), device)
        points = resolve(model, spec.capture, prepared.layers)
        tokens, plan = prepared.tokens, prepared.plan
        batches = [
            make_batch(tokens, members[group], prepared.pad_id, "right", device)
            for members in map(plan.members, range(plan.partitions))
            for group in groups(tokens.lengths[members], batch_size(spec.capture, "cpu"))
        ]

        buffers = allocate(plan, plan.partitions)
        runs_made = count()

        @torch.inference_mode()
        def plain() -> None:
            for b in batches:
                model(input_ids=b.input_ids, attention_mask=b.attention_mask)

        @torch.inference_mode()
        def truncated() -> None:
            for b in batches:
                model.base_model(  # type: ignore[operator]
                    input_ids=b.input_ids, attention_mask=b.attention_mask, position_ids=b.position_ids, use_cache=False
                )

        def extract() -> None:
            root = folder / f"run{next(runs_made)}"
            compute(model, points, prepared, list(range(plan.partitions)), buffers, root, Ledger(root / "ledger"), Silent())

        def clear() -> None:
            for root in folder.glob("run*"):
                shutil.rmtree(root)

        seconds = interleaved(int(runs), clear, plain=plain, truncated=truncated, extract=extract)
        total = int(tokens.lengths.sum())
        print(f"{TEXTS} texts, {total:,} tokens, {len(batches)} batches, {plan.partitions} partitions, {prepared.dtype}")
        report(seconds, "plain")
        report(seconds, "truncated")


if __name__ == "__main__":
    main(*sys.argv[1:])
