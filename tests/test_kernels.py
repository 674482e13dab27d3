"""A reply that was announced to somebody else is found none the less."""

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from queue import Empty

import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from cepnb.tools.book.kernels import LOOK, LookingChannel


def run(coroutine: Coroutine) -> object:
    """Its result, from a thread of its own: in that of the tests a browser's loop may be running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def channel_and_kernel(context: zmq.asyncio.Context) -> tuple[LookingChannel, zmq.Socket]:
    """A channel, and the socket that it is connected to."""
    kernel = zmq.Socket.shadow(context.socket(zmq.DEALER))
    port = kernel.bind_to_random_port("tcp://127.0.0.1")
    socket = context.socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{port}")
    return LookingChannel(socket, Session(key=b"key")), kernel


def test_a_reply_is_found_whose_announcement_another_use_of_the_socket_has_taken() -> None:
    async def lost() -> dict:
        context = zmq.asyncio.Context()
        channel, kernel = channel_and_kernel(context)
        try:
            waiting = asyncio.ensure_future(channel.get_msg())
            await asyncio.sleep(0.3)  # connected, and waiting
            channel.session.send(kernel, "execute_reply", {"status": "ok"})
            time.sleep(0.3)  # the loop stands still while the reply comes
            zmq.Socket.shadow(channel.socket.underlying).get(zmq.EVENTS)  # as any sending does
            return await asyncio.wait_for(waiting, 20 * LOOK)
        finally:
            context.destroy(linger=0)

    assert run(lost())["content"] == {"status": "ok"}


@pytest.mark.parametrize("timeout", [0, 0.2, 1.5 * LOOK])
def test_a_silent_socket_is_left_after_its_time(timeout: float) -> None:
    async def silent() -> float:
        context = zmq.asyncio.Context()
        channel, _ = channel_and_kernel(context)
        begun = time.monotonic()
        try:
            with pytest.raises(Empty):
                await channel.get_msg(timeout)
            return time.monotonic() - begun
        finally:
            context.destroy(linger=0)

    assert timeout - 0.01 <= run(silent()) < timeout + 5
