"""A kernel whose replies are not missed: `nbclient` can wait for ever for one that has long come."""

import math
from queue import Empty
from time import monotonic

from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import AsyncZMQSocketChannel
from traitlets import Type

LOOK = 1.0  # seconds between two looks at a socket that has said nothing


class LookingChannel(AsyncZMQSocketChannel):
    """Waits for a message and looks for it once in a while, too.

    A ZeroMQ socket says once that something has come, to whoever uses it next. While `nbclient` waits for the reply of a cell,
    it also sends what an `Output` widget shows (that of `interact`) through the same socket. A reply that comes just then is
    announced to the sending and not to the waiting, and would be found only with the next message, of which there is none.
    """

    async def get_msg(self, timeout: float | None = None) -> dict:
        """The next message; `timeout` in seconds, None for no limit. Raises `queue.Empty` where none has come."""
        end = math.inf if timeout is None else monotonic() + timeout
        while True:
            left = max(end - monotonic(), 0)
            try:
                return await super().get_msg(min(LOOK, left))
            except Empty:
                if left <= LOOK:
                    raise


class _LookingClient(AsyncKernelClient):
    shell_channel_class = Type(LookingChannel)


class LookingManager(AsyncKernelManager):
    """Of kernels whose replies come by a `LookingChannel`."""

    client_factory = Type(_LookingClient)
