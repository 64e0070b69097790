"""Where the sites are in a model: which module, and its input or its output.

Decoder blocks of all families are alike; only the names of four modules in a block differ. So there is no list of
families here but one of names: the first that exists in a block is taken, and every block must have it.

    resid_pre   input of the block                 resid_post  output of the block
    attn_z      input of the output projection     attn_out    its output, before any norm or residual
    mlp_pre     output of the up (gated: gate) projection, before the activation function
    mlp_act     input of the down projection       mlp_out     its output, before any norm or residual
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import ModelError
from .spec import CaptureSpec

BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers", "model.decoder.layers", "model.language_model.layers")
ATTENTION_OUT = (
    "self_attn.o_proj",  # llama, mistral, qwen, gemma
    "self_attn.out_proj",  # opt
    "self_attn.dense",  # phi
    "attn.c_proj",  # gpt2
    "attn.out_proj",  # gptj
    "attn.attention.out_proj",  # gpt_neo
    "attention.dense",  # gpt_neox
    "self_attention.dense",  # bloom, falcon
)
MLP_UP = (
    "mlp.gate_proj",  # llama, mistral, qwen, gemma; a gated MLP's activation function is on the gate
    "mlp.c_fc",  # gpt2, gpt_neo
    "mlp.fc_in",  # gptj
    "mlp.dense_h_to_4h",  # gpt_neox, bloom, falcon
    "mlp.fc1",  # phi
    "fc1",  # opt
)
MLP_DOWN = ("mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.dense_4h_to_h", "mlp.fc2", "fc2")

BUILT_IN: dict[str, tuple[str, tuple[str, ...]]] = {
    "resid_pre": ("input", ("",)),
    "resid_post": ("output", ("",)),
    "attn_z": ("input", ATTENTION_OUT),
    "attn_out": ("output", ATTENTION_OUT),
    "mlp_pre": ("output", MLP_UP),
    "mlp_act": ("input", MLP_DOWN),
    "mlp_out": ("output", MLP_DOWN),
}


@dataclass(frozen=True)
class Point:
    """One place to capture: `side` (input or output) of `module`; `item` picks from a tuple."""

    site: str
    plane: int  # index in the stored array
    layer: int  # the block's number; 0 for a module that is not in a block
    module: str
    side: str
    item: int = 0


def choose_layers(capture: CaptureSpec, config: Any) -> tuple[int, ...]:
    """The block numbers to capture. Raises ModelError for one that the model does not have."""
    count = config.get_text_config().num_hidden_layers
    if capture.layers == "all":
        return tuple(range(count))
    beyond = [layer for layer in capture.layers if layer >= count]
    if beyond:
        raise ModelError(f"capture.layers: {beyond} do not exist: the model has {count} blocks, 0 to {count - 1}.")
    return capture.layers


def resolve(model: torch.nn.Module, capture: CaptureSpec, layers: tuple[int, ...]) -> list[Point]:
    """All places to capture, by site and layer. Raises ModelError when one is not in every layer asked for."""
    modules = dict(model.named_modules())
    points = []
    for site, path in capture.site_paths.items():
        if path is None:
            side, names = BUILT_IN[site]
            points += _built_in(site, side, names, layers, modules)
        else:
            points += _explicit(site, path, layers, modules)
    return points


def count_parameters(model: torch.nn.Module, points: list[Point]) -> tuple[int, int]:
    """Parameters of the whole model, and of the blocks that a capture of `points` runs."""
    whole = sum(p.numel() for p in model.parameters())
    modules = dict(model.named_modules())
    blocks = next((b for b in BLOCKS if b in modules), None)
    if blocks is None or any(not p.module.startswith(f"{blocks}.") for p in points):
        return whole, whole
    last = max(p.layer for p in points)
    return whole, sum(p.numel() for layer in range(last + 1) for p in modules[f"{blocks}.{layer}"].parameters())


def _built_in(
    site: str, side: str, names: tuple[str, ...], layers: tuple[int, ...], modules: dict[str, torch.nn.Module]
) -> list[Point]:
    blocks = next((b for b in BLOCKS if f"{b}.0" in modules), None)
    if blocks is None:
        raise ModelError(
            f"The site {site} was not found: the model's blocks are in none of {', '.join(BLOCKS)}. "
            f"Give a module path instead, such as {{{site}_: 'PATH.{{layer}}.MODULE:{side}'}}. {_tree(modules)}"
        )
    for name in names:
        paths = [f"{blocks}.{layer}.{name}".rstrip(".") for layer in layers]
        present = [path in modules for path in paths]
        if any(present):
            _refuse_gaps(site, layers, present, paths, modules)
            return [Point(site, i, layer, path, side) for i, (layer, path) in enumerate(zip(layers, paths, strict=True))]
    raise ModelError(
        f"The site {site} was not found: block {layers[0]} has none of {', '.join(names)}. Fused mixture-of-experts "
        f"keep their neurons in parameters, not modules. {_tree(modules, f'{blocks}.{layers[0]}.')} "
        f"To capture one of those: {{NAME: '{blocks}.{{layer}}.MODULE:{side}'}}."
    )


def _explicit(site: str, path: str, layers: tuple[int, ...], modules: dict[str, torch.nn.Module]) -> list[Point]:
    template, _, end = path.partition(":")
    side, _, item = end.partition(".")
    if "{layer}" not in template:
        if template not in modules:
            raise ModelError(f"capture.sites: {site}: the model has no module {template!r}. {_tree(modules)}")
        return [Point(site, 0, 0, template, side, int(item or 0))]
    paths = [template.replace("{layer}", str(layer)) for layer in layers]
    present = [p in modules for p in paths]
    _refuse_gaps(site, layers, present, paths, modules)
    return [Point(site, i, layer, p, side, int(item or 0)) for i, (layer, p) in enumerate(zip(layers, paths, strict=True))]


def _refuse_gaps(
    site: str, layers: tuple[int, ...], present: list[bool], paths: list[str], modules: dict[str, torch.nn.Module]
) -> None:
    if all(present):
        return
    absent = [layer for layer, there in zip(layers, present, strict=True) if not there]
    missing = paths[present.index(False)]
    parent = missing
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    raise ModelError(
        f"The site {site} is not in every layer: {missing!r} does not exist (layers without it: {absent}). "
        f"Name the layers that have it in capture.layers. {_tree(modules, f'{parent}.' if parent else '')}"
    )


def _tree(modules: Iterable[str], prefix: str = "") -> str:
    """The names of modules below `prefix`, numbers of blocks folded."""
    names = [m.removeprefix(prefix) for m in modules if m.startswith(prefix) and m != prefix]
    folded = list(
        dict.fromkeys(".".join("{layer}" if part.isdigit() else part for part in n.split(".")) for n in names if n)
    )
    more = f" and {len(folded) - 30} more" if len(folded) > 30 else ""
    return f"Modules {f'in {prefix[:-1]}' if prefix else 'of the model'}: {', '.join(folded[:30])}{more}."
