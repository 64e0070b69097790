"""actlake: run a language model over texts once, keep what its neurons did, and ask for ever after.

    import actlake
    run = actlake.run("spec.yaml")          # or actlake.open("runs/mine")
    run.pooled("mlp_act", "max")            # xarray, lazy: layer, example, neuron
    run.sql("SELECT * FROM rank LIMIT 5")   # Arrow

Names are imported when they are used, so that `import actlake` is quick and needs no torch.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "ActlakeError": "errors",
    "Run": "storage.run",
    "Spec": "pipeline.spec",
    "extract": "jobs.run",
    "load_spec": "pipeline.spec",
    "open": "storage.run",
    "plan": "pipeline.estimate",
    "run": "jobs.run",
}
_RENAMED = {"open": "open_run", "plan": "plan_spec", "run": "run_spec", "extract": "extract_spec"}

__all__ = ["ActlakeError", "Run", "Spec", "extract", "load_spec", "open", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'actlake' has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return __all__
