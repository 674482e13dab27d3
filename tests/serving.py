"""A local server that cuts, stalls, changes its file and refuses, for tests of downloads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cepnb.datasets.download import CHUNK


class Server:
    """Serve `content`; `requests` records the Range headers, and `faults` lists the next treatments.

    Without `ranges` the server ignores all ranges.
    503, 404: an error. "cut", "cut early": close the connection after some bytes. "stall": send no more.
    "whole": ignore the range. "gzip": claim compression. "unsized": cut without an announced length.
    "chunked": no length, but a marked end. "part": send only three chunks of the range. "ok": no fault.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.tag, self.faults, self.requests, self.ranges = (
            content,
            '"one"',
            [],
            [],
            True,
        )
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fault = outer.faults.pop(0) if outer.faults else "ok"
                wanted = self.headers.get("Range")
                outer.requests.append(wanted)
                if isinstance(fault, int):
                    self.send_error(fault)
                    return
                start, body, end = 0, outer.content, len(outer.content)
                if (
                    wanted
                    and outer.ranges
                    and fault != "whole"
                    and self.headers.get("If-Range") == outer.tag
                ):
                    start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                    if start >= len(body):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(body)}")
                        self.end_headers()
                        return
                    end = min(start + 3 * CHUNK, end) if fault == "part" else end
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
                else:
                    self.send_response(200)
                if fault == "chunked":
                    body, end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), None
                    self.send_header("Transfer-Encoding", "chunked")
                elif fault != "unsized":
                    self.send_header("Content-Length", str(end - start))
                self.send_header("ETag", outer.tag)
                if fault == "gzip":
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                if fault in ("cut", "cut early", "stall", "unsized"):
                    self.wfile.write(
                        body[start : start + (2 if fault == "cut early" else 5) * CHUNK + 100]
                    )
                    self.wfile.flush()
                    if fault == "stall":
                        outer.silence.wait(20)
                    return
                self.wfile.write(body[start:end])

            def log_message(self, *_: object) -> None:
                pass

        self.silence = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.hdf5"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@contextmanager
def serving(content: bytes) -> Iterator[Server]:
    server = Server(content)
    try:
        yield server
    finally:
        server.silence.set()
        server.http.shutdown()
        server.http.server_close()
