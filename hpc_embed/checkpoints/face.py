"""What a checkpoint is taken for, by what its files say: its architecture, every dimension, the fields of its config,
its vocabulary in order, its tensors by name, size and number. No torch.

config.json ─┐
files ───────┤                ┌▶ packed: a family of ours, every fact of which was found
tensors ─────┼▶ Face ─▶ take ─┼▶ through transformers, with the reason why it is none of ours
vocabulary ──┘                └▶ refused in one line
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from hpc_embed.checkpoints.any_encoder import infer_model_type, is_native
from hpc_embed.checkpoints.config import Oddity, contradictions, oddities, quantised, read_config, refuse_quantised
from hpc_embed.checkpoints.files import DAMAGED, INDEX, no_weights, refuse_unmerged, tokeniser_folder, weight_files
from hpc_embed.checkpoints.tensors import FLOATS, TensorFacts, plain_name, tensors_of
from hpc_embed.checkpoints.vocabulary import LETTERS, Vocabulary, has_tokenizer, read_vocabulary
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families import FAMILIES
from hpc_embed.families.family import BytePairs, Config, Family, Kmers, NoSuchDimension, Pieces, Residues, Shape
from hpc_embed.families.parts import dimensions_told, form_of, parts

HEADS = ("_extra_state", "num_batches_tracked")
"""Ends of names of what no forward pass reads."""
FEWEST_LETTERS = 4
"""Of an alphabet; a vocabulary with fewer letters by themselves is one of words."""


@dataclass(frozen=True)
class Face:
    """A checkpoint's files as they are; read when first asked for."""

    folder: Path

    @cached_property
    def config(self) -> Config:
        """config.json."""
        return read_config(self.folder)

    @cached_property
    def weights(self) -> list[Path]:
        """The files of the weights; EnvironmentFault where there are none."""
        files = weight_files(self.folder)
        if not files:
            refuse_unmerged(self.folder)
            raise no_weights(self.folder)
        return files

    @cached_property
    def tensors(self) -> dict[str, TensorFacts]:
        """Facts by the names that the files have; EnvironmentFault for a name in two files."""
        found: dict[str, TensorFacts] = {}
        for path in self.weights:
            if path.name.endswith(INDEX):
                continue
            its_own = tensors_of(path)
            if both := found.keys() & its_own.keys():
                raise EnvironmentFault(f"{path}: {min(both)} is in another file, too.", remedy=DAMAGED)
            found |= its_own
        return found

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Sizes by plain name."""
        return {plain_name(name): facts.size for name, facts in self.tensors.items()}

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """What the tokenizer's files say."""
        return read_vocabulary(tokeniser_folder(self.folder))


class Taken(NamedTuple):
    """What a checkpoint is taken for."""

    family: Family | None
    """None for transformers' own model."""
    model_type: str
    shape: Shape | None
    """None where transformers' own model runs it."""
    why_not: Mapping[str, str]
    """By family that has its architecture: why it is not that."""


def take(face: Face) -> Taken:
    """Decide by the files; EnvironmentFault for a checkpoint that nothing here would embed as its authors do."""
    refuse_unmerged(face.folder)
    refuse_quantised(face.folder, face.config)
    _refuse_quantised_tensors(face)
    why_not: dict[str, str] = {}
    for family in FAMILIES.values():
        if family.claims(face.config, face.sizes):
            shape, differences = _compared(face, family)
            if not differences:
                return Taken(family, str(face.config.get("model_type", "")), shape, why_not)
            why_not[family.name] = "; ".join(differences[:2])
    return taken_by_transformers(face, why_not)


def taken_by_transformers(face: Face, why_not: Mapping[str, str] | None = None) -> Taken:
    """For transformers' own model, whatever family it is of; EnvironmentFault where it has none."""
    refuse_unmerged(face.folder)
    refuse_quantised(face.folder, face.config)
    _refuse_quantised_tensors(face)
    model_type = infer_model_type(face.config)
    if model_type is None or not is_native(face.config):
        raise _is_nothing(face, why_not or {})
    if not has_tokenizer(tokeniser_folder(face.folder)):
        raise _no_tokenizer(face.folder)
    return Taken(None, model_type, None, why_not or {})


def _compared(face: Face, family: Family) -> tuple[Shape, list[str]]:
    """The shape by that family's keys, and what keeps the checkpoint from being one of it.

    Raises EnvironmentFault for what no other way would embed rightly: a field that nobody knows, a tensor that is
    missing, no tokenizer.
    """
    try:
        shape = family.shape_of(face.config, dimensions_told(family, face.sizes))
    except NoSuchDimension as error:
        raise EnvironmentFault(f"{face.folder / 'config.json'}: no {error}.", remedy=DAMAGED) from error
    for contradiction in contradictions(family, face.config):
        raise EnvironmentFault(f"{face.folder / 'config.json'}: {contradiction}.", remedy=DAMAGED)
    odd = list(oddities(family, shape, face.config))
    if unknown := [oddity for oddity in odd if not oddity.is_known]:
        raise _unknown_field(face, family, unknown[0])
    differences = [str(oddity) for oddity in odd]
    differences += _differences_of_tokens(face, family, shape)
    if not differences:
        _refuse_other_tensors(face, family, shape)
    return shape, differences


def _no_tokenizer(folder: Path) -> EnvironmentFault:
    return EnvironmentFault(
        f"{folder}: no tokenizer (tokenizer.json, vocab.txt or spiece.model), so nobody can tell which token stands "
        "for which letter.",
        remedy="Copy the tokenizer's files of the published model beside the weights.",
    )


def _unknown_field(face: Face, family: Family, odd: Oddity) -> EnvironmentFault:
    return EnvironmentFault(
        f"{face.folder / 'config.json'}: {odd}, so this is a relative of {family.name} with other mathematics.",
        remedy="Choose a model of `hpc-embed models`; or take the field out if it changes no hidden state.",
    )


def _differences_of_tokens(face: Face, family: Family, shape: Shape) -> list[str]:
    vocabulary = face.vocabulary
    if vocabulary is None:
        if isinstance(family.tokens, Residues) and family.tokens.is_in_code:
            return []
        raise _no_tokenizer(face.folder)
    match family.tokens:
        case Residues() as residues:
            found = list(_other_residues(residues, vocabulary))
        case Pieces() as pieces:
            found = list(_other_pieces(pieces, vocabulary, shape))
        case Kmers() as kmers:
            found = list(_other_kmers(kmers, vocabulary))
        case BytePairs() as names:
            wanted = (names.front, names.back, "[UNK]", "[PAD]", *"ACGT")
            found = [f"{vocabulary.source} has no {name}" for name in wanted if name not in vocabulary.ids]
    largest = max((token for token in vocabulary.ids.values()), default=0)
    if not found and largest >= shape.vocabulary and not isinstance(family.tokens, Kmers):
        found = [f"{vocabulary.source} has token {largest} of {shape.vocabulary} rows"]
    return found


def _other_residues(residues: Residues, vocabulary: Vocabulary) -> Iterator[str]:
    for token, name in enumerate(residues.vocabulary):
        if vocabulary.ids.get(name) != token:
            yield f"token {token} of {vocabulary.source} is {vocabulary.name_of(token)}, not {name!r}"
            return
    for name in vocabulary.ids:
        if len(name) == 1 and name not in residues.vocabulary:
            yield f"{vocabulary.source} has a token {name!r} more"
            return
    yield from _other_special(vocabulary, cls_token=residues.front, eos_token=residues.back, unk_token=residues.unknown)


def _other_special(vocabulary: Vocabulary, **wanted: str | None) -> Iterator[str]:
    for name, token in wanted.items():
        if vocabulary.special.get(name, token) != token:
            yield f"its {name} is {vocabulary.special[name]!r}, not {token!r}"


def _other_pieces(pieces: Pieces, vocabulary: Vocabulary, shape: Shape) -> Iterator[str]:
    wanted = {"<pad>": 0, pieces.back: 1, pieces.unknown: 2}
    for token, name in enumerate(wanted):
        if vocabulary.ids.get(name) != token:
            yield f"token {token} of {vocabulary.source} is {vocabulary.name_of(token)}, not {name!r}"
            return
    for token, letter in enumerate(pieces.letters, start=len(wanted)):
        if vocabulary.id_of_letter(letter) != token:
            yield f"token {token} of {vocabulary.source} is {vocabulary.name_of(token)}, not {letter!r}"
            return
    if pieces.front and vocabulary.ids.get(pieces.front, pieces.front_id) != pieces.front_id:
        yield f"{pieces.front} is token {vocabulary.ids[pieces.front]}, not {pieces.front_id}"
    if pieces.front and shape.vocabulary > pieces.front_id and pieces.front not in vocabulary.ids:
        yield f"{vocabulary.source} has no {pieces.front}, for which there is a row"


def _other_kmers(kmers: Kmers, vocabulary: Vocabulary) -> Iterator[str]:
    for name in kmers.vocabulary:
        if name not in vocabulary.ids:
            yield f"{vocabulary.source} has no {name}"
            return
    yield from _other_special(vocabulary, cls_token=kmers.front, unk_token=kmers.unknown)
    if vocabulary.special.get("eos_token", "<eos>") is not None:
        yield "no file of the tokenizer says that eos_token is null, so that one stands at the end"


def _refuse_quantised_tensors(face: Face) -> None:
    for name, facts in face.tensors.items():
        if facts.numbers not in FLOATS and name.endswith((".weight", ".bias", ".kernel")):
            raise quantised(f"{face.folder}: quantised weights ({name} holds {facts.numbers})")


def _refuse_other_tensors(face: Face, family: Family, shape: Shape) -> None:
    """EnvironmentFault unless the family's tensors are there, each once and in its size, and no other part of the
    encoder beside them."""
    form = form_of(family, face.sizes)
    sizes = {part.name: part.size for part in parts(family, shape, form)}
    missing = [f"{name} is missing" for name in sizes if name not in face.sizes]
    other = [
        f"{name} has shape {face.sizes[name]}, not {size}"
        for name, size in sizes.items()
        if face.sizes.get(name, size) != size
    ]
    if faults := missing + other:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise EnvironmentFault(
            f"{face.folder}: not a whole checkpoint of {family.name} ({'; '.join(faults[:3])}{more}).",
            remedy="Fetch the checkpoint again, or choose another --model.",
        )
    by_plain_name: dict[str, str] = {}
    for name in face.tensors:
        plain = plain_name(name)
        if plain in sizes and plain in by_plain_name:
            raise EnvironmentFault(
                f"{face.folder}: holds both {by_plain_name[plain]} and {name}, and does not say which counts.",
                remedy="Take one of the two out.",
            )
        by_plain_name[plain] = name
    own = {name.partition(".")[0] for name in sizes}
    unread_ends = HEADS if not form.inverse_frequencies else (*HEADS, form.inverse_frequencies)
    for plain, name in by_plain_name.items():
        is_read = plain in sizes or plain.endswith(unread_ends) or plain.startswith(family.unread)
        if not is_read and plain.partition(".")[0] in own:
            raise EnvironmentFault(
                f"{face.folder}: holds {name}, a part of the encoder that {family.name} has not.",
                remedy="Choose a model of `hpc-embed models`, or the checkpoint that this one was made from.",
            )


def _is_nothing(face: Face, why_not: Mapping[str, str]) -> EnvironmentFault:
    """For a checkpoint that runs code of its own, or does not say what it is."""
    model_type = face.config.get("model_type")
    reasons = "".join(f"; it is no {family}: {reason}" for family, reason in why_not.items())
    if "auto_map" in face.config:
        problem = f"model_type {model_type!r} runs code of its own, which is never run here"
    else:
        problem = "config.json has neither a model_type nor architectures that transformers knows"
    return EnvironmentFault(
        f"{face.folder}: {problem}{reasons}.",
        remedy="Choose a model of `hpc-embed models`, or one that transformers knows natively.",
    )


def known_letters(vocabulary: Vocabulary | None) -> str | None:
    """The upper-case letters that a tokenizer of unknown ways can tell apart, by its vocabulary; None where there is
    none to judge by."""
    if vocabulary is None:
        return None
    single = {letter for letter in LETTERS if _has_alone(vocabulary, letter)}
    words = {letter for name in vocabulary.ids if name.isalpha() for letter in name if letter in LETTERS}
    return "".join(sorted(single if len(single) >= FEWEST_LETTERS else words))


def _has_alone(vocabulary: Vocabulary, letter: str) -> bool:
    return vocabulary.id_of_letter(letter) is not None or f"##{letter}" in vocabulary.ids
