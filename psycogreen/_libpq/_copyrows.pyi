from collections.abc import Callable
from typing import Any

def write_rows(pgconn: int, write: Callable[[Any], object] | None, codec: str | None, until: float) -> int: ...
def read_rows(
    read: Callable[[int], Any], size: int, codec: str, enough: int, until: float
) -> tuple[bytes, bool, Exception | bytes | None]: ...
