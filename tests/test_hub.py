"""A hub that no connection leads to is told in one sentence; one that answers is asked as ever."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = json.dumps({"model_type": "gpt2", "n_layer": 7}).encode()
READ = "from headway.hosts.loading import read_config; print(read_config('some/model').n_layer)"


class OneConfig(BaseHTTPRequestHandler):
    """A hub that holds the config.json of some/model; what is asked is kept in `asked`."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        there = self.path.startswith("/some/model/resolve/") and self.path.endswith("config.json")
        self.send_response(200 if there else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        if there:
            self.send_header("ETag", '"1"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(CONFIG) if there else 0))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if "config.json" in self.path:
            self.wfile.write(CONFIG)

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (OneConfig,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed() -> str:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def run(words: list[str], home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return subprocess.run(
        [sys.executable, *words],
        env=kept | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "0", **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--model", "no/such", "--text", "text.txt"],
        ["retrofit", "no/such"],
        ["sinks", "no/such"],
    ],
    ids=lambda words: words[0],
)
def test_no_way_to_the_hub_is_told_at_the_first_try(
    words: list[str], tmp_path: Path, closed: str
) -> None:
    done = run(["-m", "headway", *words], tmp_path, HF_ENDPOINT=closed)
    assert done.returncode == 2
    # transformers' own tries are lines there.
    assert "Retry" not in done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("headway: model: 'no/such' is no folder and not in the hub's cache")
    assert "cannot be reached" in told
    assert "accepted are a folder, and an id on a hub" in told
    assert not (tmp_path / "runs").exists()


def test_what_the_hub_has_is_read_and_then_found_in_the_cache(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    address, asked = hub
    done = run(["-c", READ], tmp_path, HF_ENDPOINT=address)
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
    assert any(each.startswith("GET ") for each in asked)
    offline = run(["-c", READ], tmp_path, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, "7\n"), offline.stderr


def test_a_name_that_the_hub_has_not_is_left_to_transformers(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    address, asked = hub
    done = run(["-m", "headway", "sinks", "no/such"], tmp_path, HF_ENDPOINT=address)
    assert done.returncode == 2
    assert "cannot be reached" not in done.stderr
    assert done.stderr.startswith("headway: model: 'no/such' ")
    assert len(asked) > 1


def test_a_hub_that_is_off_limits_is_named(tmp_path: Path) -> None:
    done = run(["-m", "headway", "sinks", "no/such"], tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "the hub is off limits (HF_HUB_OFFLINE)" in line
