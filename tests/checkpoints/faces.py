"""Checkpoints without a number in them: config, tokenizer, and a head that names tensors and their sizes."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

from hpc_embed.families import FAMILIES
from hpc_embed.families.esm2 import VOCABULARY as ESM2_VOCABULARY
from hpc_embed.families.family import Family, Shape
from hpc_embed.families.parts import parts

Sizes = Mapping[str, tuple[int, ...]]
ESM2_CONFIG: dict[str, object] = {
    "model_type": "esm",
    "num_hidden_layers": 3,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 33,
    "max_position_embeddings": 514,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "emb_layer_norm_before": False,
    "layer_norm_eps": 1e-5,
    "mask_token_id": 32,
    "pad_token_id": 1,
}
"""A small ESM-2, as the published ones say it."""


def sizes_of(family: Family, shape: Shape, form: int = 0) -> dict[str, tuple[int, ...]]:
    """The tensors of a family under their published names."""
    names = family.names[form]
    return {names.written_prefix + part.name: part.size for part in parts(family, shape, names)}


def esm2_sizes(config: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Those of an ESM-2 with that config."""
    return sizes_of(FAMILIES["esm2"], FAMILIES["esm2"].shape_of(config))


def write_head(path: Path, sizes: Sizes, numbers: str = "F32") -> None:
    """A safetensors file whose tensors have no numbers."""
    entries = {name: {"dtype": numbers, "shape": list(size), "data_offsets": [0, 0]} for name, size in sizes.items()}
    content = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)


def write_vocabulary(folder: Path, names: Iterable[str] = ESM2_VOCABULARY) -> None:
    """vocab.txt as EsmTokenizer reads it."""
    (folder / "vocab.txt").write_text("\n".join(names) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer"}')


def write_face(folder: Path, config: Mapping[str, object], sizes: Sizes, names: Iterable[str] | None = ()) -> Path:
    """A whole checkpoint; ESM-2's vocabulary unless another is given, none for None."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_head(folder / "model.safetensors", sizes)
    if names is not None:
        write_vocabulary(folder, names or ESM2_VOCABULARY)
    return folder


def esm2_face(folder: Path, **changes: object) -> Path:
    """A small ESM-2 with some fields of its config changed; None takes one out."""
    config = {name: value for name, value in {**ESM2_CONFIG, **changes}.items() if value is not None}
    return write_face(folder, config, esm2_sizes({**ESM2_CONFIG, **config}))


def spiece_model(letters: str = "ALGVSREDTIPKFQNYMHWCXBOUZ") -> bytes:
    """A SentencePiece ModelProto of single letters, as ProtT5's: pieces, the trainer's ids, a normaliser."""
    kinds = {"<pad>": 3, "</s>": 3, "<unk>": 2}
    pieces = [*kinds, *(f"▁{letter}" for letter in letters)]
    content = b"".join(
        _field(1, _field(1, piece.encode()) + b"\x15\x00\x00\x80\xbf" + _number(3, kinds.get(piece, 1)))
        for piece in pieces
    )
    trainer = {3: 1, 4: len(pieces), 40: 2, 41: -1, 42: 1, 43: 0}  # unigram; ids of <unk>, none, </s>, <pad>
    content += _field(2, b"".join(_number(*each) for each in trainer.items()))
    return content + _field(3, _number(3, 1) + _number(4, 1))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


THREE_DI = "algvsredtipkfqnymhwc"
PROST_T5_ADDED = {**{letter: 128 + at for at, letter in enumerate(THREE_DI)}, "<fold2AA>": 148, "<AA2fold>": 149}
"""ProstT5's added_tokens.json: 3Di letters in lower case, and the two directions."""
