"""Downloads that continue.

Oracle: a server of our own on this machine that knows the file, keeps a list of what it was asked for, and breaks off,
refuses ranges or changes the file as it is told; no network.
"""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from refimpl.problems import datasets, downloads
from refimpl.problems.datasets import DatasetUnavailable
from refimpl.problems.downloads import Interrupted, ResumingDownloader, retrieve

CONTENT = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()
OTHER = CONTENT[::-1]


class Server:
    """What the server has and how it behaves; ``asked`` holds the Range header of each request."""

    def __init__(self):
        self.content, self.tag, self.ranges = CONTENT, '"one"', True
        self.breaks = []  # after how many bytes each answer ends, while there are entries
        self.status, self.shift, self.on_request = None, 0, lambda count: None
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def do_HEAD(self):
                self.send_response(200 if self.path == "/file" else 404)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append(wanted)
        self.on_request(len(self.asked))
        if self.status is not None:
            request.send_error(self.status)
            return
        start, total = 0, len(self.content)
        same = request.headers.get("If-Range") in (None, self.tag)
        if wanted and self.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= total:
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{total}")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start + self.shift}-{total - 1}/{total}")
        else:
            request.send_response(200)
        if self.tag:
            request.send_header("ETag", self.tag)
        request.send_header("Content-Length", str(total - start))
        request.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else total
        request.wfile.write(self.content[start:end])


@pytest.fixture
def server():
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


@pytest.fixture
def get(server, tmp_path):
    """``get()`` retrieves the file with CONTENT's checksum and no pauses."""

    def get(content=CONTENT, **options):
        sha256 = hashlib.sha256(content).hexdigest()
        return retrieve(server.url, sha256, tmp_path / "sets" / "file.bin", pause=0, **options)

    get.folder = tmp_path / "sets"
    get.partial = tmp_path / "sets" / ".file.bin.part"
    return get


def test_a_whole_file_in_one_request(server, get):
    path = get()
    assert path == get.folder / "file.bin"
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert [p.name for p in get.folder.iterdir()] == ["file.bin"]
    assert get().read_bytes() == CONTENT  # already there
    assert server.asked == [None]


def test_a_connection_that_breaks_is_continued(server, get):
    server.breaks = [30_000, 10_000]
    assert get().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=30000-", "bytes=40000-"]
    assert [p.name for p in get.folder.iterdir()] == ["file.bin"]


def test_a_server_without_tags_is_continued_too(server, get):
    server.breaks, server.tag = [30_000], None
    assert get().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=30000-"]


def test_a_library_that_does_not_notice_a_broken_connection(server, get, monkeypatch):
    from urllib3 import HTTPResponse

    stream = HTTPResponse.stream

    def short(response, *arguments, **options):
        whole = b"".join(stream(response, *arguments, **options))
        yield whole[:60_000]

    monkeypatch.setattr(HTTPResponse, "stream", short)
    assert get().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=60000-"]


def test_a_later_call_continues(server, get):
    server.breaks = [30_000, 0]
    with pytest.raises(Interrupted, match="30000"):
        get(attempts=1)
    assert get.partial.read_bytes() == CONTENT[:30_000]
    assert not (get.folder / "file.bin").exists()
    server.asked.clear()
    assert get().read_bytes() == CONTENT
    assert server.asked == ["bytes=30000-"]


def test_a_process_that_ended_leaves_what_had_arrived(server, get, monkeypatch):
    class Stopping:
        def __init__(self, *, total, initial, **_):
            self.seen = initial

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, count):
            self.seen += count
            if self.seen > 50_000:
                raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_CHUNK", 20_000)
    with monkeypatch.context() as patch:
        patch.setattr("tqdm.tqdm", Stopping)
        with pytest.raises(KeyboardInterrupt):
            get()
    assert get.partial.read_bytes() == CONTENT[:60_000]
    assert get().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=60000-"]


def test_a_server_that_knows_no_ranges_is_asked_for_the_whole(server, get):
    server.breaks, server.ranges = [30_000], False
    assert get().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=30000-"]


def test_a_server_that_always_breaks_off_is_given_up(server, get):
    server.breaks, server.ranges = [30_000, 20_000] * 20, False  # back and forth is no progress
    with pytest.raises(Interrupted):
        get(attempts=3)
    assert len(server.asked) == 4


def test_a_file_that_changed_is_begun_anew(server, get):
    server.breaks = [30_000]

    def change(count):
        if count == 2:
            server.content, server.tag = OTHER, '"two"'

    server.on_request = change
    assert get(OTHER).read_bytes() == OTHER
    assert server.asked == [None, "bytes=30000-"]


def test_pieces_of_two_files_are_noticed_by_the_checksum(server, get):
    server.breaks, server.tag = [30_000], None  # no tag: the second piece is of another file, which nobody can tell

    def change(count):
        if count == 2:
            server.content = OTHER

    server.on_request = change
    assert get(OTHER).read_bytes() == OTHER
    assert server.asked == [None, "bytes=30000-", None]


def test_a_corrupt_file_is_refused_and_not_kept(server, get):
    server.content = OTHER
    with pytest.raises(ValueError, match="hash"):
        get()
    assert server.asked == [None]
    assert list(get.folder.iterdir()) == []


def test_a_wrong_file_at_the_place_is_replaced(server, get):
    get.folder.mkdir()
    (get.folder / "file.bin").write_bytes(b"half")
    assert get().read_bytes() == CONTENT


def test_a_partial_file_that_is_whole_is_taken(server, get):
    get.folder.mkdir()
    get.partial.write_bytes(CONTENT)
    assert get().read_bytes() == CONTENT
    assert server.asked == ["bytes=100000-"]


def test_a_partial_file_that_is_too_long_is_thrown_away(server, get):
    get.folder.mkdir()
    get.partial.write_bytes(CONTENT + b"more")
    assert get().read_bytes() == CONTENT
    assert server.asked == ["bytes=100004-", None]


def test_another_part_than_asked_for_is_not_appended(server, get):
    server.breaks, server.shift = [30_000], 5
    assert get().read_bytes() == CONTENT
    assert server.asked == [None, "bytes=30000-", None]


def test_a_refusal_is_not_asked_again(server, get):
    server.status = 404
    with pytest.raises(Exception, match="404"):
        get()
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again(server, get):
    server.status = 503

    def recover(count):
        server.status = None if count == 3 else 503

    server.on_request = recover
    assert get().read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_without_a_server_there_is_one_attempt(server, get, monkeypatch):
    server.http.shutdown()
    server.http.server_close()
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: pytest.fail("waited"))
    with pytest.raises(Exception, match=r"Connection|refused"):
        get()


def test_pauses_grow(server, get, monkeypatch):
    waited = []
    monkeypatch.setattr(downloads.time, "sleep", waited.append)
    server.status = 500
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(Exception, match="500"):
        retrieve(server.url, sha256, get.folder / "file.bin", attempts=4, pause=0.5)
    assert waited == [0.5, 1.0, 2.0]


def test_two_at_once_do_not_write_into_the_same_file(server, get):
    pytest.importorskip("fcntl")
    get.folder.mkdir()
    get.partial.write_bytes(CONTENT[:10])
    with downloads._owned(get.partial) as (partial, _):
        assert partial == get.partial
        assert get().read_bytes() == CONTENT
        assert server.asked == [None]
        assert get.partial.read_bytes() == CONTENT[:10]
    assert sorted(p.name for p in get.folder.iterdir()) == [".file.bin.part", "file.bin"]


def test_whether_the_server_has_a_file(server, tmp_path):
    downloader = ResumingDownloader(tmp_path / "x.part")
    assert downloader(server.url, "", None, check_only=True) is True
    assert downloader(server.url + "s", "", None, check_only=True) is False


@pytest.mark.parametrize("options", [{"attempts": 0}, {"pause": -1}, {"timeout": 0}])
def test_malformed_options_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=next(iter(options))):
        ResumingDownloader(tmp_path / "x.part", **options)


# -- as datasets use it -----------------------------------------------------------------------------------------------


def entry(server, content=CONTENT):
    return {"path": "sets/file.bin", "url": server.url, "sha256": hashlib.sha256(content).hexdigest()}


def test_datasets_continue_in_the_cache_folder(server, tmp_path, monkeypatch):
    monkeypatch.delenv("REFIMPL_DATA", raising=False)
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    server.breaks = [30_000]
    path = datasets.fetch(entry(server))
    assert path == tmp_path / "sets" / "file.bin"
    assert path.read_bytes() == CONTENT
    server.content = OTHER
    path.unlink()
    with pytest.raises(ValueError, match="no longer gives the published file"):
        datasets.fetch(entry(server))
    server.status = 404
    with pytest.raises(DatasetUnavailable, match=r"could not be downloaded \(HTTPError\)"):
        datasets.fetch(entry(server))
