"""A step recorded once as a CUDA graph and replayed: the device is given its few hundred small operations in one launch."""

from collections.abc import Callable, Iterable

import torch

WARM_UP = 3  # steps before the recording, in which libraries choose their kernels and the optimiser makes its state


def captured(
    step: Callable[[], None], device: torch.device, generators: Iterable[torch.Generator]
) -> Callable[[], None]:
    """`step` itself, but on a CUDA device one that records it at its call after `WARM_UP` others and replays it from then on.

    Every call is one step, the first ones too, with the numbers that `step` alone would draw: a graph that knows its
    `generators` moves them on as it is replayed. What is recorded are operations and addresses. So `step` must work in
    place on tensors that are still there later, read none of them on the host, and do the same at every call; what
    changes from call to call, such as a learning rate, must be a tensor that is filled between calls.
    """
    return _Replayed(step, device, generators) if device.type == "cuda" else step


class _Replayed:
    def __init__(
        self, step: Callable[[], None], device: torch.device, generators: Iterable[torch.Generator]
    ) -> None:
        self.step, self.calls, self.graph, self.side = (
            step,
            0,
            torch.cuda.CUDAGraph(),
            torch.cuda.Stream(device),
        )
        for generator in generators:
            self.graph.register_generator_state(generator)

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= WARM_UP:
            self._beside()
            return
        if self.calls == WARM_UP + 1:
            with torch.cuda.graph(self.graph, stream=self.side):  # which runs nothing
                self.step()
        self.graph.replay()

    def _beside(self) -> None:
        """The step as it is, on the stream of the recording, where a recording wants gradients to have been before."""
        current = torch.cuda.current_stream(self.side.device)
        self.side.wait_stream(current)
        with torch.cuda.stream(self.side):
            self.step()
        current.wait_stream(self.side)
