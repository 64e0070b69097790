"""Load a model and its tokenizer through transformers, and read off what a run needs to know of them."""

import copy
import inspect
from typing import Any

import torch

from ..errors import ModelError
from .source import Source, explained
from .spec import ModelSpec


def load_config(source: Source) -> Any:
    from transformers import AutoConfig

    with explained(source, "config"):
        return AutoConfig.from_pretrained(source.name, **source.arguments)


def load_tokenizer(source: Source) -> Any:
    """The tokenizer, with a pad token so that batches can be made (pads are never stored)."""
    from transformers import AutoTokenizer

    with explained(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.name, **source.arguments)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def load_model(source: Source, config: Any, dtype: torch.dtype, device: torch.device) -> torch.nn.Module:
    """The causal language model in evaluation mode."""
    from transformers import AutoModelForCausalLM

    with explained(source, "model"):
        model = AutoModelForCausalLM.from_pretrained(source.name, config=config, dtype=dtype, **source.arguments)
    return model.eval().to(device)


def empty_model(config: Any, trust_remote_code: bool = False) -> torch.nn.Module:
    """The model's modules without weights (meta device), to look at shapes before anything is loaded."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # eager attention, since the others look at values of the mask
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), trust_remote_code=trust_remote_code, attn_implementation="eager"
        )
    return model.eval()


def choose_dtype(spec: ModelSpec, config: Any) -> torch.dtype:
    if spec.dtype != "auto":
        return getattr(torch, spec.dtype)
    found = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return found if found in (torch.float32, torch.bfloat16, torch.float16) else torch.float32


def choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise ModelError(f"model.device: {name!r} is not a device. Expected auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"model.device: {name!r} is not here: {torch.cuda.device_count()} CUDA devices were found.")
    return device


def max_length(config: Any) -> int | None:
    """The longest text in tokens that the model takes; None where position is relative (BLOOM, Falcon with ALiBi)."""
    text = config.get_text_config()
    if getattr(text, "alibi", False) or text.model_type == "bloom":
        return None
    return getattr(text, "max_position_embeddings", None)


def forward_arguments(model: torch.nn.Module) -> set[str]:
    """Names of the arguments that the model's forward takes."""
    return set(inspect.signature(model.forward).parameters)
