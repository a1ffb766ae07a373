# cython: language_level=3
"""Moving the rows of a COPY between libpq and a file, compiled.

This module is not linked with libpq. It calls the functions of the libpq that psycopg2
loaded.
"""

import ctypes
import time

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_Decode
from libc.stdint cimport uintptr_t

from psycogreen._libpq import libpq

ctypedef int (*GetCopyData)(void *, char **, int) noexcept
ctypedef void (*FreeMem)(void *) noexcept

cdef enum:
    # Rows between two looks at the clock.
    STRIDE = 16

cdef GetCopyData get_copy_data = NULL
cdef FreeMem free_mem = NULL

cdef object clock = time.perf_counter


cdef uintptr_t address(function) except 0:
    return ctypes.cast(function, ctypes.c_void_p).value


cdef int load() except -1:
    global get_copy_data, free_mem
    functions = libpq()
    free_mem = <FreeMem>address(functions.PQfreemem)
    get_copy_data = <GetCopyData>address(functions.PQgetCopyData)
    return 0


def write_rows(uintptr_t pgconn, write, codec, double until):
    """Call *write* for each row that libpq holds; see ``_copyrows_py.py``."""
    cdef char *row = NULL
    cdef int length
    cdef int rows = 0
    cdef bytes encoding = None if codec is None else codec.encode()
    cdef const char *name = NULL
    if encoding is not None:
        name = encoding
    if get_copy_data == NULL:
        load()
    while True:
        length = get_copy_data(<void *>pgconn, &row, 1)
        if length <= 0:
            return length
        try:
            if write is None:
                data = None
            elif name == NULL:
                data = PyBytes_FromStringAndSize(row, length)
            else:
                data = PyUnicode_Decode(row, length, name, NULL)
        finally:
            free_mem(row)
        if data is not None:
            write(data)
        rows += 1
        if rows % STRIDE == 0 and <double>clock() > until:
            return 1


def read_rows(read, size, codec, Py_ssize_t enough, double until):
    """Collect what *read* returns; see ``_copyrows_py.py``."""
    cdef list pieces = []
    cdef Py_ssize_t length = 0
    cdef bint ended = True
    failure = None
    try:
        while True:
            piece = read(size)
            if isinstance(piece, str):
                piece = piece.encode(codec)
            if not isinstance(piece, bytes):
                failure = b"error in .read() call"
                break
            if not <bytes>piece:
                break
            pieces.append(piece)
            length += len(<bytes>piece)
            if length >= enough or (len(pieces) % STRIDE == 0 and <double>clock() > until):
                ended = False
                break
    except Exception as exc:
        failure = exc
    return b"".join(pieces), ended, failure
