"""The origin of the browser tests: a page with all that browsers ask servers for, and a record of what was asked."""

import asyncio
import gzip
import hashlib
import json
import random
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from aiohttp import WSMsgType, web

FOLDER = Path(__file__).parent
KINDS = {"js": 30, "css": 12, "png": 30, "bin": 12}
TYPES = {"js": "text/javascript", "css": "text/css", "png": "image/png", "bin": "application/octet-stream"}
PIECES = 5
EVENTS = 12
TONE_S = 20
CLOSE_BY_SERVER = 4002


class Site:
    """Serves on a port of 127.0.0.1 in a thread, until `stop`."""

    def __init__(self, folder: Path) -> None:
        self.assets = dict(_assets())
        self.asked: list[tuple[str, int]] = []
        """Path and status of each request that was answered."""
        self.ranges: list[str] = []
        """Range fields that came for the sound."""
        self.beacons: list[bytes] = []
        self.aborted = threading.Event()
        """Somebody left the endless answer."""
        self._tone = folder / "tone.wav"
        self._tone.write_bytes(_tone())
        self._acks: dict[tuple[str, int], asyncio.Event] = {}
        self._loop = asyncio.new_event_loop()
        self._runner = web.AppRunner(self._application(), shutdown_timeout=1.0)
        self._loop.run_until_complete(self._start())
        self._thread = threading.Thread(target=self._loop.run_forever, name="site")
        self._thread.start()

    @property
    def address(self) -> str:
        host, port = self._runner.addresses[0]
        return f"{host}:{port}"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(15)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._record], client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/asset/{name}", self._asset),
                web.get("/square.woff", self._font),
                web.get("/tone.wav", self._sound),
                web.get("/checksums", self._checksums),
                web.post("/upload", self._upload),
                web.post("/form", self._form),
                web.post("/stream/{name}", self._stream),
                web.post("/stream/{name}/{piece}", self._acknowledge),
                web.get("/endless", self._endless),
                web.get("/events", self._events),
                web.get("/echo", self._echo),
                web.get("/cookies", self._cookies),
                web.get("/redirect", self._redirect),
                web.get("/landing", self._landing),
                web.delete("/nothing", self._nothing),
                web.post("/beacon", self._beacon),
            ]
        )
        return app

    @web.middleware
    async def _record(self, request: web.Request, handler) -> web.StreamResponse:
        response = await handler(request)
        self.asked.append((request.path, response.status))
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        tags = [
            f'<link rel="stylesheet" href="/asset/{i}.css"><i id="css{i}"></i>' for i in range(KINDS["css"])
        ]
        tags += [f'<script src="/asset/{i}.js" async></script>' for i in range(KINDS["js"])]
        tags += [f'<img src="/asset/{i}.png" alt="">' for i in range(KINDS["png"])]
        text = (FOLDER / "page.html").read_text().replace("<!-- assets -->", "\n".join(tags))
        return await self._cacheable(request, text.encode(), "text/html", is_packed=True, is_chunked=True)

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        number, _, kind = name.partition(".")
        packed, chunked = int(number) % 3 == 0, int(number) % 2 == 0
        return await self._cacheable(
            request, self.assets[request.path], TYPES[kind], is_packed=packed, is_chunked=chunked
        )

    async def _font(self, request: web.Request) -> web.StreamResponse:
        body = (FOLDER / "square.woff").read_bytes()
        return await self._cacheable(request, body, "font/woff", is_packed=False, is_chunked=False)

    async def _cacheable(
        self, request: web.Request, body: bytes, kind: str, *, is_packed: bool, is_chunked: bool
    ) -> web.StreamResponse:
        """An answer that a browser keeps, but asks for again each time."""
        etag = hashlib.sha256(body).hexdigest()
        headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache", "Content-Type": kind}
        if any(one.value == etag for one in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        if is_packed:
            body = gzip.compress(body, mtime=0)
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        if not is_chunked:
            return web.Response(body=body, headers=headers)
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for start in range(0, len(body) if request.method == "GET" else 0, 5000):
            await response.write(body[start : start + 5000])
        await response.write_eof()
        return response

    async def _sound(self, request: web.Request) -> web.StreamResponse:
        self.ranges += request.headers.getall("Range", [])
        return web.FileResponse(self._tone)

    async def _checksums(self, _: web.Request) -> web.Response:
        bodies = {**self.assets, "/square.woff": (FOLDER / "square.woff").read_bytes()}
        bodies["/tone.wav"] = self._tone.read_bytes()
        return web.json_response({path: hashlib.sha256(body).hexdigest() for path, body in bodies.items()})

    async def _upload(self, request: web.Request) -> web.Response:
        digest, length = hashlib.sha256(), 0
        async for piece in request.content.iter_any():
            digest.update(piece)
            length += len(piece)
        return web.json_response({"sha256": digest.hexdigest(), "length": length})

    async def _form(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        with file.file:
            digest = hashlib.sha256(file.file.read()).hexdigest()
        return web.json_response({"sha256": digest, "name": file.filename, "text": form["text"]})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """The request's body in pieces, each sent only when the one before was acknowledged."""
        body = await request.read()
        name = request.match_info["name"]
        step = -(-len(body) // PIECES)
        acks = [self._acks.setdefault((name, piece), asyncio.Event()) for piece in range(PIECES)]
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        for piece, ack in enumerate(acks):
            await response.write(body[piece * step : (piece + 1) * step])
            await ack.wait()
        await response.write_eof()
        return response

    async def _acknowledge(self, request: web.Request) -> web.Response:
        key = request.match_info["name"], int(request.match_info["piece"])
        self._acks[key].set()
        return web.Response(status=204)

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1000))
                await asyncio.sleep(0.01)
        except ConnectionError:
            self.aborted.set()
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Four events at a time; the browser comes again for those after the last it has, and then for none."""
        first = int(request.headers.get("Last-Event-ID", "0")) + 1
        if first > EVENTS:
            return web.Response(status=204)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        await response.write(b"retry: 10\n\n")
        for number in range(first, first + 4):
            await response.write(f"id: {number}\ndata: event {number}\ndata: grün\n\n".encode())
        return response

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoclose=False, max_msg_size=1 << 24, compress=True)
        await socket.prepare(request)
        async for message in socket:
            if message.type == WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            elif message.data == "close":
                await socket.close(code=CLOSE_BY_SERVER, message=b"as you wish")
            else:
                await socket.send_str(message.data)
        await socket.close(code=socket.close_code or CLOSE_BY_SERVER, message=b"likewise")
        return socket

    async def _cookies(self, request: web.Request) -> web.Response:
        response = web.json_response(dict(request.cookies))
        response.set_cookie("first", "1")
        response.set_cookie("second", "two words; and more")
        return response

    async def _redirect(self, _: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/landing?from=redirect"})

    async def _landing(self, request: web.Request) -> web.Response:
        return web.Response(text=request.query_string)

    async def _nothing(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _beacon(self, request: web.Request) -> web.Response:
        self.beacons.append(await request.read())
        return web.Response(status=204)


def _assets() -> Iterator[tuple[str, bytes]]:
    """Path and body of each asset, of sizes from a few bytes to some hundred thousand."""
    rng = random.Random(7)
    for kind, number in KINDS.items():
        for i in range(number):
            noise = rng.randbytes(rng.choice((0, 1, 100, 4000, 60_000, 150_000)))
            yield f"/asset/{i}.{kind}", _asset_body(kind, i, noise)


def _asset_body(kind: str, i: int, noise: bytes) -> bytes:
    if kind == "js":
        return f"(window.ran ??= []).push({i}); // {noise.hex()}".encode()
    if kind == "css":
        return f"#css{i} {{ display: inline-block; width: {100 + i}px }} /* {noise.hex()} */".encode()
    if kind == "png":
        return _png(i + 1, noise)
    return noise


def _png(width: int, noise: bytes) -> bytes:
    """A grey picture of `width` by one pixel, with `noise` in a chunk that decoders skip."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(width + 1))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*each) for each in ((b"IHDR", head), (b"noIs", noise), (b"IDAT", pixels), (b"IEND", b""))
    )


def _tone() -> bytes:
    """A WAV file of `TONE_S` seconds."""
    rate = 44100
    samples = random.Random(8).randbytes(TONE_S * rate * 2)
    form = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    body = (
        b"WAVEfmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", len(samples))
        + samples
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def dump(value: object) -> str:
    """`value` as people read it."""
    return json.dumps(value, indent=1, ensure_ascii=False)
