"""Checkpoints from the hub: from its cache on this machine, else over the network; each way to fail has its line."""

from __future__ import annotations

import errno
from pathlib import Path

from hpc_embed.checkpoints.files import BESIDE_THE_WEIGHTS, INDEX, PICKLE, choice_of, weight_files
from hpc_embed.errors import FULL_DISK_REMEDY, EnvironmentFault, is_full_disk
from hpc_embed.progress import note
from hpc_embed.registry import models

ANSWER_SECONDS = 10.0
"""A hub that takes longer counts as out of reach."""
STAGE = "Run `hpc-embed stage-model` where there is internet and give the folder that it names"
BY_STATUS = {
    401: ("is gated or private, or does not exist", "Accept its licence on the hub, and set HF_TOKEN to your token."),
    403: ("is gated, and this account has no access", "Accept its licence on the hub, with the account of HF_TOKEN."),
    404: ("is not on the hub", "Check the name and --revision; see `hpc-embed models`."),
    429: ("was refused, too many requests from here", "Wait some minutes, or set HF_TOKEN; nothing else is wrong."),
}
"""What the hub's answers mean, and what helps."""


def hub_folder(name: str, repository: str, revision: str | None) -> Path:
    """The folder of a checkpoint's commit in the hub cache, fetched where it is not there.

    Raises EnvironmentFault, with what helps, for every way in which that can fail.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        if weight_files(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    wanted = f"{repository} at {revision}" if revision else repository
    if constants.HF_HUB_OFFLINE:
        raise _out_of_reach(name, wanted, "HF_HUB_OFFLINE is set")
    return download(name, repository, revision)


def download(name: str, repository: str, revision: str | None) -> Path:
    """Fetch a checkpoint into the hub cache, safetensors where it has them; the folder of its commit."""
    from huggingface_hub import HfApi, snapshot_download

    wanted = f"{repository} at {revision}" if revision else repository
    try:
        info = HfApi().model_info(repository, revision=revision, timeout=ANSWER_SECONDS)
        names = [sibling.rfilename for sibling in info.siblings or ()]
        note(f"downloading {wanted} from the hub …")
        patterns = [*_weights_among(names), *BESIDE_THE_WEIGHTS]
        folder = snapshot_download(repository, revision=info.sha, allow_patterns=patterns, etag_timeout=ANSWER_SECONDS)
        return Path(folder)
    except _hub_errors() as error:
        raise _explained(name, wanted, error) from error


def _weights_among(names: list[str]) -> list[str]:
    """Patterns of the files that hold the weights and of no others: some repositories have three whole copies."""
    chosen = choice_of(names) or PICKLE
    if not chosen.endswith(INDEX):
        return [chosen]
    stem, _, ending = chosen.removesuffix(INDEX).rpartition(".")
    return [chosen, f"{stem}-*.{ending}"]  # which ones is in the index


def _hub_errors() -> tuple[type[BaseException], ...]:
    """Everything that the hub's library raises; which HTTP library is below, and its errors, changes with versions."""
    from huggingface_hub.errors import HfHubHTTPError

    bases = [base for base in HfHubHTTPError.__mro__ if base not in (object, BaseException, Exception)]
    return (OSError, ValueError, RuntimeError, *bases)


def _explained(name: str, wanted: str, error: BaseException) -> EnvironmentFault:
    for each in _chain(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status in BY_STATUS:
            problem, remedy = BY_STATUS[status]
            return EnvironmentFault(f"--model {name}: {wanted} {problem} (HTTP {status}).", remedy=remedy)
        if isinstance(status, int) and status >= 500:
            return EnvironmentFault(
                f"--model {name}: the hub has a fault of its own (HTTP {status}).", remedy=f"Try later. {STAGE}."
            )
        if is_full_disk(each):
            from huggingface_hub import constants

            return EnvironmentFault(
                f"--model {name}: no space left in the hub cache {constants.HF_HUB_CACHE}.",
                remedy=f"Set HF_HOME to a larger disk. {FULL_DISK_REMEDY}",
            )
        if isinstance(each, PermissionError) or getattr(each, "errno", None) == errno.EROFS:
            return EnvironmentFault(
                f"--model {name}: the hub cache cannot be written ({each}).", remedy="Set HF_HOME to a folder of yours."
            )
    return _out_of_reach(name, wanted, _reason(error))


def _chain(error: BaseException) -> list[BaseException]:
    """The error and those that caused it."""
    found = [error]
    while following := found[-1].__cause__ or found[-1].__context__:
        if following in found:
            break
        found.append(following)
    return found


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _out_of_reach(name: str, wanted: str, reason: str) -> EnvironmentFault:
    from huggingface_hub import constants

    hint = name if name in models() else "esm2_t6_8M"
    return EnvironmentFault(
        f"--model {name}: the weights of {wanted} are not in the hub cache {constants.HF_HUB_CACHE}, "
        f"and could not be fetched from the hub ({reason}).",
        remedy=f"{STAGE}, or try {hint}:untrained to see it run.",
    )
