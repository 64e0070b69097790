"""Find a model and fingerprint it. No torch here: asking whether a run is done must be quick."""

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .spec import ModelSpec

_WHOLE = 4 * 2**30  # weights up to this size are hashed whole, larger ones by samples
_SAMPLE = 2**20
_SAMPLES = 256
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.index.json", "config.json", "*.py")
_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.tiktoken",
)


@dataclass(frozen=True)
class Source:
    """Where a model is: what transformers is asked for, and the local files where there are any."""

    name: str  # a hub id or a local folder
    gguf: str | None  # the file in that folder, for GGUF
    revision: str | None
    trust_remote_code: bool

    @property
    def is_local(self) -> bool:
        return Path(self.name).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of transformers' `from_pretrained`."""
        gguf = {"gguf_file": self.gguf} if self.gguf else {}
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code, **gguf}


def locate(spec: ModelSpec) -> Source:
    """Turn `model.path` into a Source. Raises ModelError when a local path or package does not exist."""
    path = spec.path
    if path.startswith("package:"):
        package, _, inner = path.removeprefix("package:").partition("/")
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None or not found.submodule_search_locations:
            raise ModelError(
                f"model.path: the package {package!r} is not installed. `make install` brings the demo's; else use pip."
            )
        path = str(Path(found.submodule_search_locations[0]) / inner)
    file = Path(path).expanduser()
    if path.endswith(".gguf"):
        if not file.is_file():
            raise ModelError(f"model.path: there is no file {file}. Expected a .gguf file.")
        return Source(str(file.parent), file.name, None, spec.trust_remote_code)
    if file.is_dir():
        if not (file / "config.json").is_file():
            raise ModelError(f"model.path: the folder {file} has no config.json. Expected one saved with save_pretrained.")
        return Source(str(file), None, None, spec.trust_remote_code)
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise ModelError(f"model.path: there is no folder {path}. Expected a local folder, a .gguf file or a hub id.")
    return Source(path, None, spec.revision, spec.trust_remote_code)


@contextmanager
def explained(source: Source, what: str) -> Iterator[None]:
    """Errors of transformers as one sentence."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers and its readers raise many kinds
        first = " ".join(str(error).split())[:300]
        where = f"{source.name}/{source.gguf}" if source.gguf else source.name
        hint = "" if source.is_local else " It is neither a local folder nor found on the hub or in its cache."
        raise ModelError(f"Could not load the {what} of {where}.{hint} {type(error).__name__}: {first}") from error


def digest_weights(source: Source) -> str:
    """A fingerprint of the weights: a hub commit, or the sha256 of the files (samples of them beyond 4 GiB)."""
    return _digest(source, _WEIGHTS)


def digest_tokenizer(source: Source) -> str:
    return _digest(source, _TOKENIZER)


def _digest(source: Source, patterns: tuple[str, ...]) -> str:
    if not source.is_local:
        return f"hub:{source.name}@{_commit(source)}"
    folder = Path(source.name)
    found = [folder / source.gguf] if source.gguf else [f for p in patterns for f in folder.glob(p) if f.is_file()]
    files = sorted(set(found))
    whole = sum(f.stat().st_size for f in files) <= _WHOLE
    sha = hashlib.sha256()
    for file in files:
        sha.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as handle:
            if whole:
                while block := handle.read(1 << 24):
                    sha.update(block)
            else:
                size = file.stat().st_size
                for i in range(_SAMPLES):
                    handle.seek(max(0, size - _SAMPLE) * i // (_SAMPLES - 1))
                    sha.update(handle.read(_SAMPLE))
    return f"{'sha256' if whole else 'sha256-sampled'}:{sha.hexdigest()}"


def _commit(source: Source) -> str:
    from huggingface_hub import hf_hub_download

    with explained(source, "config"):
        path = Path(hf_hub_download(source.name, "config.json", revision=source.revision))
    return path.parent.name  # .../snapshots/COMMIT/config.json
