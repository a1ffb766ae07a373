"""Copies 100 MB "in" or "out", as the argument says; prints by how many kB the process grew at its peak."""

import re
import sys
from pathlib import Path

import psycopg2
from unpatched import DSN

ROW = b"1" * 79 + b"\n"
CHUNK = ROW * 1024


class File:
    def __init__(self, megabytes):
        self.left = megabytes * 1_000_000 // len(CHUNK)

    def read(self, size):
        self.left -= 1
        return b"" if self.left < 0 else CHUNK

    def write(self, data):
        pass


def peak():  # getrusage() would count the parent's memory before exec()
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def copy(megabytes):
    if sys.argv[1] == "in":
        cursor.copy_expert("COPY t FROM STDIN WHERE false", File(megabytes))
    else:
        rows = f"generate_series(1, {megabytes * 12500})"
        cursor.copy_expert(f"COPY (SELECT repeat('1', 79) FROM {rows}) TO STDOUT", File(megabytes))


connection = psycopg2.connect(DSN)
cursor = connection.cursor()
cursor.execute("CREATE TEMPORARY TABLE t (line text)")
copy(1)
before = peak()
copy(100)
print(peak() - before)
