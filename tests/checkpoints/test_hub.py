"""Every way in which a hub can fail, played by a server here: one line, exit code 5, what helps, and soon."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from hpc_embed.checkpoints import hub
from hpc_embed.checkpoints.files import BESIDE_THE_WEIGHTS, weight_files
from hpc_embed.engine.weights import random_weights
from hpc_embed.errors import EnvironmentFault
from hpc_embed.families.esm2 import ESM2, esm2_shape
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
    save_file(random_weights(ESM2, esm2_shape(1, 8, 2), 1), path)
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
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]


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


# ---- without a server


class Cache:
    """In the place of the hub's library: what is in the cache, and what the hub answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.cached: Path | None = None
        self.fault: BaseException | None = None
        self.names = ["model.safetensors"]
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: self)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/the/cache")

    def snapshot_download(self, repository: str, **options: object) -> str:
        self.calls.append((repository, options))
        if options.get("local_files_only"):
            if self.cached is None:
                raise LocalEntryNotFoundError("not here")
            return str(self.cached)
        return "/the/cache/fetched"

    def model_info(self, repository: str, **options: object) -> object:
        self.calls.append((repository, options))
        if self.fault:
            raise self.fault
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in self.names])


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> Cache:
    return Cache(monkeypatch)


def test_what_is_in_the_cache_is_not_fetched(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    cache.cached = tmp_path
    assert hub.hub_folder(REPOSITORY, REPOSITORY, "main") == tmp_path
    assert cache.calls == [(REPOSITORY, {"revision": "main", "local_files_only": True})]


@pytest.mark.parametrize("has_config_alone", [False, True])
@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["config.json", "model.safetensors", "model_old.safetensors"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"],
            ["model.safetensors.index.json", "model-*.safetensors"],
        ),
        (["pytorch_model.bin", "pytorch_model_600k.bin", "pytorch_model_723k.bin"], ["pytorch_model.bin"]),
        (["pytorch_model.bin.index.json"], ["pytorch_model.bin.index.json", "pytorch_model-*.bin"]),
        (["config.json", "data/weights/esmc_300m_2024_12_v0.pth"], ["data/weights/esmc_300m_2024_12_v0.pth"]),
        (["model.safetensors.md"], ["pytorch_model.bin"]),
    ],
)
def test_what_is_not_is_fetched_by_its_commit(
    names: list[str], patterns: list[str], has_config_alone: bool, cache: Cache, tmp_path: Path
) -> None:
    cache.names = names
    cache.cached = tmp_path if has_config_alone else None
    assert hub.hub_folder(REPOSITORY, REPOSITORY, "main") == Path("/the/cache/fetched")
    wanted = [*patterns, *BESIDE_THE_WEIGHTS]
    assert cache.calls[1:] == [
        (REPOSITORY, {"revision": "main", "timeout": 10.0}),
        (REPOSITORY, {"revision": COMMIT, "allow_patterns": wanted, "etag_timeout": 10.0}),
    ]


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("esm2_t12_35M", "main", "the weights of someone/model at main are not"),
        ("esm2_t12_35M", None, "or try esm2_t12_35M:untrained to see it run."),
        (REPOSITORY, None, "or try esm2_t6_8M:untrained to see it run."),
        (REPOSITORY, None, "the weights of someone/model are not in the hub cache /the/cache"),
    ],
)
def test_offline_nothing_is_asked_for(
    name: str, revision: str | None, words: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFault) as caught:
        hub.hub_folder(name, REPOSITORY, revision)
    assert words in str(caught.value)
    assert "HF_HUB_OFFLINE is set" in str(caught.value)
    assert len(cache.calls) == 1


def answered(status: int, kind: type[Exception] = RuntimeError) -> Exception:
    error = kind(f"HTTP {status}")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def caused_by(cause: BaseException, outer: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


def within(first: BaseException, later: Exception) -> Exception:
    later.__context__ = first
    return later


def in_a_circle() -> Exception:
    first, second = RuntimeError("first\nline"), RuntimeError("second")
    first.__context__, second.__context__ = second, first
    return first


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (answered(404), "someone/model at v1 is not on the hub (HTTP 404)."),
        (caused_by(answered(429), OSError("outer")), "too many requests from here (HTTP 429)."),
        (within(answered(403), ValueError("outer")), "this account has no access (HTTP 403)."),
        (answered(500), "a fault of its own (HTTP 500)."),
        (answered(418), "could not be fetched from the hub (RuntimeError: HTTP 418)."),
        (OSError(errno.ENOSPC, "No space left"), "no space left in the hub cache /the/cache."),
        (PermissionError("/the/cache"), "the hub cache cannot be written (/the/cache)."),
        (OSError(errno.EROFS, "Read-only file system"), "the hub cache cannot be written ("),
        (OSError(errno.EIO, "I/O error"), "could not be fetched from the hub (OSError: [Errno 5] I/O error)."),
        (in_a_circle(), "could not be fetched from the hub (RuntimeError: first)."),
        (ValueError(""), "could not be fetched from the hub (ValueError)."),
        (RuntimeError("no route."), "could not be fetched from the hub (RuntimeError: no route)."),
    ],
)
def test_what_the_hubs_library_raises_is_explained(fault: Exception, words: str, cache: Cache) -> None:
    cache.fault = fault
    with pytest.raises(EnvironmentFault) as caught:
        hub.hub_folder("esm2_t12_35M", REPOSITORY, "v1")
    assert words in caught.value.message
    assert caught.value.message.startswith("--model esm2_t12_35M: ")


def test_a_bug_of_ours_is_none_of_the_hubs(cache: Cache) -> None:
    cache.fault = KeyError("ours")
    with pytest.raises(KeyError):
        hub.download(REPOSITORY, REPOSITORY, None)
