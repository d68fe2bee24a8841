"""A hub that no connection leads to is told in one sentence; one that answers is asked as ever."""

import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import headway_cli

SOURCES = str(Path(headway_cli.__file__).parent)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = json.dumps({"model_type": "gpt2", "n_layer": 7}).encode()
# What the hub's client is told it reads when it is imported, which takes seconds: commands that are
# told the same are processes that fork from one.
EACH = """
import json, os, runpy, sys
import headway_cli
from headway.hosts.loading import read_config

for number, words in enumerate(json.loads(sys.argv[1])):
    if os.fork() == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        if words[0] == "read":
            sys.exit(print(read_config(words[1]).n_layer))
        sys.argv[1:] = words
        sys.exit(runpy.run_module("headway", run_name="__main__"))
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""
TRAIN = ["train", "--model", "no/such", "--text", "text.txt"]
SINKS = ["sinks", "no/such"]
READ = ["read", "some/model"]


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


class Done(NamedTuple):
    """How a command ended and what it told."""

    code: int
    out: str
    err: str


def run(commands: list[list[str]], home: Path, **environment: str) -> list[Done]:
    """Commands of headway, or `read` and a model, each in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps(commands)],
        env=kept
        | {"PYTHONPATH": SOURCES, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        | environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [
        Done(int(code), *((home / f"{number}.{name}").read_text() for name in ("out", "err")))
        for number, code in enumerate(done.stdout.split())
    ]


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Done, Path]]:
    """Verbs where nobody listens, and the folder they ran in."""
    home = tmp_path_factory.mktemp("unreachable")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    verbs = [TRAIN, ["retrofit", "no/such"], SINKS]
    told = run(verbs, home, HF_ENDPOINT=closed)
    return {words[0]: (done, home) for words, done in zip(verbs, told, strict=True)}


class Reached(NamedTuple):
    """What was done while a hub answered, what it was asked, and what was done offline after."""

    online: list[Done]
    asked: list[str]
    offline: list[Done]


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Reached:
    home, asked = tmp_path_factory.mktemp("reached"), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (OneConfig,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    online = run([READ, SINKS], home, HF_ENDPOINT=address)
    asked_online = [*asked]
    offline = run([READ, SINKS], home, HF_ENDPOINT=address, HF_HUB_OFFLINE="1")
    server.shutdown()
    server.server_close()
    assert asked == asked_online, "the hub is asked where it is off limits"
    return Reached(online, asked, offline)


@pytest.mark.parametrize("verb", ["train", "retrofit", "sinks"])
def test_no_way_to_the_hub_is_told_at_the_first_try(
    verb: str, unreachable: dict[str, tuple[Done, Path]]
) -> None:
    done, home = unreachable[verb]
    assert done.code == 2
    # transformers' own tries are lines there.
    assert "Retry" not in done.err
    told = done.err.splitlines()[-1]
    assert told.startswith("headway: model: 'no/such' is no folder and not in the hub's cache")
    assert "cannot be reached" in told
    assert "accepted are a folder, and an id on a hub" in told
    assert not (home / "runs").exists()


def test_what_the_hub_has_is_read_and_then_found_in_the_cache(reached: Reached) -> None:
    online, offline = reached.online[0], reached.offline[0]
    assert online[:2] == (0, "7\n"), online.err
    assert any(each.startswith("GET ") for each in reached.asked)
    assert offline[:2] == (0, "7\n"), offline.err


def test_a_name_that_the_hub_has_not_is_left_to_transformers(reached: Reached) -> None:
    done = reached.online[1]
    assert done.code == 2
    assert "cannot be reached" not in done.err
    assert done.err.startswith("headway: model: 'no/such' ")
    assert sum("/no/such/" in each for each in reached.asked) > 1


def test_a_hub_that_is_off_limits_is_named(reached: Reached) -> None:
    done = reached.offline[1]
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert "the hub is off limits (HF_HUB_OFFLINE)" in line
