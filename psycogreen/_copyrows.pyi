from collections.abc import Callable
from typing import Any

def write_rows(pgconn: int, write: Callable[[Any], object] | None, codec: str | None, until: float) -> int: ...
