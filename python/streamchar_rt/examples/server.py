"""Characters over HTTP: /?text=Hello streams packets of kind (A: sound, V: JPEG, W: word), size, time and data."""
from __future__ import annotations

import argparse
import asyncio
import io
import struct
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs, quote, urlsplit
from urllib.request import urlopen

from PIL import Image

from .. import Chunk, Engine
from . import run


def packets(chunk: Chunk) -> Iterator[bytes]:
    parts = [(b"A", chunk.pts, (chunk.audio * 32767).astype("<i2").tobytes())]
    parts += [(b"W", word.begin_pts, word.text.encode(errors="replace")) for word in chunk.words]
    for frame in chunk.frames():
        Image.fromarray(frame.pixels).save(picture := io.BytesIO(), "JPEG")
        parts.append((b"V", frame.pts, picture.getvalue()))
    return (kind + struct.pack(">IQ", len(data), pts) + data for kind, pts, data in parts)


async def serve(engine: Engine, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split()
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    with engine.session(engine.characters()[0], threading="background", pixel_format="rgb") as session:
        session.say(parse_qs(urlsplit(request[1]).query).get("text", ["There is no text."])[0])
        async for chunk in session:
            writer.writelines(packets(chunk))
            await writer.drain()  # a slow listener slows the session, and nothing else
            if chunk.end_of_turn:
                break
    writer.close()


async def listen(engine: Engine, options: argparse.Namespace) -> None:
    server = await asyncio.start_server(lambda *streams: serve(engine, *streams), "127.0.0.1", options.port)
    address = "http://{}:{}/?text=".format(*server.sockets[0].getsockname())
    print(address + "Hello", flush=True)
    if not options.headless:
        await server.serve_forever()
    print(len(await asyncio.to_thread(lambda: urlopen(address + quote(options.headless)).read())), "bytes came")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Characters over HTTP.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--headless", metavar="TEXT", help="ask for TEXT once, and end")
    options = parser.parse_args(arguments)
    with Engine.load(max_sessions=4) as engine:
        asyncio.run(listen(engine, options))


if __name__ == "__main__":
    run(main)
