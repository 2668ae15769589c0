"""TAB in real bash, zsh and fish: commands, options, choices, models and files, without torch."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TYPED = [
    ("hpc-embed mod", "hpc-embed models"),
    ("hpc-embed plan --print", "hpc-embed plan --print-config"),
    ("hpc-embed plan --precision b", "hpc-embed plan --precision bf16"),
    ("hpc-embed plan --layer -1 --model esm2_t33", "hpc-embed plan --layer -1 --model esm2_t33_650M"),
    ("hpc-embed verify prostt", "hpc-embed verify prostt5"),
    ("hpc-embed plan --run-dir here glo", "hpc-embed plan --run-dir here globins.fasta"),
    ("hpc-embed status --run-dir a-r", "hpc-embed status --run-dir a-run/"),
    ("hpc-embed plan --translate l", "hpc-embed plan --translate longest-orf"),
    ("hpc-embed completion f", "hpc-embed completion fish"),
]
STARTS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
READY = {
    "bash": "bind 'set enable-bracketed-paste off'; PS1=; eval \"$(hpc-embed completion bash)\"\n",
    "zsh": "PS1= PROMPT_SP= RPS1=; unsetopt zle_bracketed_paste; autoload -U compinit && compinit -D -u; "
    'eval "$(hpc-embed completion zsh)"\n',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file and a run folder, and beside it an hpc-embed as it is installed."""
    path = tmp_path_factory.mktemp("completion")
    (path / "work" / "a-run").mkdir(parents=True)
    (path / "work" / "globins.fasta").write_text(">a\nMKV\n")
    program = path / "bin" / "hpc-embed"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -X importtime -m hpc_embed "$@" 2>>{path}/imports\n')
    program.chmod(0o755)
    return path


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    usual = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    return usual | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "PYTHONPATH": paths,
        "HOME": str(folder),
        "TERM": "dumb",
    }


class Terminal:
    """A shell that believes it has a user."""

    def __init__(self, shell: str, folder: Path) -> None:
        self._leader, follower = pty.openpty()
        how = {"env": environment(folder), "cwd": folder / "work", "start_new_session": True}
        self._shell = subprocess.Popen(STARTS[shell], stdin=follower, stdout=follower, stderr=follower, **how)  # type: ignore[call-overload]
        os.close(follower)

    def press(self, keys: str, until: str) -> None:
        """Type, and read on until that is shown."""
        os.write(self._leader, keys.encode())
        shown, deadline = b"", time.monotonic() + 20
        while until.encode() not in shown:
            assert time.monotonic() < deadline, f"no {until!r} in {shown.decode()!r}"
            if select.select([self._leader], [], [], 0.1)[0]:
                shown += os.read(self._leader, 65536)

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._leader)


@pytest.mark.parametrize("shell", STARTS)
def test_tab_completes(shell: str, folder: Path) -> None:
    assert shutil.which(shell), f"no {shell}: .ci/install-debian.sh installs it"
    terminal = Terminal(shell, folder)
    try:
        terminal.press(f"{READY[shell]}echo is''-ready\n", until="is-ready")
        for start, whole in TYPED:
            terminal.press(f"{start}\t", until=whole)
            terminal.press("\x15", until="")
    finally:
        terminal.close()


def test_tab_completes_in_fish(folder: Path) -> None:
    assert shutil.which("fish"), "no fish: .ci/install-debian.sh installs it"
    asked = "\n".join(f"complete --do-complete '{start}'; echo --" for start, _ in TYPED)
    script = f"hpc-embed completion fish | source\n{asked}\n"
    done = subprocess.run(
        ["fish", "--no-config", "--command", script],
        capture_output=True,
        text=True,
        env=environment(folder),
        cwd=folder / "work",
        check=True,
    )
    answers = [answer.strip() for answer in done.stdout.split("--\n")]
    for (start, whole), answer in zip(TYPED, answers, strict=False):
        assert answer.split("\t")[0] == whole.split()[-1], start
    assert "\tWhat" not in done.stdout


def test_completion_never_loads_torch(folder: Path) -> None:
    line = "hpc-embed plan --model esm2"
    asking = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n"}
    command = ["bash", "-c", "hpc-embed 8>&1"]
    done = subprocess.run(command, env=environment(folder) | asking, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["esm2_t6_8M", "esm2_t12_35M"]
    loaded = (folder / "imports").read_text()
    assert "argcomplete" in loaded
    for heavy in ("torch", "transformers", "numpy", "pyarrow"):
        assert f" {heavy}\n" not in loaded
