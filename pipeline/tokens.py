"""Texts to token ids, and landmarks to token positions."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError
from .data import Examples, Span
from .spec import Spec

_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class Tokens:
    """Token ids of all examples, one after the other, and which positions are stored and pooled.

    ids: int32 [all tokens]; offsets: int64 [examples + 1], where each example's tokens begin.
    kept: int32, the positions whose values are stored, in order; kept_offsets: int64 [examples + 1].
    pool_from: int32 [examples], the first token that is pooled.
    landmarks: per example, name -> token span [start, stop).
    """

    ids: np.ndarray
    offsets: np.ndarray
    kept: np.ndarray
    kept_offsets: np.ndarray
    pool_from: np.ndarray
    landmarks: list[dict[str, Span]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def rows(self) -> np.ndarray:
        """Stored positions of each example."""
        return np.diff(self.kept_offsets)

    def ids_of(self, example: int) -> np.ndarray:
        return self.ids[self.offsets[example] : self.offsets[example + 1]]

    def kept_of(self, example: int) -> np.ndarray:
        return self.kept[self.kept_offsets[example] : self.kept_offsets[example + 1]]

    def digest(self) -> str:
        sha = hashlib.sha256()
        for array in (self.ids, self.offsets, self.kept, self.kept_offsets, self.pool_from):
            sha.update(np.ascontiguousarray(array).tobytes())
        return f"sha256:{sha.hexdigest()}"


def tokenize(spec: Spec, examples: Examples, tokenizer: Any, limit: int | None) -> Tokens:
    """Tokenize as the tokenizer does by default (its own special tokens and nothing else).

    Raises DataError for texts longer than `limit` tokens unless data.truncate is set, and for landmarks on no token.
    """
    if spec.data.landmarks and not tokenizer.is_fast:
        raise DataError("Landmarks need a fast tokenizer (one with a tokenizer.json): this model has only a slow one.")
    ids, spans = _encode(spec, examples, tokenizer, limit)
    lengths = [len(i) for i in ids]
    if any(n == 0 for n in lengths):
        name = examples.ids[lengths.index(0)]
        raise DataError(f"The text of example {name!r} has no tokens. Remove it or give it a text.")
    kept = [_kept(spec, n, marks) for n, marks in zip(lengths, spans, strict=True)]
    return Tokens(
        ids=np.concatenate([np.asarray(i, dtype=np.int32) for i in ids]),
        offsets=_offsets(lengths),
        kept=np.concatenate(kept),
        kept_offsets=_offsets([len(k) for k in kept]),
        pool_from=_pool_from(spec, examples, lengths, spans),
        landmarks=spans,
    )


def _offsets(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _encode(
    spec: Spec, examples: Examples, tokenizer: Any, limit: int | None
) -> tuple[list[list[int]], list[dict[str, Span]]]:
    options: dict[str, Any] = {
        "return_attention_mask": False,
        "return_offsets_mapping": bool(spec.data.landmarks),
        "verbose": False,
    }
    if limit and spec.data.truncate:
        tokenizer.truncation_side = spec.data.truncate
        options |= {"truncation": True, "max_length": limit}
    ids: list[list[int]] = []
    spans: list[dict[str, Span]] = []
    for start in range(0, len(examples), _TEXTS_AT_ONCE):
        encoded = tokenizer(examples.texts[start : start + _TEXTS_AT_ONCE], **options)
        for i, found in enumerate(encoded["input_ids"], start):
            ids.append(found)
            places = encoded["offset_mapping"][i - start] if spec.data.landmarks else []
            spans.append({n: _token_span(examples, i, n, places) for n in spec.data.landmarks})
    too_long = [(examples.ids[i], len(found)) for i, found in enumerate(ids) if limit and len(found) > limit]
    if too_long:
        shown = ", ".join(f"{name!r} ({n})" for name, n in too_long[:5]) + (" ..." if len(too_long) > 5 else "")
        raise DataError(
            f"{len(too_long)} texts are longer than the {limit} tokens that the model takes: {shown}. "
            "Shorten them, or set data.truncate: left or right."
        )
    return ids, spans


def _token_span(examples: Examples, example: int, name: str, places: list[Span]) -> Span:
    """The tokens that overlap the landmark's characters (several share a character in byte-level vocabularies)."""
    start, stop = examples.landmarks[example][name]
    inside = [t for t, (a, b) in enumerate(places) if a < stop and b > start]
    if not inside:
        text = examples.texts[example][start:stop]
        raise DataError(
            f"The landmark {name!r} of example {examples.ids[example]!r} (characters {start} to {stop}, {text!r}) is in no "
            "token: it was cut off by data.truncate, or the tokenizer drops these characters. Move it or leave the text out."
        )
    return inside[0], inside[-1] + 1


def _kept(spec: Spec, length: int, marks: dict[str, Span]) -> np.ndarray:
    wanted = spec.capture.kept
    if "all" in wanted:
        return np.arange(length, dtype=np.int32)
    positions = {length - 1} if "last" in wanted else set()
    if "landmarks" in wanted:
        positions |= {t for start, stop in marks.values() for t in range(start, stop)}
    return np.array(sorted(positions), dtype=np.int32)


def _pool_from(spec: Spec, examples: Examples, lengths: list[int], spans: list[dict[str, Span]]) -> np.ndarray:
    first = np.full(len(lengths), spec.capture.pool_skip_first, dtype=np.int32)
    if spec.capture.pool_from:
        first = np.maximum(first, [marks[spec.capture.pool_from][0] for marks in spans]).astype(np.int32)
    empty = [examples.ids[i] for i in np.flatnonzero(first >= lengths)]
    if empty and spec.capture.pool:
        raise DataError(
            f"Nothing is left to pool in {len(empty)} texts: {', '.join(map(repr, empty[:5]))}. "
            f"They have no token after capture.pool_skip_first ({spec.capture.pool_skip_first}) and pool_from."
        )
    return first
