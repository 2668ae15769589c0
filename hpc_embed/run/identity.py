"""Which model exactly: found on this machine or fetched from the hub, pinned by revision and digest. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hpc_embed.errors import EnvironmentFault, UsageError
from hpc_embed.registry import COMPOSITION, Kind, Model, composition_model, find_model, models
from hpc_embed.run.files import copy_file, sha256_of_file, whole_folder
from hpc_embed.run.hub import SMALL_FILES, hub_folder
from hpc_embed.run.hub import weight_files as weight_files

UNTRAINED = "untrained"
UNTRAINED_SEED = 0
STAGED = "staged.json"
"""What `stage-model` writes beside the weights."""
ESM2_HABITS = {"position_embedding_type": "rotary", "emb_layer_norm_before": False, "token_dropout": True}
"""What ESM-2's config.json says and ESM-1's does not."""


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
    if Path(name).is_dir():
        source, staged_revision = _staged_from(Path(name))
        return _checkpoint(Path(name), name=Path(name).resolve().name, source=source, revision=staged_revision)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _from_hub(name, name, revision)
    model = find_model(name)
    if model.hub is None:
        return _built_in(model)
    return _from_hub(name, model.hub, revision)


def _staged_from(folder: Path) -> tuple[str, str]:
    """Source and revision that `stage-model` wrote down, else the folder itself."""
    try:
        staged = json.loads((folder / STAGED).read_text(encoding="utf-8"))
        return str(staged["source"]), str(staged["revision"])
    except (OSError, ValueError, KeyError):
        return str(folder.resolve()), ""


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
    return replace(model, name=name), ModelIdentity(
        name=name,
        registry_name=model.name,
        source=UNTRAINED,
        revision="",
        folder="",
        digest=_digest_of_text(f"untrained {model.name} seed {UNTRAINED_SEED}"),
    )


def _from_hub(name: str, repository: str, revision: str | None) -> tuple[Model, ModelIdentity]:
    folder = hub_folder(name, repository, revision)
    return _checkpoint(folder, name=name, source=repository, revision=folder.name)


def _checkpoint(folder: Path, *, name: str, source: str, revision: str = "") -> tuple[Model, ModelIdentity]:
    config = read_config(folder)
    model = _model_of_config(name, config, folder)
    return model, ModelIdentity(
        name=name,
        registry_name=_template(model.family).name if name not in models() else name,
        source=source,
        revision=revision,
        folder=str(folder.resolve()),
        digest=digest_of_checkpoint(folder),
    )


def copy_checkpoint(source: Path, target: Path) -> Path:
    """Copy a checkpoint's files to `target`, whole or not at all; nothing where that is there already."""
    if not target.is_dir():
        with whole_folder(target, replace=False) as folder:
            for path in [*weight_files(source), *(source / name for name in SMALL_FILES)]:
                if path.is_file():
                    copy_file(path, folder / path.name)
    return target


def digest_of_checkpoint(folder: Path) -> str:
    """SHA-256 over the names and digests of the files that make up a checkpoint."""
    weights = weight_files(folder)
    if not weights:
        raise EnvironmentFault(
            f"{folder}: no weights (model.safetensors or pytorch_model.bin).",
            remedy="Give the folder of a whole checkpoint.",
        )
    small = [folder / name for name in SMALL_FILES if (folder / name).is_file()]
    lines = [f"{path.name} {sha256_of_file(path)}" for path in [*small, *weights]]
    return _digest_of_text("\n".join(lines))


def read_config(folder: Path) -> Mapping[str, object]:
    """config.json of a checkpoint folder; EnvironmentFault where there is none."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EnvironmentFault(
            f"{folder}: no config.json, so this is no checkpoint.", remedy="Give the folder that holds one."
        ) from error
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{path}: cannot be read ({error}).", remedy="Fetch the checkpoint again.") from error
    if not isinstance(config, dict):
        raise EnvironmentFault(f"{path}: not a JSON object.", remedy="Fetch the checkpoint again.")
    return config


def _model_of_config(name: str, config: Mapping[str, object], folder: Path) -> Model:
    family = _family_of_config(config)
    if family is None:
        raise EnvironmentFault(
            f"{folder}: model_type {config.get('model_type')!r} is neither ESM-2 nor DNABERT-2/S.",
            remedy="See `hpc-embed models` for what is supported.",
        )
    template = _template(family)
    for key, value in ESM2_HABITS.items() if family == "esm2" else ():
        if config.get(key) not in (None, value):
            raise EnvironmentFault(
                f"{folder}: {key} is {config[key]!r}, so this is an ESM, but not ESM-2.",
                remedy="See `hpc-embed models` for what is supported.",
            )
    layers, hidden, inner = (
        whole_number(config, key, folder) for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    inner_weights = 2 * hidden * inner if family == "esm2" else 3 * hidden * inner
    limit = template.max_residues
    if family == "esm2" and isinstance(positions := config.get("max_position_embeddings"), int):
        limit = positions - 4  # two for the padding offset, <cls> and <eos>
    return replace(
        models().get(name, template),
        name=name,
        dimension=hidden,
        num_layers=layers,
        hidden=hidden,
        feed_forward_weights=inner_weights,
        max_residues=limit,
        hub=name if "/" in name else template.hub,
    )


def _family_of_config(config: Mapping[str, object]) -> str | None:
    if config.get("model_type") == "esm":
        return "esm2"
    remote_names = json.dumps(config.get("auto_map", {}))
    if config.get("model_type") == "bert" and ("alibi_starting_size" in config or "bert_layers" in remote_names):
        return "dnabert"
    return None


def _template(family: str) -> Model:
    return next(model for model in models().values() if model.family == family)


def whole_number(config: Mapping[str, object], key: str, folder: Path) -> int:
    """A dimension from config.json; EnvironmentFault where it is not there."""
    value = config.get(key)
    if not isinstance(value, int):
        raise EnvironmentFault(f"{folder / 'config.json'}: no {key}.", remedy="Fetch the checkpoint again.")
    return value


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
