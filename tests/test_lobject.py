"""Large objects on green connections do what psycopg2's do without a wait callback."""

import random
import re

import psycopg2
import pytest
from psycopg2 import extensions

from psycogreen._psycopg2.large_objects import CHUNK

UNUSED = 4_000_000_000  # the identifier of no object


class Log:
    """The results, errors and states that a series of calls shows to a user."""

    def __init__(self, connection):
        self.connection = connection
        self.seen = []

    def __call__(self, label, fn, *args, **kwargs):
        """Call *fn* and log its result or error; return the result."""
        try:
            result = fn(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001
            self.note(label, type(exc), text(exc), getattr(exc, "pgcode", ""), getattr(exc, "pgerror", ""))
            return None
        self.note(label, "object" if isinstance(result, extensions.lobject) else result)
        return result

    def note(self, *seen):
        connection = self.connection
        transaction = connection.closed or connection.info.transaction_status
        self.seen.append((*seen, connection.closed, connection.status, transaction))


def text(exc):
    """Return the message of *exc*; those that Python writes are replaced."""
    message = str(exc)
    if isinstance(exc, TypeError) and re.search(r"positional|keyword|takes|callable", message):
        return "wrong number of arguments"  # Python's wording, not psycopg2's
    return re.sub(r"large object \d+", "large object N", message)


@pytest.fixture
def compare(both_ways):
    """Run *scenario* with a log and a connection, blocking and green; the logs must be equal."""

    def compare(scenario, **kwargs):
        def run(connection):
            log = Log(connection)
            scenario(log, connection)
            if not connection.closed:
                log("rollback", connection.rollback)
            return log.seen

        got = both_ways(run, **kwargs)
        assert len(got) > 1
        return got

    return compare


def state(log, lobject):
    log.note("state", lobject.mode, lobject.closed, lobject.oid > 0)


@pytest.mark.parametrize("mode", ["", None, "r", "w", "rw", "n", "rb", "wb", "rwb", "nb", "nt", "t", "b", "rt", "rwt"])
def test_modes_do_as_blocking(compare, mode):
    def scenario(log, connection):
        new = log("new", connection.lobject, 0, mode)
        state(log, new)
        log("write", new.write, b"some data")
        log("seek", new.seek, 0)
        log("read", new.read, 4)
        log("close", new.close)
        state(log, new)
        old = log("old", connection.lobject, new.oid, mode)
        state(log, old)
        log("read", old.read)
        connection.rollback()
        log("gone", connection.lobject, new.oid, mode)

    compare(scenario)


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_writing_an_object_opened_for_reading_raises_as_blocking(compare, mode):
    def scenario(log, connection):
        new = connection.lobject()  # a reference, or psycopg2 closes the object
        log("write", log("open", connection.lobject, new.oid, mode).write, b"x")
        log("then", connection.lobject)
        connection.rollback()
        new = connection.lobject()
        log("truncate", connection.lobject(new.oid, mode).truncate)

    compare(scenario)


BAD_ARGUMENTS = {
    "mode": [(0, "x"), (0, "rr"), (0, "wr"), (0, "rwx"), (0, "bt"), (0, "r\n"), (0, "rb "), (0, 5), (0, b"r")],
    "encoding of the mode": [(0, "a\0"), (0, "\udcff"), (0, "ü")],
    "oid": [("x",), (1.5,), (None,), (UNUSED,), (2**32 + UNUSED,), (UNUSED - 2**32,), (0, "", "x"), (0, "", None)],
    "file": [(0, "", 0, 5), (0, "", 0, b"x"), (0, "", 0, "a\0"), (0, "", 0, "\udcff"), (0, "", 0, "")],
    "factory": [(0, "", 0, None, f) for f in (int, 5, None, object, lambda *args: args, lambda: None)],
    "too many": [(1, 2, 3, 4, 5, 6)],
}


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_bad_arguments_raise_as_blocking(compare, kind):
    def scenario(log, connection):
        connection.lobject()  # libpq looks up the server's functions at its first call, which fails differently
        for arguments in BAD_ARGUMENTS[kind]:
            if kind == "factory":
                with pytest.raises(TypeError) as raised:
                    connection.lobject(*arguments)
                log.note(arguments, raised.type)
            else:
                log(arguments, connection.lobject, *arguments)
            connection.rollback()
        log("keyword", connection.lobject, nix=1)

    compare(scenario)


def test_bad_arguments_of_methods_raise_as_blocking(compare):
    class Number:
        def __index__(self):
            return 3

    number = Number()

    def scenario(log, connection):
        lobject = connection.lobject()
        lobject.write(b"some data")
        for arguments in [
            ("x",), (None,), (1.5,), (10**30,), (-(10**30),), (1, 2, 3), (), (number,),
            (1, 2**40), (1, -(2**40)), (1, "x"), (1, None),
        ]:  # fmt: skip
            log(("seek", arguments), lobject.seek, *arguments)
            log(("tell", arguments), lobject.tell)
        for arguments in [("x",), (None,), (1.5,), (10**30,), (1, 2), (number,), (0,)]:
            lobject.seek(0)
            log(("read", arguments), lobject.read, *arguments)
        for arguments in [("x",), (None,), (1.5,), (10**30,), (1, 2), (number,)]:
            log(("truncate", arguments), lobject.truncate, *arguments)
        for arguments in [(), (b"a", b"b"), (None,), (5,), (bytearray(b"x"),), (memoryview(b"x"),), (b"",), ("",)]:
            log(("write", arguments and type(arguments[0])), lobject.write, *arguments)
        for arguments in [(), (b"x",), (None,), (5,), ("a\0",), ("\udcff",), ("a", "b")]:
            log(("export", arguments), lobject.export, *arguments)
        for name in "close", "tell", "unlink":
            log(name, getattr(lobject, name), 1)
        log("size=", lobject.read, size=1)
        for name in "mode", "oid", "closed":
            with pytest.raises(AttributeError):
                setattr(lobject, name, 1)
        for name in "__enter__", "__iter__", "readline", "flush":
            log.note(name, hasattr(lobject, name))

    compare(scenario)


@pytest.mark.parametrize(
    ("method", "arguments"), [("seek", (-5,)), ("seek", (0, 9)), ("seek", (-1, 2)), ("truncate", (-1,))]
)
def test_errors_of_the_server_raise_as_blocking(compare, method, arguments):
    def scenario(log, connection):
        lobject = connection.lobject()
        log(method, getattr(lobject, method), *arguments)
        for name in "tell", "read", "close", "unlink":
            log(("then", name), getattr(lobject, name))
        state(log, lobject)

    compare(scenario)


METHODS = {
    "read": (),
    "write": (b"x",),
    "seek": (0,),
    "tell": (),
    "truncate": (),
    "close": (),
    "export": ("/nonexistent/file",),
    "unlink": (),
}


def ended(connection):
    """Return a large object whose transaction has been committed."""
    lobject = connection.lobject()
    connection.commit()
    return lobject


def finished(how):
    def make(connection):
        lobject = connection.lobject()
        how(connection)
        return lobject

    return make


def autocommitting(connection):
    connection.commit()
    connection.autocommit = True


def of_a_savepoint(connection):
    with connection.cursor() as cursor:
        cursor.execute("SAVEPOINT s")
        lobject = connection.lobject()
        cursor.execute("ROLLBACK TO s")
    return lobject


def closed(connection):
    lobject = connection.lobject()
    lobject.close()
    return lobject


def unlinked(connection):
    lobject = connection.lobject()
    lobject.unlink()
    return lobject


def not_opened(connection):
    return connection.lobject(connection.lobject().oid, "n")


def terminate(connection):
    pid = connection.info.backend_pid
    other = psycopg2.connect(connection.dsn)
    with other, other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    other.close()


STATES = {
    "closed": closed,
    "unlinked": unlinked,
    "mode n": not_opened,
    "committed": ended,
    "rolled back": finished(lambda c: c.rollback()),
    "reset": finished(lambda c: c.reset()),
    "encoding set": finished(lambda c: c.set_client_encoding("LATIN1")),
    "isolation level set": finished(lambda c: c.set_isolation_level(2)),
    "another transaction": finished(lambda c: (c.commit(), c.cursor().execute("SELECT 1"))),
    "autocommit": finished(autocommitting),
    "savepoint": of_a_savepoint,
    "aborted": finished(lambda c: pytest.raises(psycopg2.Error, c.cursor().execute, "nix")),
    "terminated": finished(terminate),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("which", STATES)
def test_methods_in_all_states_do_as_blocking(compare, which, method):
    def scenario(log, connection):
        lobject = STATES[which](connection)
        log(method, getattr(lobject, method), *METHODS[method])
        log.note(lobject.closed, lobject.mode)
        log("then", lobject.close)
        log("again", getattr(lobject, method), *METHODS[method])

    if which == "terminated" and method in ("export", "unlink", "close"):
        pytest.skip("libpq has other words here: see test_methods_of_a_terminated_connection_raise_as_blocking")
    compare(scenario)


@pytest.mark.parametrize("method", ["export", "unlink", "close"])
def test_methods_of_a_terminated_connection_raise_as_blocking(compare, method):
    def scenario(log, connection):
        lobject = connection.lobject()
        terminate(connection)
        for attempt in range(2):
            try:
                getattr(lobject, method)(*METHODS[method])
            except psycopg2.Error as exc:
                log.note(attempt, type(exc), exc.pgcode, lobject.closed)
            else:
                log.note(attempt, lobject.closed)

    compare(scenario)


@pytest.mark.parametrize("method", METHODS)
def test_methods_of_a_closed_connection_raise_as_blocking(connect, blocking_dsn_connect, method):
    def seen(connection):
        lobject = connection.lobject()
        connection.close()
        log = Log(connection)
        log.note = lambda *what: log.seen.append(what)
        log(method, getattr(lobject, method), *METHODS[method])
        log("lobject", connection.lobject)
        return [*log.seen, lobject.closed, bool(connection.closed)]

    with blocking_dsn_connect() as connection:
        expected = seen(connection)
    assert seen(connect()) == expected


def test_lobject_on_a_terminated_connection_raises_as_blocking(connect, blocking_dsn_connect):
    def seen(connection, begin):
        if begin:
            connection.cursor().execute("SELECT 1")
        terminate(connection)
        with pytest.raises(psycopg2.OperationalError) as raised:
            connection.lobject()
        return type(raised.value), connection.closed

    for begin in False, True:
        with blocking_dsn_connect() as connection:
            expected = seen(connection, begin)
        assert seen(connect(), begin) == expected


def test_autocommit_raises_as_blocking(compare):
    def scenario(log, connection):
        connection.autocommit = True
        log("new", connection.lobject)
        log("bad mode", connection.lobject, 0, "x")
        log("file", connection.lobject, 0, "", 0, "/nonexistent/file")

    compare(scenario)


def test_a_call_begins_a_transaction_as_blocking(compare):
    def scenario(log, connection):
        connection.set_session(isolation_level="SERIALIZABLE", readonly=True)
        log("read only", connection.lobject)
        with connection.cursor() as cursor:
            log("aborted", cursor.execute, "SHOW transaction_isolation")
        connection.rollback()
        log("missing", connection.lobject, UNUSED)
        connection.rollback()
        log("isolation", lambda: isolation(connection))

    def isolation(connection):
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            return cursor.fetchone()

    compare(scenario)


def test_a_prepared_transaction_raises_as_blocking(connect, blocking_dsn_connect):
    def seen(connection):
        connection.tpc_begin("test_lobject")
        lobject = connection.lobject()
        connection.tpc_prepare()
        log = Log(connection)
        try:
            log("new", connection.lobject)
            log("read", lobject.read)
            log("close", lobject.close)
        finally:
            connection.tpc_rollback()
        log("rolled back", lobject.read)
        return log.seen

    with blocking_dsn_connect() as connection:
        with connection.cursor() as cursor:
            cursor.execute("SHOW max_prepared_transactions")
            if cursor.fetchone() == ("0",):
                pytest.skip("the server has max_prepared_transactions = 0")
        connection.rollback()
        expected = seen(connection)
    assert seen(connect()) == expected


def test_positions_over_two_gigabytes_are_as_blocking(compare):
    def scenario(log, connection):
        lobject = connection.lobject(0, "wb")
        log("truncate", lobject.truncate, 3 << 30)
        for arguments in [(3 << 30,), (-1, 2), (-(2 << 30), 1), (1 << 40,), (-(2**63),), (2**63 - 1,)]:
            log(("seek", arguments), lobject.seek, *arguments)
            log("tell", lobject.tell)

    compare(scenario)


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["t", "b"])
def test_data_of_all_sizes_is_as_blocking(compare, size, kind):
    data = random.Random(size).randbytes(size) if kind == "b" else ("aü€𝄞" * size)[:size]

    def scenario(log, connection):
        lobject = connection.lobject(0, "rw" + kind)
        log("write", lobject.write, data)
        log("tell", lobject.tell)
        if size:
            with pytest.raises(psycopg2.OperationalError):
                connection.lobject(UNUSED)
            connection.rollback()
            lobject = connection.lobject(0, "rw" + kind)
            lobject.write(data)
        lobject.seek(0)
        log("all", lobject.read)
        log("end", lobject.read)
        for wanted in [*SIZES, 10 * CHUNK]:
            lobject.seek(0)
            log(wanted, lobject.read, wanted)
            log("tell", lobject.tell)

    compare(scenario)


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1", "EUC_JP", "SJIS", "WIN1251", "SQL_ASCII", "GB18030"])
@pytest.mark.parametrize(
    "sample", ["ascii", "déjà", "日本語", "Привет", "\ud800", "é" * CHUNK + "日本" * CHUNK, "x" * CHUNK * 2 + "\ud800"]
)
def test_encodings_are_as_blocking(compare, encoding, sample):
    def scenario(log, connection):
        connection.set_client_encoding(encoding)
        lobject = connection.lobject()
        log("write", lobject.write, sample)
        log("tell", lobject.tell)
        lobject.write(b"plain")
        lobject.seek(0)
        log("read", lobject.read)
        lobject.seek(1)
        log("from the middle", lobject.read, 1)
        lobject.seek(1)
        log("from the middle", lobject.read)
        log("tell", lobject.tell)

    compare(scenario)


@pytest.mark.parametrize("where", [0, 100, CHUNK - 1, CHUNK, 2 * CHUNK + 3, 3 * CHUNK - 1])
def test_undecodable_data_raises_as_blocking(compare, where):
    def scenario(log, connection):
        lobject = connection.lobject(0, "wt")
        data = bytearray(b"abc" * CHUNK)
        data[where] = 0xE2  # begins a character of three bytes
        lobject.write(bytes(data))
        for size in -1, where, where + 1, 3 * CHUNK:
            lobject.seek(0)
            log(size, lobject.read, size)
            log("tell", lobject.tell)

    seen = compare(scenario)
    assert seen[0][1] is UnicodeDecodeError


@pytest.mark.parametrize("seed", range(20))
def test_random_calls_do_as_blocking(compare, seed):
    def scenario(log, connection):
        chance = random.Random(seed)
        objects = [connection.lobject(0, chance.choice(["rwb", "w", "wb"]))]
        for step in range(40):
            lobject = chance.choice(objects)
            match chance.choice(["read", "read", "write", "write", "seek", "tell", "truncate", "open", "close"]):
                case "read":
                    log((step, "read"), lobject.read, chance.choice([0, 1, 10, 5000, 2 * CHUNK]))
                case "write":
                    log((step, "write"), lobject.write, b"%05d" % step * chance.choice([0, 1, 3, 5000, CHUNK // 3]))
                case "seek":
                    log((step, "seek"), lobject.seek, chance.choice([0, 1, 4000, CHUNK]), chance.choice([0, 0, 1]))
                case "tell":
                    log((step, "tell"), lobject.tell)
                case "truncate":
                    log((step, "truncate"), lobject.truncate, chance.choice([0, 5, 70000]))
                case "open":
                    objects.append(connection.lobject(lobject.oid, chance.choice(["rb", "rwb", "n"])))
                case "close":
                    log((step, "close"), lobject.close)
            if connection.info.transaction_status == extensions.TRANSACTION_STATUS_INERROR:
                break

    compare(scenario)


@pytest.mark.parametrize("size", [0, 10, CHUNK, 2 * CHUNK + 7])
def test_import_and_export_do_as_blocking(compare, tmp_path, size):
    data = random.Random(size).randbytes(size)
    (tmp_path / "in ü").write_bytes(data)

    def scenario(log, connection):
        out = tmp_path / "out ü"
        out.unlink(missing_ok=True)
        lobject = log("import", connection.lobject, 0, "rb", UNUSED, str(tmp_path / "in ü"))
        log.note(lobject.oid == UNUSED)  # psycopg2 does not use new_oid then
        state(log, lobject)
        log("tell", lobject.tell)
        log("read", lobject.read)
        log("export", lobject.export, str(out))
        log.note(out.read_bytes() == data, oct(out.stat().st_mode))
        log("tell", lobject.tell)
        lobject.close()
        connection.commit()
        out.write_bytes(b"x" * 3 * CHUNK)
        log("export again", lobject.export, str(out))
        log.note(out.read_bytes() == data)
        log("unlink", lobject.unlink)
        log("export what is gone", lobject.export, str(out))

    compare(scenario)


@pytest.mark.parametrize("name", ["nonexistent/file", "directory", ""])
def test_files_that_fail_raise_as_blocking(compare, tmp_path, name):
    (tmp_path / "directory").mkdir()
    path = str(tmp_path / name) if name else name

    def scenario(log, connection):
        lobject = connection.lobject()
        log("import", connection.lobject, new_file=path)
        log("export", lobject.export, path)
        # The failed call left the transaction usable.
        log.note(connection.cursor().execute("SAVEPOINT s"))
        for descriptor in 1, 2, 3:
            with pytest.raises(psycopg2.errors.UndefinedObject), connection.cursor() as cursor:
                cursor.execute("SELECT lo_close(%s)", (descriptor,))
            connection.cursor().execute("ROLLBACK TO s")
        log("write", lobject.write, b"x")

    compare(scenario)


def test_a_full_disk_raises_as_blocking(compare):
    def scenario(log, connection):
        lobject = connection.lobject()
        lobject.write(b"x" * CHUNK)
        log("export", lobject.export, "/dev/full")
        log("tell", lobject.tell)

    compare(scenario)
