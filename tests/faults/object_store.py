"""A small S3 server that can fail on demand: the requests that pyarrow makes, objects in memory, no access control.

The usual mock server asks for an older python-dateutil than is installed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import itertools
import threading
import time
import uuid
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class ObjectStore:
    """`objects` by `bucket/key`, with the time each was written; while `failing` every other request is answered 503
    and the others are cut off; `failed` counts them."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.failing = False
        self.failed = 0
        self._parts: dict[str, dict[int, bytes]] = {}
        self._turn = itertools.cycle((True, False))

    def put(self, path: str, content: bytes) -> None:
        self.objects[path] = content, time.time()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        if self.failing:
            self.failed += 1
            if next(self._turn):
                return web.Response(status=503, text=_error("SlowDown"), content_type="application/xml")
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if "aws-chunked" in request.headers.get("Content-Encoding", ""):
            content = _unchunked(content)
        bucket, _, key = request.path.lstrip("/").partition("/")
        if not key:
            return self._bucket(request, bucket, content)
        answer = getattr(self, f"_{request.method.lower()}")
        return answer(request, f"{bucket}/{key}", content)

    def _bucket(self, request: web.Request, bucket: str, content: bytes) -> web.Response:
        if request.method == "POST":  # ?delete
            for entry in ElementTree.fromstring(content).iter(f"{NAMESPACE}Key"):
                self.objects.pop(f"{bucket}/{entry.text}", None)
            return _xml("<DeleteResult/>")
        if request.method == "GET" and "list-type" in request.query:
            return self._listing(bucket, request.query.get("prefix", ""), request.query.get("delimiter", ""))
        return web.Response(headers={"x-amz-bucket-region": "us-east-1"})

    def _listing(self, bucket: str, prefix: str, delimiter: str) -> web.Response:
        found, folders = [], set()
        for path, (content, written) in sorted(self.objects.items()):
            key = path.removeprefix(f"{bucket}/")
            if not path.startswith(f"{bucket}/{prefix}"):
                continue
            head, middle, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if middle:
                folders.add(prefix + head + delimiter)
            else:
                modified = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(written))
                found.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size>"
                    f"<LastModified>{modified}</LastModified></Contents>"
                )
        common = [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)]
        parts = "".join([*found, *common])
        return _xml(
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(found) + len(common)}</KeyCount><IsTruncated>false</IsTruncated>{parts}</ListBucketResult>"
        )

    def _head(self, request: web.Request, path: str, _: bytes) -> web.Response:
        return self._get(request, path, b"")

    def _get(self, request: web.Request, path: str, _: bytes) -> web.Response:
        if path not in self.objects:
            return web.Response(status=404, text=_error("NoSuchKey"), content_type="application/xml")
        content, written = self.objects[path]
        headers = {
            "ETag": f'"{hashlib.md5(content).hexdigest()}"',
            "Last-Modified": email.utils.formatdate(written, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        asked = request.http_range
        if asked.start is None and asked.stop is None:
            return web.Response(body=content, headers=headers)
        part = content[asked]
        first = asked.start or 0
        headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        return web.Response(status=206, body=part, headers=headers)

    def _put(self, request: web.Request, path: str, content: bytes) -> web.Response:
        if "partNumber" in request.query:
            self._parts[request.query["uploadId"]][int(request.query["partNumber"])] = content
        else:
            self.put(path, content)
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    def _post(self, request: web.Request, path: str, _: bytes) -> web.Response:
        bucket, _, key = path.partition("/")
        names = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
        if "uploads" in request.query:
            upload = uuid.uuid4().hex
            self._parts[upload] = {}
            return _xml(
                f"<InitiateMultipartUploadResult>{names}<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        # Asked again when the answer was lost: the same answer.
        if parts := self._parts.pop(request.query["uploadId"], None):
            self.put(path, b"".join(parts[number] for number in sorted(parts)))
        return _xml(f"<CompleteMultipartUploadResult>{names}<ETag>whole</ETag></CompleteMultipartUploadResult>")

    def _delete(self, request: web.Request, path: str, _: bytes) -> web.Response:
        self._parts.pop(request.query.get("uploadId", ""), None)
        self.objects.pop(path, None)
        return web.Response(status=204)


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/xml")


def _error(code: str) -> str:
    return f"<Error><Code>{code}</Code><Message>as asked for</Message></Error>"


def _unchunked(content: bytes) -> bytes:
    """What a body of chunks with lengths, signatures and trailing checksums carries."""
    found = b""
    while content:
        head, _, content = content.partition(b"\r\n")
        length = int(head.split(b";")[0], 16)
        if length == 0:
            break
        found, content = found + content[:length], content[length + 2 :]
    return found


@contextlib.contextmanager
def object_store() -> Iterator[tuple[ObjectStore, str]]:
    """A store at work and its address, HOST:PORT, on a free port."""
    store = ObjectStore()
    loop = asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", store.answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield store, "{}:{}".format(*runner.addresses[0])
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
