"""What could come next on a command line: argcomplete asks here on TAB, and torch is not loaded for it."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import argcomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter

from hpc_embed.model import PER_BASE, PER_WINDOW, POOLINGS
from hpc_embed.registry import models

if TYPE_CHECKING:
    from hpc_embed.arguments import CommandParser
    from hpc_embed.catalogue import Command

FOLDERS = ("run_dir", "models_dir", "weights_copy", "output", "dataset", "bind")
FILES = ("config", "fasta", "colour_by", "image")
WORDS = {
    "devices": ("auto", "cpu"),
    "shards": ("all",),
    "pooling": ("default", *POOLINGS, PER_BASE, PER_WINDOW),
}
"""What settings take besides what cannot be listed."""

Completer = Callable[..., Iterable[str]]


def complete(commands: Sequence[Command], make_parser: Callable[[Command], CommandParser]) -> None:
    """Answer the shell that asks, and end the process.

    Only the command that is being typed gets its options: making a parser takes as long as all the rest.
    """
    words = os.environ.get("COMP_LINE", "").split()
    line = ArgumentParser(prog="hpc-embed")
    line.add_argument("--version", action="store_true", help="Show the version and exit.")
    parsers = line.add_subparsers()
    for command in commands:
        parser = parsers.add_parser(command.name, help=command.help, add_help=False)
        if command.name in words:
            _add_arguments(parser, command, make_parser(command))
    argcomplete.autocomplete(line, always_complete_options="long")


def _add_arguments(parser: ArgumentParser, command: Command, full: CommandParser) -> None:
    hints = {name: hint for kind in command.settings for name, hint in get_type_hints(kind).items()}
    choices = {name: words for name, hint in hints.items() if (words := _words_of(hint))}
    for action in full._actions:
        how: dict[str, Any] = {"action": "store_true"} if action.nargs == 0 else {}
        names = action.option_strings[:1] if action.default is False else action.option_strings  # no --no-json
        added: Any = parser.add_argument(*names, help=action.help, **how)
        added.completer = _completer(action.dest, choices)
    if command.positional:
        alone: Any = parser.add_argument("alone", nargs="*")
        alone.completer = _completer(command.positional, choices)


def _words_of(hint: object) -> tuple[str, ...]:
    """What a setting of this type takes, with or without None; () for one that has no such list."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((get_args(part) for part in get_args(hint) if get_origin(part) is Literal), ())


def _completer(setting: str, choices: dict[str, tuple[str, ...]]) -> Completer:
    if setting == "model":
        return _models
    if setting in FOLDERS:
        return DirectoriesCompleter()
    if setting in FILES:
        return FilesCompleter()
    words = choices.get(setting) or WORDS.get(setting, ())
    return lambda **_: words


def _models(prefix: str, **_: object) -> Iterable[str]:
    """Names, and folders of checkpoints."""
    return ["composition", *models(), *DirectoriesCompleter()(prefix)]
