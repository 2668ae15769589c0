"""Which tensors a family's checkpoint has, and of what sizes. No torch."""

# D = hidden, F = feed-forward

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from hpc_embed.families.family import Family, Names, Shape


class Part(NamedTuple):
    """A tensor of a checkpoint, and how an untrained one is drawn."""

    name: str
    size: tuple[int, ...]
    mean: float = 0.0
    scale: float = 1.0


def parts(family: Family, shape: Shape, names: Names) -> Iterator[Part]:
    """Every tensor that must be there, in the order in which untrained ones are drawn."""
    attention, inner = family.attention, family.feed_forward
    hidden, width = shape.hidden, shape.width

    def norm(name: str, has_bias: bool = family.norms.has_bias, size: int = hidden) -> Iterator[Part]:
        yield Part(f"{name}.weight", (size,), mean=1.0)
        if has_bias:
            yield Part(f"{name}.bias", (size,))

    def dense(name: str, num_out: int, num_in: int, has_bias: bool, scale: float = 1.0) -> Iterator[Part]:
        yield Part(f"{name}.weight", (num_out, num_in), scale=scale)
        if has_bias:
            yield Part(f"{name}.bias", (num_out,))

    yield Part(f"{names.embedding}.weight", (shape.vocabulary, hidden), scale=family.untrained_embedding)
    if names.token_types:
        yield Part(f"{names.token_types}.weight", (2, hidden))
    if names.embedding_norm:
        yield from norm(names.embedding_norm)
    if names.bias_table:
        yield Part(f"{names.bias_table}.weight", (shape.num_buckets, shape.num_heads), scale=hidden**0.5)
    for index in range(shape.num_layers):
        at = names.layer.format(index)
        for name in names.query_key_value:
            rows = 3 * width // len(names.query_key_value)
            # unscaled queries are drawn smaller, as T5 itself draws them
            scale = 1.0 if attention.is_scaled or name != names.query_key_value[0] else shape.head_dim**-0.5
            yield from dense(at + name, rows, hidden, attention.has_bias, scale)
        for name in names.query_key_norms:
            yield from norm(at + name, has_bias=False, size=width)
        yield from dense(at + names.attention_out, hidden, width, attention.has_bias)
        yield from norm(at + names.attention_norm)
        if family.block == "pre_norm":
            yield from norm(at + names.feed_forward_norm)
        for name in names.feed_forward_in:
            rows = (2 if inner.is_gated else 1) * shape.intermediate // len(names.feed_forward_in)
            yield from dense(at + name, rows, hidden, inner.has_bias_in)
        yield from dense(at + names.feed_forward_out, hidden, shape.intermediate, inner.has_bias_out)
        if family.block == "post_norm":
            yield from norm(at + names.feed_forward_norm)
    if names.final_norm:
        yield from norm(names.final_norm, has_bias=family.norms.has_final_bias)


def form_of(family: Family, names: Collection[str]) -> Names:
    """The form of checkpoint that these plain names are of; the first where they are of none."""
    return max(family.names, key=lambda form: sum(name in names for name in _telling(form)))


def _telling(form: Names) -> list[str]:
    """The tensors by whose names forms differ."""
    layer = form.layer.format(0)
    return [
        f"{form.embedding}.weight",
        f"{layer}{form.attention_norm}.weight",
        f"{layer}{form.feed_forward_out}.weight",
    ]


def dimensions_told(family: Family, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Dimensions by the sizes of a checkpoint's tensors, as far as they tell."""
    form = form_of(family, sizes)
    told: dict[str, int] = {}
    if len(embedding := sizes.get(f"{form.embedding}.weight", ())) == 2:
        told["vocabulary"], told["hidden"] = embedding
        if family.head_dim:
            told["num_heads"] = embedding[1] // family.head_dim
    while f"{form.layer.format(told.get('num_layers', 0))}{form.attention_norm}.weight" in sizes:
        told["num_layers"] = told.get("num_layers", 0) + 1
    if len(out := sizes.get(f"{form.layer.format(0)}{form.feed_forward_out}.weight", ())) == 2:
        told["intermediate"] = out[1]
    return told
