"""Test that a channel finds a reply whose announcement another use of the socket consumed."""

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from queue import Empty

import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from cepnb.tools.book import execution
from cepnb.tools.book.execution import PollingChannel


@pytest.fixture(autouse=True)
def fast_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "POLL_SECONDS", 0.2)


def run(coroutine: Coroutine) -> object:
    """Run a coroutine in a new thread, because a browser's event loop may run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def channel_and_kernel(context: zmq.asyncio.Context) -> tuple[PollingChannel, zmq.Socket]:
    """Return a channel and the kernel's end of its socket."""
    kernel = zmq.Socket.shadow(context.socket(zmq.DEALER))
    port = kernel.bind_to_random_port("tcp://127.0.0.1")
    socket = context.socket(zmq.DEALER)
    socket.connect(f"tcp://127.0.0.1:{port}")
    return PollingChannel(socket, Session(key=b"key")), kernel


def test_a_reply_is_found_after_its_announcement_was_consumed() -> None:
    async def receive() -> dict:
        context = zmq.asyncio.Context()
        channel, kernel = channel_and_kernel(context)
        try:
            reply = asyncio.ensure_future(channel.get_msg())
            await asyncio.sleep(0.1)  # connect and start to wait
            channel.session.send(kernel, "execute_reply", {"status": "ok"})
            time.sleep(0.1)  # block the event loop while the reply arrives
            zmq.Socket.shadow(channel.socket.underlying).get(zmq.EVENTS)  # as sending does
            return await asyncio.wait_for(reply, 20)
        finally:
            context.destroy(linger=0)

    assert run(receive())["content"] == {"status": "ok"}


@pytest.mark.parametrize("timeout", [0, 0.1, 0.3])  # none, below and above the polling interval
def test_a_silent_socket_times_out(timeout: float) -> None:
    async def wait() -> float:
        context = zmq.asyncio.Context()
        channel, _ = channel_and_kernel(context)
        start = time.monotonic()
        try:
            with pytest.raises(Empty):
                await channel.get_msg(timeout)
            return time.monotonic() - start
        finally:
            context.destroy(linger=0)

    assert timeout - 0.01 <= run(wait()) < timeout + 5
