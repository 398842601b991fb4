"""Pass TCP connections on to a service: ``relay.py PORT HOST PORT``.

Swarm publishes ports on every address of a node. This runs in a container beside the service, whose port the engine
publishes on one address only. The service's name is looked up anew for each connection, since its task may move.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

CHUNK = 2**16  # bytes that are read at once
CONNECT_TIMEOUT = 10  # seconds


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and hand the end on: HTTP and websockets may close one direction first."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """Serve one connection; where the service does not answer, or either side breaks off, it is closed."""
    with suppress(OSError):
        there = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_TIMEOUT)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(copy(reader, there[1]))
                both.create_task(copy(there[0], writer))
        except* OSError:
            pass
        finally:
            there[1].close()
    writer.close()


async def serve(listen: int, host: str, port: int) -> None:
    """Listen until the process is ended."""
    server = await asyncio.start_server(lambda reader, writer: relay(reader, writer, host, port), port=listen)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
