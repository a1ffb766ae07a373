"""A TCP proxy on 127.0.0.1 in a process of its own: SIGSTOP cuts the network.

``python tests/proxy.py HOST PORT`` prints the port it listens on; HOST may be
the directory of a unix socket. It ends with its standard input.
"""

import asyncio
import sys


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def main(host: str, port: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            to_reader, to_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            to_reader, to_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))

    # A short backlog: it is full soon when the process is stopped.
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=3)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(*sys.argv[1:]))
