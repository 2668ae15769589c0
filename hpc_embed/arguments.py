"""The arguments of one command: both spellings, flags, files anywhere; short help; errors in one line."""

from __future__ import annotations

import json
import re
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from textwrap import wrap
from typing import Any, NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, Namespace

from hpc_embed.errors import UsageError, did_you_mean

PRINT_CONFIG = "--print-config"
OWN_HELP = {"--help": "Show this help and exit.", PRINT_CONFIG: "Print the settings that hold, as YAML, and exit."}
UNTOLD: tuple[object, ...] = (SUPPRESS, (), {}, "default")
"""Defaults that say nothing."""
NUMBERS = ("PositiveInt", "NonNegativeInt", "PositiveFloat", "NonNegativeFloat")


class HelpFormatter(DefaultHelpFormatter):
    """What an option does, its choices and its default; Python's types are left out."""

    def _get_help_string(self, action: Action) -> str:
        text, default = action.help or "", action.default
        if default is None or isinstance(default, bool) or default in UNTOLD or "[default" in text:
            return text
        shown = ", ".join(map(str, default)) if isinstance(default, tuple | list) else default
        return f"{text} [default: {shown}]"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width, break_on_hyphens=False)  # --no-gather stays whole

    def _format_action_invocation(self, action: Action) -> str:
        """A flag by the spelling that changes something: `--json`, but `--report, --no-report`."""
        if PRINT_CONFIG in action.option_strings or (isinstance(action, ActionYesNo) and not action.default):
            return action.option_strings[0]
        return super()._format_action_invocation(action)

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        kind = str(self._get_type_str(action)).removesuffix(" | null")
        if kind.startswith("Optional[Literal["):  # jsonargparse does it for those that cannot be None
            return "{" + ",".join(re.findall(r"'([^']*)'", kind)) + "}"
        return "N" if kind in NUMBERS else action.dest.upper()


class CommandParser(ArgumentParser):
    """A parser whose options have dashes, whose bools are flags, and whose errors are UsageErrors."""

    positional: str | None = None
    """The setting that arguments without a flag are for."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:  # its groups get this too
        is_ours = kwargs.get("help") is not SUPPRESS
        names = [name.replace("_", "-") if is_ours and name.startswith("--") else name for name in args]
        if kwargs.get("type") is bool:
            kwargs = {**kwargs, "action": ActionYesNo(no_prefix="no-")}
            del kwargs["type"]
        action = super().add_argument(*names, **kwargs)
        if names[-1] in OWN_HELP:
            action.help = OWN_HELP[names[-1]]
        return action

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UsageError(_in_one_line(self, message), remedy=f"See `{self.prog} --help`.") from ex

    def parse_line(self, arguments: Sequence[str]) -> Namespace:
        """Parse a command line, on which files, or a model, stand anywhere."""
        return self.parse_args(self.normalise(arguments))

    def normalise(self, arguments: Sequence[str]) -> list[str]:
        """`--run_dir r` to `--run-dir=r`, and what stands alone to the setting that it is for.

        argparse takes arguments that stand alone from one place only, and jsonargparse refuses its
        parse_intermixed_args.
        """
        options: list[str] = []
        alone: list[str] = []
        waiting = list(arguments)
        while waiting:
            argument = waiting.pop(0)
            name, equals, value = argument.partition("=")
            name = name.replace("_", "-")
            action = self._option_string_actions.get(name)
            if argument == "--":
                return [*options, *self._standing_alone([*alone, *waiting])]
            if action is None and not name.startswith("--"):
                alone.append(argument)
                continue
            if action is None:
                self.error(f"unrecognized arguments: {argument}")  # argparse would take an abbreviation
            if not equals and waiting and action.nargs != 0 and name != PRINT_CONFIG:
                equals, value = "=", waiting.pop(0)  # in one, since -1,0 alone would pass for a flag
            if equals and action.dest == self.positional:
                alone.append(value)
            else:
                options.append(name + equals + value)
        return [*options, *self._standing_alone(alone)]

    def _standing_alone(self, given: list[str]) -> list[str]:
        if not given:
            return []
        if self.positional == "fasta":
            return [f"--fasta={json.dumps(given)}"]
        if self.positional is not None and len(given) == 1:
            return [f"--{self.positional}={given[0]}"]
        name, taken = self.prog.split()[-1], f"one {self.positional}" if self.positional else "no files"
        raise UsageError(f"{name} takes {taken}, and was given {' '.join(given)}.", remedy=f"See `{self.prog} --help`.")


def _in_one_line(parser: CommandParser, message: str) -> str:
    """jsonargparse explains over several lines; the key and the last reason say it."""
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        name = unknown.split()[0].partition("=")[0].replace("_", "-")
        return f"{name}: no such option. {did_you_mean(name, parser._option_string_actions)}".rstrip()
    message = message.replace("Problems parsing config:", "--config: problems parsing the file:")
    lines = [line.strip(" -") if number else line for number, line in enumerate(message.splitlines()) if line.strip()]
    reasons = [
        line
        for line in lines[1:]
        if not line.startswith(("Does not validate", "Subtypes", "Errors", "Expected a <class 'NoneType'>"))
    ]
    first = lines[0].replace('Parser key "', "--").replace('":', ":")
    key, colon, rest = first.partition(":")
    text = " ".join([key.replace("_", "-") + colon + rest, "; ".join(reasons)])
    return text.strip() + ("" if text.strip().endswith(".") else ".")
