"""Forward TCP connections to a service: ``relay.py PORT HOST PORT``.

Swarm publishes ports on every address of a node. This program runs in a separate container, whose port the engine
publishes on one address only. The service's name is resolved for each connection, since its task may move.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

CHUNK = 2**16  # bytes to read at once
CONNECT_TIMEOUT = 10  # seconds
CONNECTIONS = 1000  # at once; more are closed, so that neither this process nor the engine runs out of file descriptors


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end and pass the end on: HTTP and websockets may close one direction first."""
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    """Serve one connection; close it if the service does not answer or either side fails."""
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
    """Listen until the process ends."""
    running: set[asyncio.Task[None]] = set()  # asyncio holds only weak references to tasks

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(running) >= CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(relay(reader, writer, host, port))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, port=listen)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
