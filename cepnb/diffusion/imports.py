"""Slow imports that leave the process as it was: some libraries change global state at import."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Restore environment variables and warnings filters after the imports inside the block."""
    before = dict(os.environ)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() | before.keys():
            if name not in before:
                del os.environ[name]
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]
