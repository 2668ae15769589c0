"""Every way in which a hub can fail, played by a server here: one line, exit code 5, what helps, and soon."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from safetensors.torch import save_file

from hpc_embed.engine import esm2
from hpc_embed.errors import EnvironmentFault
from hpc_embed.run import hub
from tests.conftest import Run

REPOSITORY = "someone/model"
COMMIT = "00ce29e0adcd2b4e2d7f0f6e3e8f00b4bde3f3f1"
CONFIG = {
    "model_type": "esm",
    "num_hidden_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 33,
    "max_position_embeddings": 1026,
}


class Hub(BaseHTTPRequestHandler):
    """A hub with one model; `behaviour` says how it is today."""

    behaviour = "well"
    files: dict[str, bytes] = {}  # noqa: RUF012
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        behaviour = type(self).behaviour
        path = self.path.partition("?")[0]
        is_file = "/resolve/" in path
        if behaviour.isdecimal() and not is_file:
            self._answer(int(behaviour), b'{"error": "no"}')
        elif behaviour == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif behaviour == "silent":
            time.sleep(3)
        elif behaviour == "junk":
            self._answer(200, b"<html>Log in to the hotel's network</html>")
        elif is_file:
            self._file(path.rpartition("/")[2])
        elif "/tree/" in path:
            tree = [
                {"type": "file", "oid": f"{len(content):040x}", "size": len(content), "path": name}
                for name, content in self.files.items()
            ]
            self._answer(200, json.dumps(tree).encode())
        else:
            names = [{"rfilename": name} for name in self.files]
            self._answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": names}).encode())

    def _file(self, name: str) -> None:
        content = self.files[name]
        self.send_response(200)
        self.send_header("ETag", f'"{len(content):040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            is_cut = type(self).behaviour == "cut" and name.endswith(".safetensors")
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
            self.close_connection = is_cut

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_file(esm2.random_weights(esm2.Esm2Shape(num_layers=1, hidden=8, num_heads=2, intermediate=32), 1), path)
    Hub.files = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": path.read_bytes()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process takes the server for the hub, and has patience for a fraction of a second."""
    from huggingface_hub import _snapshot_download, constants, file_download, hf_api
    from huggingface_hub.utils import _http

    for module in (constants, _snapshot_download, file_download, hf_api):
        for name, value in (
            ("ENDPOINT", address),
            ("HF_HUB_CACHE", str(tmp_path / "cache")),
            ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        ):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http, "is_offline_mode", lambda: False, raising=False)
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 3.0 * (seconds == 3))))


ANSWERS = [
    ("401", "is gated or private, or does not exist (HTTP 401). Accept its licence"),
    ("403", "this account has no access (HTTP 403)"),
    ("404", "is not on the hub (HTTP 404). Check the name"),
    ("429", "too many requests from here (HTTP 429). Wait"),
    ("500", "the hub has a fault of its own (HTTP 500). Try later"),
    ("503", "the hub has a fault of its own (HTTP 503). Try later"),
    ("loop", "could not be fetched from the hub (TooManyRedirects"),
    ("silent", "could not be fetched from the hub (ReadTimeout"),
    ("junk", "could not be fetched from the hub ("),
    ("cut", "could not be fetched from the hub ("),
]


@pytest.mark.parametrize(("behaviour", "words"), ANSWERS, ids=[behaviour for behaviour, _ in ANSWERS])
def test_each_way_to_fail_has_its_line(
    behaviour: str, words: str, fetch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "behaviour", behaviour)
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        hub.download(REPOSITORY, REPOSITORY, None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5
    assert time.monotonic() - started < 20


def test_a_hub_that_is_well_gives_a_checkpoint(fetch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "behaviour", "well")
    folder = hub.download(REPOSITORY, REPOSITORY, None)
    assert folder.name == COMMIT
    assert [path.name for path in hub.weight_files(folder)] == ["model.safetensors"]


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_full_cache_disk_is_told_as_such(fetch: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Hub, "behaviour", "well")
    disk = tmp_path / "cache"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small disk")
    try:
        with pytest.raises(EnvironmentFault, match=r"no space left in the hub cache .* Set HF_HOME"):
            hub.download(REPOSITORY, REPOSITORY, None)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_without_a_network_the_first_command_is_one_line(run: Run, globins: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:  # a port that nobody listens on
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
        environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": nowhere, "HF_HOME": str(tmp_path / "cache")}
        error = run("local", globins, "--model", "esm2_t6_8M", code=5, env=environment).stderr
    assert error.count("\n") == 1
    assert "could not be fetched from the hub (ConnectError" in error
    assert "hpc-embed stage-model" in error
