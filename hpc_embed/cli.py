"""The command line: settings from defaults, hpc-embed.yaml, --config and flags; errors as one line; exit codes."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings

from hpc_embed import __version__, progress
from hpc_embed.arguments import PRINT_CONFIG, CommandParser, HelpFormatter
from hpc_embed.catalogue import COMMANDS, Command, find_command
from hpc_embed.errors import (
    AT_THE_LIMIT,
    FULL_DISK_REMEDY,
    EnvironmentFault,
    HpcEmbedError,
    Interrupted,
    UsageError,
    cannot_import,
    did_you_mean,
    is_at_the_limit,
    is_full_disk,
    no_permission,
)
from hpc_embed.run.faults import is_of_the_storage, reason
from hpc_embed.screen import is_utf8

SETTINGS_FILE = Path("hpc-embed.yaml")
SETTINGS_VARIABLE = "HPC_EMBED_SETTINGS"
"""Names another file of settings; empty for none, as in batch scripts."""
TRACEBACK_VARIABLE = "HPC_EMBED_TRACEBACK"
EXAMPLES = """
  hpc-embed local proteins.fasta --model esm2_t33_650M
  hpc-embed plan genomes/*.fna.gz --model dnabert_s --run-dir genomes
  hpc-embed submit --run-dir genomes --partition gpu
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    progress.open_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "_ARGCOMPLETE" in os.environ:
        from hpc_embed.completion import complete

        complete(COMMANDS, make_parser)
    try:
        code = _dispatch(arguments)
        with progress.read_or_not(sys.stdout):
            print(end="", flush=True)
        return code
    except HpcEmbedError as error:
        _show_traceback()
        progress.say(f"hpc-embed: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        progress.say("hpc-embed: interrupted; finished work is kept.")
        return Interrupted.exit_code
    except PermissionError as error:
        _show_traceback()
        progress.say(f"hpc-embed: {no_permission(error)}")
        return EnvironmentFault.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            progress.let_go(sys.stdout)
            return 0
        _show_traceback()
        if isinstance(error, ImportError):
            error = cannot_import(error)
        if is_at_the_limit(error):
            error = AT_THE_LIMIT
        if isinstance(error, EnvironmentFault):
            progress.say(f"hpc-embed: {error}")
            return error.exit_code
        if is_full_disk(error):
            place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            progress.say(f"hpc-embed: {place}no space left. {FULL_DISK_REMEDY}")
            return EnvironmentFault.exit_code
        if is_of_the_storage(error):
            place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            progress.say(f"hpc-embed: {place}{reason(error)}. The same command goes on once that is mended.")
            return EnvironmentFault.exit_code
        progress.say(
            f"hpc-embed: a bug: {type(error).__name__}: {error}. "
            f"Set {TRACEBACK_VARIABLE}=1 for a traceback, and report it."
        )
        return 1


def _nobody_reads() -> bool:
    """True where what is printed goes to a pipe whose reader has gone: `hpc-embed models | head`."""
    look = select.poll()
    try:
        look.register(sys.stdout, 0)
    except (TypeError, ValueError):  # no file
        return False
    return bool(look.poll(0))


def _refuse_odd_bytes(arguments: Sequence[str]) -> None:
    """Raise UsageError for a path that is not UTF-8: neither YAML nor the report could hold it."""
    for argument in arguments:
        if not is_utf8(argument):
            raise UsageError(f"{argument}: not UTF-8.", remedy="Rename it, or link to it by another name.")


def _dispatch(arguments: list[str]) -> int:
    _refuse_odd_bytes(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else UsageError.exit_code
    if arguments[0] == "--version":
        print(f"hpc-embed {__version__}")
        return 0
    command = find_command(arguments[0])
    parser = make_parser(command)
    _read_settings_file(parser, command)
    return run_command(command, parser.parse_line(arguments[1:]))


def run_command(command: Command, namespace: Namespace) -> int:
    """Call the command with its settings."""
    progress.be_quiet(bool(namespace.get("quiet")))
    if not progress.shows_bars():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers goes by it, too
    code: int = import_module(command.module).run(*settings_of(command, namespace))
    return code


def settings_of(command: Command, namespace: Namespace) -> list[Any]:
    """Those of a command, in its order."""
    return [kind(**{field.name: namespace[field.name] for field in fields(kind)}) for kind in command.settings]


def make_parser(command: Command) -> CommandParser:
    """A parser of one command, from its settings; a new one, since a settings file becomes its defaults."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    positional = command.positional
    alone = {"fasta": "[FASTA ...] ", None: ""}.get(positional, f"[{str(positional).upper()}] ")
    parser = CommandParser(
        prog=f"hpc-embed {command.name}",
        usage=f"%(prog)s {alone}[options]",
        description=command.help,
        epilog=f"Settings: defaults, then {SETTINGS_FILE} in the working folder, then --config, then flags.",
        formatter_class=HelpFormatter,
        print_config=PRINT_CONFIG,
    )
    parser.positional = positional
    parser.add_argument("--config", action="config", help="A YAML file of settings.")
    for kind in command.settings:
        parser.add_class_arguments(kind)
    return parser


def _read_settings_file(parser: CommandParser, command: Command) -> None:
    """Take the settings of this command from hpc-embed.yaml; those of other commands are left to them."""
    file = Path(os.environ.get(SETTINGS_VARIABLE, SETTINGS_FILE))
    if file == Path() or not file.exists():
        return
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{file}: cannot be read ({' '.join(str(error).split())}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a list of `name: value` lines.", remedy="See examples/hpc-embed.yaml.")
    settings = {str(name).replace("-", "_"): value for name, value in content.items()}
    known = {field.name for each in COMMANDS for kind in each.settings for field in fields(kind)}
    for name in settings:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"{file}: {name} is no setting.", remedy=f"{hint}Known: {', '.join(sorted(known))}.")
    if isinstance(settings.get("fasta"), str):
        settings["fasta"] = [settings["fasta"]]
    mine = {field.name for kind in command.settings for field in fields(kind)}
    chosen = {name: value for name, value in settings.items() if name in mine}
    try:
        parser.parse_object(chosen)
    except UsageError as error:
        raise UsageError(f"{file}: {error.message}", remedy=error.remedy) from error
    parser.set_defaults(chosen)


def _overview() -> str:
    """It fits a terminal of 24 lines, with the prompt below it."""
    commands = "\n".join(f"  {command.name:<12} {command.help}" for command in COMMANDS)
    return (
        "usage: hpc-embed COMMAND [FASTA ...] [options]\n"
        "FASTA to embeddings, on Slurm or on this machine.\n\n"
        f"{commands}\n{EXAMPLES}\n"
        "hpc-embed COMMAND --help tells each one's options, --version the version."
    )


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exc()
