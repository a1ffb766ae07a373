"""A proxy to a PostgreSQL server that behaves like a bad network.

``faulty_proxy.py HOST PORT SEED RATE`` prints the port of 127.0.0.1 that it
listens on; HOST may be the directory of a unix socket. Each connection is fast,
slow, or passes single bytes. RATE times a second, one of the connections has a
fault, and the proxy prints the fault's name. It ends when standard input ends.
"""

import asyncio
import contextlib
import random
import sys

# The longest pause of a connection, in seconds.
PAUSE = 0.3
# A connection passes only so many single bytes, and then all it has at once: a large
# result would take minutes.
SINGLE_BYTES = 2000


class Connection:
    def __init__(self, rng: random.Random, writers: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self.kind = rng.choices(["fast", "slow", "single bytes"], [8, 1, 1])[0]
        self.rng = rng
        self.writers = writers
        self.passes = asyncio.Event()
        self.passes.set()
        self.silent = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        singles = SINGLE_BYTES if self.kind == "single bytes" else 0
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.passes.wait()
                if self.silent:
                    continue
                if writer.is_closing():
                    break
                if self.kind == "slow":
                    await asyncio.sleep(self.rng.random() / 100)
                for i in range(min(singles, len(data))):
                    writer.write(data[i : i + 1])
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write(data[singles:])
                singles = max(0, singles - len(data))
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    async def pause(self) -> None:
        self.passes.clear()
        await asyncio.sleep(self.rng.random() * PAUSE)
        self.passes.set()

    async def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def half_close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self.rng.choice(self.writers).write_eof()

    async def drop_silently(self) -> None:
        self.silent = True


# The relative frequency of each fault.
FAULTS = {Connection.pause: 6, Connection.reset: 2, Connection.half_close: 1, Connection.drop_silently: 1}


async def main(host: str, port: str, seed: str, rate: float) -> None:
    rng = random.Random(seed)
    connections: set[Connection] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if host.startswith("/"):
                back, forth = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                back, forth = await asyncio.open_connection(host, int(port))
        except OSError:  # the server is down
            writer.transport.abort()
            return
        connection = Connection(rng, (writer, forth))
        connections.add(connection)
        await asyncio.gather(connection.carry(reader, forth), connection.carry(back, writer), return_exceptions=True)
        connections.discard(connection)
        await connection.reset()

    async def harm() -> None:
        while True:
            await asyncio.sleep(rng.expovariate(rate))
            if connections:
                (fault,) = rng.choices(list(FAULTS), list(FAULTS.values()))
                print(fault.__name__.replace("_", " "), flush=True)
                harms.add(task := asyncio.create_task(fault(rng.choice(list(connections)))))
                task.add_done_callback(harms.discard)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1000)
    harms: set[asyncio.Task[None]] = set()
    harms.add(asyncio.create_task(harm()))
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], float(sys.argv[4])))
