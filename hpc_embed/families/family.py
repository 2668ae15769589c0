"""What a family of encoders is made of: choices and names, as data. No torch.

A family's file reads like the table in its paper. engine/encoder.py runs what it says, engine/checkpoints.py finds
the tensors by its names, engine/tokens.py makes its tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Literal, NamedTuple, TypeGuard

Config = Mapping[str, object]
"""A checkpoint's config.json."""
Activation = Literal["gelu", "gelu_tanh", "silu", "relu"]


class Special(NamedTuple):
    """How many of a window's tokens, in front and behind, stand for no residue."""

    front: int = 1
    back: int = 1

    @property
    def total(self) -> int:
        return self.front + self.back


LARGEST_DIMENSION = 1 << 31


class SameAs(NamedTuple):
    """The value of a key that may only repeat a dimension."""

    dimension: str


class NoSuchDimension(Exception):
    """A dimension that config.json does not tell, or not as one that can be."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Dimensions of one encoder."""

    num_layers: int
    hidden: int
    num_heads: int
    intermediate: int
    vocabulary: int
    eps: float
    """What a norm adds to the variance."""
    head_dim: int = 0
    """0 for hidden / num_heads."""
    num_buckets: int = 0
    max_distance: int = 0
    """Of a bias table over distances: its buckets, and the distance from which all share the last one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim", self.head_dim or self.hidden // self.num_heads)

    @property
    def width(self) -> int:
        """Numbers of all heads together."""
        return self.num_heads * self.head_dim


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How tokens look at each other."""

    positions: Literal["rotary", "alibi", "buckets"]
    has_bias: bool = True
    is_scaled: bool = True
    """Scores are divided by the square root of the head dimension."""
    has_query_key_norm: bool = False
    """Queries and keys pass a LayerNorm over all heads together, before their positions."""


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """What each token goes through by itself: out(act(in x)), or gated out(act(gate x) * in x)."""

    activation: Activation
    is_gated: bool = False
    has_bias_in: bool = True
    has_bias_out: bool = True

    @property
    def num_products(self) -> int:
        """Matrices of hidden by intermediate numbers."""
        return 3 if self.is_gated else 2


@dataclass(frozen=True, kw_only=True)
class Norms:
    """LayerNorm, or RMSNorm, which leaves out mean and bias."""

    kind: Literal["layer", "rms"] = "layer"
    has_bias: bool = True
    has_final_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Names:
    """Where each part lies in a checkpoint, without `.weight`; a layer's own follow its prefix. Several names of
    one part are matrices that are stacked."""

    written_prefix: str = ""
    """What the published files put in front of every name; reading takes any of checkpoints.PREFIXES."""
    embedding: str
    token_types: str = ""
    embedding_norm: str = ""
    layer: str
    """With {} for its number."""
    attention_norm: str
    query_key_value: tuple[str, ...]
    inverse_frequencies: str = ""
    """The whole name of a layer's rotary frequencies, where a checkpoint stores them."""
    query_key_norms: tuple[str, ...] = ()
    attention_out: str
    feed_forward_norm: str
    feed_forward_in: tuple[str, ...]
    """The activated half first where it is gated."""
    feed_forward_out: str
    final_norm: str = ""
    bias_table: str = ""
    """One for all layers."""


@dataclass(frozen=True, kw_only=True)
class Residues:
    """A token a letter, by a byte table, with special ones around them."""

    vocabulary: tuple[str, ...]
    is_in_code: bool = False
    """Published checkpoints bring no file of it: the authors' code has it."""
    front: str = "<cls>"
    back: str = "<eos>"
    unknown: str = "<unk>"


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """A token a letter, whose ids the checkpoint's SentencePiece model tells."""

    letters: str
    """In the order of their ids, which begin behind <pad>, </s> and <unk>."""
    front_id: int = 0
    """In models with so large a vocabulary."""
    front: str = ""
    """Put in front where the checkpoint's vocabulary has it."""
    rewritten: Mapping[str, str] = field(default_factory=dict)
    back: str = "</s>"
    unknown: str = "<unk>"


@dataclass(frozen=True, kw_only=True)
class Kmers:
    """K letters a token from the left, single ones for the rest and around N; ids from vocab.txt."""

    k: int
    special: tuple[str, ...]
    front: str = "<cls>"
    unknown: str = "<unk>"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """As the published vocab.txt has it: special tokens, words, single letters."""
        return (*self.special, *map("".join, product("ATCG", repeat=self.k)), *"ATCGN")


@dataclass(frozen=True, kw_only=True)
class BytePairs:
    """A byte-pair encoding from tokenizer.json, with special tokens around."""

    front: str = "[CLS]"
    back: str = "[SEP]"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of encoder: how it computes, where its weights lie, how to know it."""

    name: str
    block: Literal["pre_norm", "post_norm"]
    """Where the norms stand: before each branch, or after each sum."""
    attention: Attention
    feed_forward: FeedForward
    norms: Norms = field(default_factory=Norms)
    embedding_scale: float = 1.0
    branch_scale: Callable[[Shape], float] = lambda shape: 1.0
    """What each branch is multiplied by before it is added to the stream."""
    names: tuple[Names, ...]
    """The forms of checkpoint; the one whose embedding is there is taken."""
    tokens: Residues | Pieces | Kmers | BytePairs
    claims: Callable[[Config, Collection[str]], bool]
    """Whether config.json, or else the names of the tensors, speak of this architecture; the rest is proven field by
    field."""
    config_keys: Mapping[str, tuple[str, ...]]
    """The keys of each dimension of Shape in config.json, any of which may hold it."""
    heeds: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """The values of other keys for which the table below computes what the authors' code does; `None` among them for
    a key that may be left out, `SameAs` for one that repeats a dimension."""
    unread: tuple[str, ...] = ()
    """Beginnings of plain names of tensors that published checkpoints hold and the encoder does not need."""
    usual: Mapping[str, int | float] = field(default_factory=dict)
    """Dimensions where config.json does not say: what transformers takes then."""
    head_dim: int = 0
    """Of every published size, for checkpoints whose config.json does not tell the number of heads."""
    limit: Callable[[Config], int | None] = lambda config: None
    """Longest window in residues by config.json, None for the family's usual one."""
    untrained_embedding: float = 1.0
    """Size of untrained embeddings, against that of the other weights."""

    def shape_of(self, config: Config, told: Mapping[str, int] | None = None) -> Shape:
        """Dimensions as config.json has them, or else as the sizes of the tensors tell them; NoSuchDimension names
        what is missing."""
        usual = {**self.usual, **(told or {})}
        found: dict[str, int | float] = {}
        for dimension, keys in self.config_keys.items():
            value = next((config[key] for key in keys if config.get(key) is not None), usual.get(dimension))
            if not is_dimension(value):
                raise NoSuchDimension(keys[0])
            found[dimension] = value
        eps = found.pop("eps")
        return Shape(eps=eps, **{name: int(number) for name, number in found.items()})


def is_dimension(value: object) -> TypeGuard[int | float]:
    """True for a number that can be one; config.json may hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST_DIMENSION


HUGGING_FACE_KEYS = {
    "num_layers": ("num_hidden_layers",),
    "hidden": ("hidden_size",),
    "num_heads": ("num_attention_heads",),
    "intermediate": ("intermediate_size",),
    "vocabulary": ("vocab_size",),
    "eps": ("layer_norm_eps",),
}
ROTARY_BASE = 10_000
USUAL_ROTARY: Mapping[str, tuple[object, ...]] = {
    "rope_theta": (None, ROTARY_BASE),
    "rope_scaling": (None,),
    "rope_parameters": (None, {"rope_type": "default", "rope_theta": ROTARY_BASE}),
}
"""Rotary positions as all families here have them."""
