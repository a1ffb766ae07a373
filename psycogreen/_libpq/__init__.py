"""The libpq that psycopg2 itself loaded, through ctypes.

libpq() looks up the functions in psycopg2's extension module, and the dynamic linker
then searches the libraries with which that module is linked. So each connection goes to
the library that made it, also where psycopg2's wheel contains its own libpq.
"""

import ctypes
import functools
from ctypes import POINTER, c_char_p, c_int, c_void_p
from typing import Any

# Result and argument types. c_void_p stands for pointers to libpq's structures, and for
# strings that the caller must free.
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "PQlibVersion": (c_int, []),
    "PQstatus": (c_int, [c_void_p]),
    "PQtransactionStatus": (c_int, [c_void_p]),
    "PQerrorMessage": (c_char_p, [c_void_p]),
    "PQsendQueryParams": (
        c_int,
        [c_void_p, c_char_p, c_int, c_void_p, POINTER(c_char_p), POINTER(c_int), POINTER(c_int), c_int],
    ),
    "PQconnectStart": (c_void_p, [c_char_p]),
    "PQconninfo": (c_void_p, [c_void_p]),
    "PQconninfoFree": (None, [c_void_p]),
    "PQhost": (c_char_p, [c_void_p]),
    "PQport": (c_char_p, [c_void_p]),
    "PQfinish": (None, [c_void_p]),
    "PQflush": (c_int, [c_void_p]),
    "PQsetnonblocking": (c_int, [c_void_p, c_int]),
    "PQisBusy": (c_int, [c_void_p]),
    "PQconsumeInput": (c_int, [c_void_p]),
    "PQgetResult": (c_void_p, [c_void_p]),
    "PQresultStatus": (c_int, [c_void_p]),
    "PQgetvalue": (c_void_p, [c_void_p, c_int, c_int]),
    "PQgetlength": (c_int, [c_void_p, c_int, c_int]),
    "PQclear": (None, [c_void_p]),
    "PQfreemem": (None, [c_void_p]),
    "PQputCopyData": (c_int, [c_void_p, c_char_p, c_int]),
    "PQputCopyEnd": (c_int, [c_void_p, c_char_p]),
    "PQgetCopyData": (c_int, [c_void_p, POINTER(c_void_p), c_int]),
}


@functools.cache
def libpq() -> ctypes.PyDLL:
    """Return psycopg2's libpq. Its functions keep the GIL.

    Call only functions that do not block: green connections are in libpq's non-blocking
    mode. Read ``connection.pgconn_ptr``, the ``PGconn *``, anew for each call: it is None
    once the connection is closed.

    Raises:
        psycopg2.NotSupportedError: The functions can't be reached: psycopg2 is linked
            statically with libpq, or the platform's linker does not search the
            libraries of a library.
    """
    import psycopg2
    from psycopg2 import extensions

    try:
        path = psycopg2._psycopg.__file__
        library = ctypes.PyDLL(path)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        if library.PQlibVersion() != extensions.libpq_version():
            raise OSError(f"{path} uses libpq {extensions.libpq_version()}, but {library.PQlibVersion()} was found")
    except (AttributeError, OSError) as exc:
        raise psycopg2.NotSupportedError(
            f"the libpq inside psycopg2 can't be reached ({exc}): install a psycopg2 that loads libpq as a shared"
            " library, as psycopg2-binary does on Linux and macOS"
        ) from exc
    return library
