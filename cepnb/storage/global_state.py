"""Slow imports that leave the process as it was: some libraries change global state at import."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Restore global state after the imports inside the block.

    Restored: environment variables, `sys.path`, warnings filters, and the global random states of
    Python and numpy.
    """
    import numpy as np  # here: commands check their arguments without it

    variables, search_path = dict(os.environ), sys.path[:]
    python_random, numpy_random = random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        sys.path[:] = search_path
        random.setstate(python_random)
        np.random.set_state(numpy_random)
