"""The spec: everything about a run, as frozen models. YAML in, sentences out when something does not fit."""

import copy
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..errors import SpecError
from ..kernels.rounding import MANTISSA_BITS

SITES = ("resid_pre", "resid_post", "attn_z", "attn_out", "mlp_pre", "mlp_act", "mlp_out")
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_MODULE_PATH = re.compile(r"[\w.{}]+:(input|output)(\.\d+)?")
_NAME = re.compile(r"[A-Za-z_][\w-]*")


def parse_bytes(value: object) -> object:
    """`256 MiB` -> 268435456; numbers pass through."""
    if isinstance(value, str):
        if not (match := re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]+)\s*", value)) or match[2].lower() not in _UNITS:
            raise ValueError(f"{value!r} is not a size: expected a number of bytes or one such as '256 MiB'")
        return int(float(match[1]) * _UNITS[match[2].lower()])
    return value


Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSpec(Section):
    path: str
    """A hub id, a local folder, a .gguf file, or package:NAME/FILE for a file inside an installed package."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype, and the dtype of what is stored; auto takes the checkpoint's."""
    engine: Literal["auto", "local"] = "auto"
    """How the model is run; local is transformers on one device."""
    device: str = "auto"
    """auto (cuda where there is one, else cpu), cpu, cuda or cuda:N."""
    trust_remote_code: bool = False
    """Run model code that the checkpoint brings along. Only for checkpoints whose code you have read."""


class DataSpec(Section):
    path: str
    """A .jsonl, .csv or .parquet file (relative to the spec file), or hf:NAME[/CONFIG]:SPLIT."""
    id: str = "id"
    """The column with each example's name. Names must differ."""
    text: str = "text"
    """A column, or a template such as "Q: {question}\\nA: {answer}"; a template's columns become landmarks."""
    labels: tuple[str, ...] = ()
    """Columns with what is known of each example: 0/1, or classes."""
    landmarks: tuple[str, ...] = ()
    """Names of places in the text: entries of each record's `landmarks` object (character offset or [start, end])."""
    truncate: Literal["left", "right"] | None = None
    """Which end to cut of a text that is longer than the model takes; null makes it an error."""

    @property
    def is_template(self) -> bool:
        return "{" in self.text


Site = str | dict[str, str]


class CaptureSpec(Section):
    sites: tuple[Site, ...] = ("mlp_act",)
    """Sites by name, or {NAME: "model.layers.{layer}.mlp.gate:output"} for any module's input or output."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """all, or a list of block numbers from 0."""
    tokens: Literal["all", "last", "landmarks", "none"] | tuple[Literal["last", "landmarks"], ...] = "all"
    """Which tokens' values to store: all, last, landmarks, [last, landmarks], or none to keep only what is pooled."""
    pool: tuple[Literal["max", "mean", "min"], ...] = ()
    """What to reduce each example's tokens to, while they are computed."""
    pool_skip_first: int = Field(default=0, ge=0)
    """Leave the first N tokens of every text out of the pool."""
    pool_from: str | None = None
    """Leave everything before this landmark out of the pool, such as an opening that texts share."""
    batch_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Padded tokens in one forward pass; auto is 1536 on a CPU (whose caches larger batches overflow), 8192 on a GPU."""
    padding: Literal["right", "left"] = "right"
    """Where pads go in a batch. They are never stored."""

    @field_validator("sites", mode="before")
    @classmethod
    def _one_shape(cls, value: object) -> object:
        if isinstance(value, dict):  # {mlp_act: null, router: "..."}
            return tuple(name if path is None else {name: path} for name, path in value.items())
        return (value,) if isinstance(value, str) else value

    @field_validator("sites")
    @classmethod
    def _known(cls, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        names = []
        for site in sites:
            if isinstance(site, str):
                if site not in SITES:
                    raise ValueError(
                        f"{site!r} is not a site{nearest(site, SITES)}. Sites are {', '.join(SITES)}; anything else "
                        'needs its module\'s path, such as {router: "model.layers.{layer}.mlp.gate:output"}'
                    )
                names.append(site)
                continue
            for name, path in site.items():
                if not _NAME.fullmatch(name) or name in (*SITES, "tokens", "positions"):
                    raise ValueError(f"{name!r} cannot name a site of your own: use letters, digits and _, no built-in name")
                if not _MODULE_PATH.fullmatch(path):
                    raise ValueError(
                        f"{path!r} is not a module path: expected MODULE:input or MODULE:output, "
                        "such as model.layers.{layer}.mlp.gate:output"
                    )
                names.append(name)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected at least one site and no site twice, found {names}")
        return sites

    @field_validator("layers")
    @classmethod
    def _ordered(cls, layers: Any) -> Any:
        if layers == "all":
            return layers
        if not layers or len(set(layers)) < len(layers) or min(layers) < 0:
            raise ValueError(f"expected all, or a list of different block numbers from 0, found {list(layers)}")
        return tuple(sorted(layers))

    @model_validator(mode="after")
    def _keeps_something(self) -> "CaptureSpec":
        if not self.kept and not self.pool:
            raise ValueError("tokens: none without pool stores nothing: add pool: [max], or choose tokens: all")
        if (self.pool_from or self.pool_skip_first) and not self.pool:
            raise ValueError("pool_from and pool_skip_first need pool: they say which tokens are pooled")
        return self

    @property
    def kept(self) -> frozenset[str]:
        """`tokens` as a set; empty where only the pool is kept."""
        names = (self.tokens,) if isinstance(self.tokens, str) else self.tokens
        return frozenset(names) - {"none"}

    @property
    def site_paths(self) -> dict[str, str | None]:
        """Each site's name -> its module path, None for a built-in one; in the order of the spec."""
        paths: dict[str, str | None] = {}
        for site in self.sites:
            paths |= {site: None} if isinstance(site, str) else site
        return paths


class StoreSpec(Section):
    path: str
    """The run's folder (relative to the working folder)."""
    partition_bytes: Bytes = Field(default=256 * 2**20, ge=1)
    """How much is extracted, written and committed together; two of these are held in memory."""
    compression: Literal["none", "zstd"] = "none"
    """Activations hardly compress; zstd saves a little space for much time."""


class RankJob(Section):
    labels: tuple[str, ...] = ()
    """Label columns to rank for; none given means all."""
    sites: tuple[str, ...] = ()
    """Sites to rank; none given means all."""
    pool: Literal["max", "mean", "min"] = "max"
    """Which pooled response of a neuron is its score."""
    threshold: float = Field(default=0.999, ge=0, le=1)
    """The summary counts neurons whose AP is above this."""
    significant_bits: int | None = Field(default=None, ge=1, le=MANTISSA_BITS + 1)
    """Round scores to this many significant bits first, so that rounding noise breaks no tie; the default is 12 for
    float32 and none for 16-bit types; 24 switches it off."""


class MedianJob(Section):
    labels: tuple[str, ...] = ()
    """Label columns by whose classes the median is taken; none given means all."""
    sites: tuple[str, ...] = ()
    """Sites; none given means all."""
    pool: Literal["max", "mean", "min"] = "max"
    """Which pooled response the median is of."""


class MaxJob(Section):
    sites: tuple[str, ...] = ()
    """Sites whose stored tokens are pooled; none given means all."""


Job = RankJob | MedianJob | MaxJob
JOBS: dict[str, type[Job]] = {"max": MaxJob, "median": MedianJob, "rank": RankJob}


def make_job(kind: type[Job], **options: Any) -> Job:
    """A job with its options checked. Raises SpecError."""
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise SpecError("\n".join(_sentence(e) for e in error.errors())) from None


class JobEntry(Section):
    """One entry of `jobs:`, a mapping with one key."""

    rank: RankJob | None = None
    """Average precision of every neuron for every label."""
    median: MedianJob | None = None
    """Median response of every neuron by label."""
    max: MaxJob | None = None
    """Maximum over the stored tokens of every example."""

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: object) -> object:
        if isinstance(value, str):
            return {value: {}}
        return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_job(self) -> "JobEntry":
        if len(self.model_fields_set) != 1:
            raise ValueError("expected one job per entry, such as `- rank: {labels: [cot]}`")
        return self

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def job(self) -> Job:
        return getattr(self, self.name)


class Spec(Section):
    name: str = "run"
    """A name for people."""
    model: ModelSpec
    """The language model."""
    data: DataSpec
    """The labelled texts."""
    capture: CaptureSpec = CaptureSpec()
    """What to keep of the forward pass."""
    store: StoreSpec
    """Where and how to keep it."""
    jobs: tuple[JobEntry, ...] = ()
    """What to compute when everything is extracted."""

    @model_validator(mode="after")
    def _fits(self) -> "Spec":
        if "landmarks" in self.capture.kept and not self.data.landmarks:
            raise ValueError("capture.tokens: landmarks needs data.landmarks: name at least one")
        if (place := self.capture.pool_from) and place not in self.data.landmarks:
            raise ValueError(f"capture.pool_from: {place!r} is not among data.landmarks {list(self.data.landmarks)}: add it")
        pooled = set(self.capture.pool)
        names = [entry.name for entry in self.jobs]
        if len(set(names)) < len(names):
            raise ValueError(f"jobs: expected each job once, since it writes one table; found {', '.join(names)}")
        for entry in self.jobs:
            if isinstance(entry.job, MaxJob):
                pooled.add("max")
                continue
            if entry.job.pool not in pooled:
                raise ValueError(
                    f"jobs: {entry.name} needs the pooled {entry.job.pool}: add it to capture.pool"
                    + (", or put the job max before" if entry.job.pool == "max" else "")
                )
            if not self.data.labels:
                raise ValueError(f"jobs: {entry.name} needs labels: name the columns in data.labels")
            for label in getattr(entry.job, "labels", ()):
                if label not in self.data.labels:
                    raise ValueError(
                        f"jobs: {entry.name} asks for the label {label!r}, which is not among data.labels "
                        f"{list(self.data.labels)}: add it there"
                    )
            for site in entry.job.sites:
                if site not in self.capture.site_paths:
                    raise ValueError(f"jobs: {entry.name} asks for the site {site!r}, which is not among capture.sites")
        return self


def load_spec(source: str | Path | dict[str, Any], overrides: list[str] | None = None) -> Spec:
    """Read a spec from a YAML file or a dict, with `a.b=value` overrides (values are YAML).

    A relative data path is resolved against the spec file's folder. Raises SpecError, with one line per problem.
    """
    where = "the spec"
    folder = None
    if isinstance(source, dict):
        raw: Any = source
    else:
        path = Path(source)
        where, folder = str(path), path.parent
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SpecError(f"There is no spec file {path}. Give the path of a .yaml file.") from None
        except IsADirectoryError:
            raise SpecError(f"{path} is a folder; expected a spec file (.yaml).") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise SpecError(f"{where} holds {type(raw).__name__}; expected a mapping with model, data, capture and store.")
    for override in overrides or []:
        raw = _override(raw, override)
    try:
        spec = Spec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(f"{where}: " + "\n".join(_sentence(e) for e in error.errors())) from None
    return _resolve_paths(spec, folder)


def _resolve_paths(spec: Spec, folder: Path | None) -> Spec:
    """`~` is the home folder everywhere; a relative data path is below the spec file's folder."""
    path = spec.data.path
    if not path.startswith("hf:"):
        path = str((folder or Path()) / Path(path).expanduser())
    data = spec.data.model_copy(update={"path": path})
    store = spec.store.model_copy(update={"path": str(Path(spec.store.path).expanduser())})
    return spec.model_copy(update={"data": data, "store": store})


def _override(raw: dict[str, Any], text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {text}: expected KEY=VALUE, such as capture.batch_tokens=2048.")
    *parents, last = key.split(".")
    changed = copy.deepcopy(raw)
    at: Any = changed
    try:
        for part in parents:
            if isinstance(at, list):
                at = at[int(part)]
            else:
                at[part] = {} if at.get(part) is None else at[part]
                at = at[part]
        at[int(last) if isinstance(at, list) else last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SpecError(f"--set {text}: {value!r} is not valid YAML.") from None
    except (ValueError, IndexError, TypeError, AttributeError):
        raise SpecError(f"--set {text}: there is no such place in the spec; check the keys before {last!r}.") from None
    return changed


def nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _sentence(error: Any) -> str:
    """One pydantic error as one sentence that names the key."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        known = sorted(_fields_at(error["loc"][:-1]))
        return f"unknown key {key!r}{nearest(location[-1], known)}. Known keys here: {', '.join(known)}."
    if error["type"] == "missing":
        return f"{key} is missing: {_help(error['loc'])}"
    message = error["msg"].removeprefix("Value error, ")
    found = "" if error["type"] == "value_error" else f" (found {error['input']!r})"
    return f"{key}: {message}{found}." if key else f"{message}{found}."


def _model_at(location: tuple[Any, ...]) -> Any:
    model: Any = Spec
    for part in location:
        if isinstance(part, int):
            continue
        if model is Spec and part == "jobs":
            model = JobEntry
        elif model is JobEntry:
            model = JOBS[part]
        else:
            model = model.model_fields[part].annotation
    return model


def _fields_at(location: tuple[Any, ...]) -> dict[str, Any]:
    return _model_at(location).model_fields


def _help(location: tuple[Any, ...]) -> str:
    return _fields_at(location[:-1])[location[-1]].description or ""
