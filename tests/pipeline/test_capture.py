"""Captured values against plain transformers, one text at a time: every family, every site, both paddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

import actlake
from actlake.errors import ModelError
from actlake.pipeline.sites import choose_layers, resolve
from actlake.pipeline.spec import SITES, CaptureSpec
from tests.conftest import FAMILIES, TEXTS

# Where the truth is, written out by hand for each family: (blocks, output projection, up projection, down projection).
MODULES = {
    "llama": ("model.layers", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    "mistral": ("model.layers", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    "qwen2": ("model.layers", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    "qwen3": ("model.layers", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    "gemma2": ("model.layers", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "fc1", "fc2"),
    "bloom": ("transformer.h", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "gptj": ("transformer.h", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"),
    "falcon": ("transformer.h", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "falcon-alibi": ("transformer.h", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "phi": ("model.layers", "self_attn.dense", "mlp.fc1", "mlp.fc2"),
}


def plain(folder: Path, family: str, dtype: torch.dtype = torch.float32) -> list[dict[str, np.ndarray]]:
    """Per text, {site: [layer, token, width]} from plain transformers; residuals from `output_hidden_states`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    blocks, out, up, down = MODULES[family]
    layers = range(model.config.num_hidden_layers)
    kept: dict[tuple[str, int], torch.Tensor] = {}
    for layer in layers:
        for site, name in (("attn", out), ("up", up), ("down", down), ("block", "")):
            module = model.get_submodule(f"{blocks}.{layer}.{name}".rstrip("."))

            def keep(_: Any, args: Any, output: Any, site: str = site, layer: int = layer) -> None:
                kept[f"{site}:in", layer] = args[0].clone() if args else torch.empty(0)
                kept[f"{site}:out", layer] = (output[0] if isinstance(output, tuple) else output).clone()

            module.register_forward_hook(keep)
    names = {
        "attn_z": "attn:in",
        "attn_out": "attn:out",
        "mlp_pre": "up:out",
        "mlp_act": "down:in",
        "mlp_out": "down:out",
    }
    found = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden = model(ids, output_hidden_states=True).hidden_states
        one = {s: np.stack([kept[k, i].reshape(ids.shape[1], -1).float().numpy() for i in layers]) for s, k in names.items()}
        one["resid_pre"] = np.stack([h[0].float().numpy() for h in hidden[:-1]])
        one["resid_post"] = np.stack([kept["block:out", i].reshape(ids.shape[1], -1).float().numpy() for i in layers])
        np.testing.assert_array_equal(one["resid_post"][:-1], one["resid_pre"][1:])  # the truth agrees with itself
        found.append(one)
    return found


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_sites_equal_plain_transformers(
    family: str, padding: str, tiny_model: Callable[[str], Path], make_spec: Callable[..., dict[str, Any]]
) -> None:
    folder = tiny_model(family)
    run = actlake.run(make_spec(folder, sites=list(SITES), padding=padding, batch_tokens=120, partition_bytes="1 MiB"))
    reference = plain(folder, family)
    for site in SITES:
        stored = run.activations(site)
        values, owners = stored.values, stored["example"].values
        scale = max(np.abs(one[site]).max() for one in reference)
        for i, one in enumerate(reference):
            mine = values[:, owners == f"t{i}"]
            assert mine.shape == one[site].shape
            np.testing.assert_allclose(mine, one[site], rtol=2e-5, atol=2e-5 * max(1.0, scale), err_msg=f"{site} t{i}")


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.01)])
def test_sixteen_bits_are_stored_as_computed(
    dtype: str, tolerance: float, llama: Path, make_spec: Callable[..., dict[str, Any]]
) -> None:
    run = actlake.run(make_spec(dtype=dtype, batch_tokens=1, pool=["max", "mean"]))  # one text a batch: no padding
    reference = plain(llama, "llama", getattr(torch, dtype))
    stored = run.activations("mlp_act")
    for i, one in enumerate(reference):
        mine = stored.values[:, stored["example"].values == f"t{i}"]
        np.testing.assert_array_equal(mine, one["mlp_act"])  # the very bits
        np.testing.assert_array_equal(run.pooled("mlp_act", "max").values[:, i], one["mlp_act"].max(1))
        np.testing.assert_allclose(run.pooled("mlp_act", "mean").values[:, i], one["mlp_act"].mean(1), rtol=1e-5, atol=1e-6)
    assert run.identity["parity"]["relative"]["mlp_act"] < tolerance


def test_chosen_layers_only_and_nothing_above_them_runs(
    llama: Path, make_spec: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    forward = transformers.models.llama.modeling_llama.LlamaDecoderLayer.forward

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(self.self_attn.layer_idx)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr("actlake.pipeline.parity.parity_receipt", lambda *_: {"dtype": "float32", "relative": {}})
    monkeypatch.setattr(transformers.models.llama.modeling_llama.LlamaDecoderLayer, "forward", counted)
    run = actlake.run(make_spec(layers=[1], sites=["attn_out", "mlp_out"]))
    assert set(ran) == {0, 1}
    assert run.activations("mlp_out")["layer"].values.tolist() == [1]
    whole = actlake.run(make_spec(store="whole", sites=["mlp_out"]))
    np.testing.assert_allclose(run.activations("mlp_out")[0], whole.activations("mlp_out")[1], rtol=2e-5, atol=2e-5)


def test_module_paths_of_ones_own(llama: Path, make_spec: Callable[..., dict[str, Any]]) -> None:
    sites = [
        "mlp_act",
        {"keys": "model.layers.{layer}.self_attn.k_proj:output"},
        {"embedded": "model.embed_tokens:output"},
    ]
    run = actlake.run(make_spec(sites=sites))
    assert run.activations("keys").shape[::2] == (3, 16)
    embedded = run.activations("embedded")
    model = AutoModelForCausalLM.from_pretrained(llama)
    weights = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embedded.values[0], weights[embedded["token_id"].values])


def test_sites_that_are_not_there_are_refused_with_the_names_that_are() -> None:
    config = transformers.Qwen3MoeConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match=r"mlp_act was not found.*mlp\.experts"):
        resolve(model, CaptureSpec(sites=("mlp_act",)), (0, 1))
    assert len(resolve(model, CaptureSpec(sites=({"router": "model.layers.{layer}.mlp.gate:output"},)), (0, 1))) == 2
    with pytest.raises(ModelError, match=r"no module 'model\.norms'"):
        resolve(model, CaptureSpec(sites=({"n": "model.norms:output"},)), (0, 1))
    with pytest.raises(ModelError, match=r"\[7\] do not exist: the model has 2 blocks"):
        choose_layers(CaptureSpec(layers=(0, 7)), config)
    model.model.layers[1].self_attn.o_proj = torch.nn.Identity()
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(ModelError, match=r"not in every layer.*layers without it: \[1\]"):
        resolve(model, CaptureSpec(sites=("attn_out",)), (0, 1))


def test_a_module_that_is_never_called_is_refused(
    tiny_model: Callable[[str], Path], make_spec: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(ModelError, match="never called"):
        actlake.run(make_spec(sites=[{"drop": "model.layers:output"}]))
