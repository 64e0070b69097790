"""Everything that is known before the model's weights are loaded."""

import importlib.metadata
import platform
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from .data import Examples, check_labels, load_examples
from .plan import Plan, make_plan
from .source import Source, digest_tokenizer, digest_weights, locate
from .spec import RankJob, Spec
from .tokens import Tokens

FORMAT = 1  # of the run on disk


@dataclass(frozen=True)
class Request:
    """A spec with its data read and its model found: enough to tell whether a run on disk is this one."""

    spec: Spec
    source: Source
    examples: Examples

    @cached_property
    def claims(self) -> dict[str, Any]:
        """What a run must agree on to be carried on. All else (jobs, batch size, device) may change."""
        spec = self.spec
        return {
            "format": FORMAT,
            "model": {"weights": digest_weights(self.source), "dtype": spec.model.dtype},
            "tokenizer": digest_tokenizer(self.source),
            "data": {
                "digest": self.examples.digest(),
                "examples": len(self.examples),
                **spec.data.model_dump(mode="json", include={"text", "labels", "landmarks", "truncate"}),
            },
            "capture": {
                "sites": spec.capture.site_paths,
                **spec.capture.model_dump(mode="json", include={"layers", "tokens", "pool", "pool_skip_first", "pool_from"}),
            },
            "store": spec.store.model_dump(mode="json", include={"partition_bytes", "compression"}),
        }


@dataclass(frozen=True)
class Prepared:
    """A request with its config, tokens and plan. planes and widths: of each site; layers: captured block numbers."""

    request: Request
    config: Any
    pad_id: int
    dtype: str
    layers: tuple[int, ...]
    planes: dict[str, int]
    widths: dict[str, int]
    tokens: Tokens
    plan: Plan
    parameters: int  # of the whole model
    parameters_run: int  # of its blocks up to the last one captured


def make_request(spec: Spec) -> Request:
    """Read the data and find the model. Raises DataError and ModelError before anything is computed."""
    source = locate(spec.model)
    examples = load_examples(spec.data)
    for entry in spec.jobs:
        if isinstance(entry.job, RankJob):
            check_labels(examples.labels, entry.job.labels)
    return Request(spec, source, examples)


def prepare(request: Request) -> Prepared:
    """Load config and tokenizer, tokenize, and plan. The weights are not touched."""
    import torch

    from . import sites
    from .batches import Batch
    from .capture import widths
    from .model import choose_dtype, empty_model, load_config, load_tokenizer, max_length
    from .tokens import tokenize

    spec, source = request.spec, request.source
    config = load_config(source)
    layers = sites.choose_layers(spec.capture, config)
    model = empty_model(config, spec.model.trust_remote_code)
    points = sites.resolve(model, spec.capture, layers)
    found = widths(model, points, Batch.empty(torch.device("meta")))
    planes = {site: 1 + max(p.plane for p in points if p.site == site) for site in found}
    tokenizer = load_tokenizer(source)
    tokens = tokenize(spec, request.examples, tokenizer, max_length(config))
    dtype = str(choose_dtype(spec.model, config)).removeprefix("torch.")
    ordered = {site: found[site] for site in spec.capture.site_paths}
    parameters, parameters_run = sites.count_parameters(model, points)
    return Prepared(
        request=request,
        config=config,
        pad_id=tokenizer.pad_token_id,
        dtype=dtype,
        layers=layers,
        planes=planes,
        widths=ordered,
        tokens=tokens,
        plan=make_plan(spec, tokens, planes, ordered, dtype),
        parameters=parameters,
        parameters_run=parameters_run,
    )


def examples_table(prepared: Prepared) -> pa.Table:
    """`examples.parquet`: one row per example in file order, with its labels, landmarks and place."""
    examples, tokens, plan = prepared.request.examples, prepared.tokens, prepared.plan
    landmarks = [
        [
            {"name": n, "start": span[0], "end": span[1], "token_start": marks[n][0], "token_end": marks[n][1]}
            for n, span in places.items()
        ]
        for places, marks in zip(examples.landmarks, tokens.landmarks, strict=True)
    ]
    place = pa.struct([("name", pa.string())] + [(n, pa.int64()) for n in ("start", "end", "token_start", "token_end")])
    return pa.table(
        {
            "id": examples.ids,
            "text": examples.texts,
            **{name: pa.array(values) for name, values in examples.labels.items()},
            "landmarks": pa.array(landmarks, pa.list_(place)),
            "n_tokens": tokens.lengths,
            "n_rows": tokens.rows,
            "partition": plan.partition,
            "row_start": plan.row_start,
            "pooled_row": plan.pooled_row,
        }
    )


def versions() -> dict[str, str]:
    """Versions of what decides the values, for the record."""
    names = ("actlake", "torch", "transformers", "tokenizers", "zarr", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}
