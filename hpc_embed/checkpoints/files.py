"""Which files of a folder are the checkpoint: chosen as transformers chooses them. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from hpc_embed.errors import EnvironmentFault, in_one_line

Content = TypeVar("Content")

CARD = "README.md"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
CHOICES = (SAFETENSORS, SAFETENSORS + INDEX, PICKLE, PICKLE + INDEX)
"""The first that is there holds the weights, or says which files do. A file of another name is not read, whatever its
ending: people keep older ones beside the one that counts."""
AUTHORS_FOLDER = "data/weights"
"""Where ESM C's authors put their one .pth file."""
ADAPTER = "adapter_config.json"
SMALL_FILES = ("config.json", "tokenizer.json", "vocab.txt", "spiece.model", "added_tokens.json")
"""What our families read beside the weights."""
TOKENISER_FILES = (
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("tokenizer.model", "sentencepiece.bpe.model"),
)
"""What transformers' tokenisers read besides."""
BESIDE_THE_WEIGHTS = (*SMALL_FILES, *TOKENISER_FILES, CARD, ADAPTER)
VOCABULARY_ABOVE = "AntiBERTy"
"""The class of the one model whose package keeps vocab.txt one folder above config.json."""
DAMAGED = "Fetch the checkpoint again."


def choice_of(names: Iterable[str]) -> str | None:
    """The file among a checkpoint's that holds its weights, or lists those that do; None where there is none."""
    names = set(names)
    authors = [name for name in names if name.startswith(f"{AUTHORS_FOLDER}/") and name.endswith(".pth")]
    return next((name for name in CHOICES if name in names), authors[0] if len(authors) == 1 else None)


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights, an index among them last; empty where there are none.

    Raises EnvironmentFault for an index that is none, or that lists what is not there.
    """
    names = [*CHOICES, *(f"{AUTHORS_FOLDER}/{path.name}" for path in (folder / AUTHORS_FOLDER).glob("*.pth"))]
    chosen = choice_of(name for name in names if (folder / name).is_file())
    if chosen is None:
        return []
    if not chosen.endswith(INDEX):
        return [folder / chosen]
    return [*(folder / name for name in _listed(folder, folder / chosen)), folder / chosen]


def _listed(folder: Path, index: Path) -> list[str]:
    names = read(index, lambda content: sorted(set(json.loads(content)["weight_map"].values())))
    for name in names:
        if Path(name).name != name:
            raise EnvironmentFault(f"{index}: lists {name!r}, which is no name of a file.", remedy=DAMAGED)
        if not (folder / name).is_file():
            raise EnvironmentFault(f"{index}: lists {name}, which is not there.", remedy=DAMAGED)
    return names


def refuse_unmerged(folder: Path) -> None:
    """EnvironmentFault for an adapter: its folder says that the base model's vectors are not what is wanted."""
    if (folder / ADAPTER).is_file():
        raise EnvironmentFault(
            f"{folder}: holds an adapter ({ADAPTER}), which is not applied here.",
            remedy="Merge it (peft: AutoPeftModel.from_pretrained(…).merge_and_unload().save_pretrained(NEW)) and "
            "give the new folder, or remove the adapter's files to embed with the base model.",
        )


def tokeniser_folder(folder: Path) -> Path:
    """Where the tokenizer's files are: the checkpoint's folder, or the one above in AntiBERTy's package."""
    if not (folder / "vocab.txt").is_file() and (folder.parent / "vocab.txt").is_file():
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("architectures") == [VOCABULARY_ABOVE]:
            return folder.parent
    return folder


def small_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Those of these files that a checkpoint has."""
    above = tokeniser_folder(folder)
    paths = [above / name if name == "vocab.txt" else folder / name for name in names]
    return [path for path in paths if path.is_file()]


def no_weights(folder: Path) -> EnvironmentFault:
    """For a folder without weights; names those files that might be taken for some."""
    strays = sorted(path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt", ".pth"))
    there = f"; it holds {', '.join(strays[:3])}" if strays else ""
    return EnvironmentFault(
        f"{folder}: no weights ({SAFETENSORS} or {PICKLE}, or an index of several{there}).",
        remedy="Give the folder of a whole checkpoint.",
    )


def read(path: Path, parse: Callable[[bytes], Content]) -> Content:
    """What `parse` makes of a file; EnvironmentFault where it cannot be had."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError as error:
        raise EnvironmentFault(f"{path}: no such file.", remedy=DAMAGED) from error
    except (OSError, ValueError, KeyError, IndexError, TypeError, StopIteration, AttributeError) as error:
        raise EnvironmentFault(f"{path}: cannot be read ({in_one_line(error)}).", remedy=DAMAGED) from error


def read_json(path: Path) -> dict[str, object]:
    """A JSON object; EnvironmentFault for anything else."""
    content = read(path, json.loads)
    if not isinstance(content, dict):
        raise EnvironmentFault(f"{path}: not a JSON object.", remedy=DAMAGED)
    return content
