"""Fetching an archive from a server on this machine that behaves well, badly, or not at all."""

import hashlib
import http.client
import re
import socket
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from minires.data import cifar10, download
from minires.data.layouts import FAMILIES
from minires.data.transfer import BrokenTransferError
from minires.errors import ArgumentError, DataError

pytestmark = pytest.mark.host_only("files and bytes on the host")

ARCHIVE = FAMILIES["cifar10"].layouts[0].archive
PAYLOAD = np.random.default_rng(0).bytes(300_000)  # several blocks
PARTLY = 100_000


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    payload: bytes = PAYLOAD
    honours_range: bool = True
    tells_length: bool = True
    status: int | None = None  # answer every request with this error
    stop_after: list[int] = field(default_factory=list)  # for each request in turn, how many bytes it sends
    shift: int = 0  # sends a range that begins elsewhere
    ranges: list[str | None] = field(default_factory=list)
    address: str = ""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close waits for them

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


@pytest.fixture
def server():
    """Start servers that behave as told; stop them at the end."""
    running = []

    def start(**options):
        behaviour = Behaviour(**options)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self, behaviour)

            def log_message(self, *_):
                pass

        listening = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((listening, thread))
        behaviour.address = f"http://127.0.0.1:{listening.server_port}/{ARCHIVE}"
        return behaviour

    yield start
    for listening, thread in running:
        listening.shutdown()
        thread.join()
        listening.server_close()


def answer(request, behaviour):
    asked = request.headers.get("Range")
    behaviour.ranges.append(asked)
    body, begin = behaviour.payload, 0
    if asked and behaviour.honours_range:
        begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
    if behaviour.status or begin >= len(body):
        request.send_error(behaviour.status or 416)
        return
    request.send_response(206 if begin else 200)
    if begin:
        request.send_header("Content-Range", f"bytes {begin + behaviour.shift}-{len(body) - 1}/{len(body)}")
    if behaviour.tells_length:
        request.send_header("Content-Length", str(len(body) - begin))
    request.end_headers()
    stop = behaviour.stop_after.pop(0) if behaviour.stop_after else None
    request.wfile.write(body[begin:][:stop])


@pytest.fixture(autouse=True)
def _small_archive(monkeypatch, tmp_path):
    """The archive of these tests is PAYLOAD; nothing of the owner's environment matters."""
    family = FAMILIES["cifar10"]
    binary = replace(family.layouts[0], size=len(PAYLOAD), md5=hashlib.md5(PAYLOAD).hexdigest())
    monkeypatch.setitem(FAMILIES, "cifar10", replace(family, layouts=(binary, family.layouts[1])))
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")


def fetch(root, *servers):
    return download("cifar10", root, urls=[getattr(server, "address", server) for server in servers], progress=False)


def leave_part(folder, content=PAYLOAD[:PARTLY]):
    folder.mkdir(exist_ok=True)
    (folder / f"{ARCHIVE}.part").write_bytes(content)
    return folder


def assert_whole(path, folder):
    assert path == folder / ARCHIVE
    assert path.read_bytes() == PAYLOAD
    assert [entry.name for entry in folder.iterdir()] == [ARCHIVE]


def dead_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/{ARCHIVE}"


# it arrives


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_whole_download(tmp_path, server, tells_length):
    good = server(tells_length=tells_length)
    assert_whole(fetch(tmp_path / "new" / "folder", good), tmp_path / "new" / "folder")
    assert good.ranges == [None]


def test_nothing_is_fetched_twice(tmp_path, server):
    good = server()
    fetch(tmp_path, good)
    fetch(tmp_path, good)
    assert len(good.ranges) == 1


def test_a_wrong_file_in_its_place_is_replaced(tmp_path, server):
    (tmp_path / ARCHIVE).write_bytes(b"something else")
    assert_whole(fetch(tmp_path, server()), tmp_path)


def test_what_an_earlier_call_left_is_resumed(tmp_path, server):
    good = server()
    assert_whole(fetch(leave_part(tmp_path), good), tmp_path)
    assert good.ranges == [f"bytes={PARTLY}-"]


def test_a_part_that_was_already_whole_needs_no_server(tmp_path):
    assert_whole(fetch(leave_part(tmp_path, PAYLOAD), dead_address()), tmp_path)


def test_a_broken_transfer_is_resumed_in_the_same_call(tmp_path, server):
    shaky = server(stop_after=[PARTLY, 50_000])
    assert_whole(fetch(tmp_path, shaky), tmp_path)
    assert shaky.ranges == [None, f"bytes={PARTLY}-", f"bytes={PARTLY + 50_000}-"]


def test_a_server_without_ranges_starts_over(tmp_path, server):
    simple = server(honours_range=False)
    assert_whole(fetch(leave_part(tmp_path), simple), tmp_path)
    assert simple.ranges == [f"bytes={PARTLY}-"]


@pytest.mark.parametrize("extra", [b"", b"beyond the end"])
def test_a_part_as_long_as_the_file_but_wrong_starts_over(tmp_path, server, extra):
    good = server()
    wrong = bytes(len(PAYLOAD)) + extra
    assert_whole(fetch(leave_part(tmp_path, wrong), good), tmp_path)
    assert good.ranges == [f"bytes={len(wrong)}-", None]  # 416, then the whole


# the second address


def test_the_second_address_goes_on_where_the_first_stopped(tmp_path, server):
    stops = server(stop_after=[PARTLY, 0])
    good = server()
    assert_whole(fetch(tmp_path, stops, good), tmp_path)
    assert good.ranges == [f"bytes={PARTLY}-"]


@pytest.mark.parametrize("first", ["dead", "404", "garbage"])
def test_the_second_address_helps_out(tmp_path, server, first):
    bad = {
        "dead": dead_address,
        "404": lambda: server(status=404),
        "garbage": lambda: server(payload=b"<html>sign in</html>"),
    }[first]()
    assert_whole(fetch(tmp_path, bad, server()), tmp_path)


def test_a_range_that_begins_elsewhere_does_no_harm(tmp_path, server):
    good = server()
    assert_whole(fetch(leave_part(tmp_path), server(shift=1), good), tmp_path)
    assert good.ranges == [f"bytes={PARTLY}-"]


def test_without_urls_the_official_host_comes_first(tmp_path, monkeypatch):
    asked = []

    def transfer(url, part, progress):
        asked.append(url)
        raise BrokenTransferError("no network in the tests")

    monkeypatch.setattr("minires.data.transfer.transfer", transfer)
    for name, version, file in [
        ("cifar10", "binary", "cifar-10-binary.tar.gz"),
        ("cifar100", "python", "cifar-100-python.tar.gz"),
    ]:
        with pytest.raises(DataError, match="no network in the tests"):
            download(name, tmp_path, version=version, progress=False)
        official, mirror = asked
        assert official == f"https://www.cs.toronto.edu/~kriz/{file}"
        assert mirror.endswith(f"/{name}/{file}")
        asked.clear()


# it does not arrive


def test_a_wrong_sum_removes_the_file_and_says_so(tmp_path, server):
    wrong = server(payload=PAYLOAD[:-1] + b"!")
    with pytest.raises(DataError, match=r"the MD5 sum is \w{32} instead of \w{32}, so what it sent was removed"):
        fetch(tmp_path, wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_part_and_names_every_address(tmp_path, server):
    stops, dead = server(stop_after=[PARTLY, 0]), dead_address()
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, stops, dead)
    message = str(caught.value)
    for words in (stops.address, f"closed after {PARTLY} of 300000 bytes", dead, "efused", "100000 bytes are kept in"):
        assert words in message
    assert (tmp_path / f"{ARCHIVE}.part").read_bytes() == PAYLOAD[:PARTLY]


def test_a_server_that_drips_is_given_up(tmp_path, server):
    drips = server(stop_after=[10] * 100)
    with pytest.raises(DataError, match="closed after 50 of"):
        fetch(tmp_path, drips)
    assert len(drips.ranges) == 5


def test_an_interruption_keeps_the_part_for_the_next_call(tmp_path, server, monkeypatch):
    good = server()
    read, reads = http.client.HTTPResponse.read, []

    def interrupted(response, amount=None):
        reads.append(amount)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return read(response, amount)

    with monkeypatch.context() as patch:
        patch.setattr(http.client.HTTPResponse, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, good)
    part = (tmp_path / f"{ARCHIVE}.part").read_bytes()
    assert 0 < len(part) < len(PAYLOAD)
    assert part == PAYLOAD[: len(part)]
    assert_whole(fetch(tmp_path, good), tmp_path)
    assert good.ranges == [None, f"bytes={len(part)}-"]


def test_a_connection_that_breaks_is_a_sentence(tmp_path, server, monkeypatch):
    def reset(response, amount=None):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(http.client.HTTPResponse, "read", reset)
    with pytest.raises(DataError, match=r"the connection broke: .*reset by peer"):
        fetch(tmp_path, server())


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, server):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot be written: .*choose another folder"):
        fetch(tmp_path / "file" / "below", server())


# around it


def test_it_says_how_long_it_will_take_and_what_else_there_is(tmp_path, server, capsys, monkeypatch):
    good = server()
    family = FAMILIES["cifar10"]
    official = replace(family.layouts[0], size=170_052_171)
    monkeypatch.setitem(FAMILIES, "cifar10", replace(family, layouts=(official,)))
    download("cifar10", tmp_path, urls=[good.address])
    told = capsys.readouterr()
    assert told.out == ""
    for words in ("170 MB", good.address, "65 kB/s", "44 minutes", str(tmp_path), "MINIRES_DATA=PATH", "100%"):
        assert words in told.err


def test_without_progress_it_is_silent(tmp_path, server, capsys):
    fetch(tmp_path, server())
    assert capsys.readouterr() == ("", "")


def test_loading_can_fetch_first(tmp_path, server, monkeypatch):
    good = server()
    monkeypatch.setattr("minires.data.fetch.OFFICIAL", good.address.removesuffix(ARCHIVE))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is not CIFAR"):  # PAYLOAD is noise
        cifar10(tmp_path / "new", download=True)
    assert (tmp_path / "new" / ARCHIVE).read_bytes() == PAYLOAD


def test_by_default_it_goes_to_the_cache(tmp_path, server):
    assert_whole(download("cifar10", urls=[server().address], progress=False), tmp_path / "cache" / "minires")


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (["mnist"], {}, r"no data set is called 'mnist'; choose 'cifar10' or 'cifar100'"),
        (["cifar10"], {"version": "matlab"}, "version must be 'binary' or 'python', got 'matlab'"),
        (["cifar10"], {"urls": []}, r"urls must be addresses .* got \[\]"),
        (["cifar10"], {"urls": ["file:///etc/passwd"]}, "begin with https:// or http://"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        download(*arguments, tmp_path, **options)
