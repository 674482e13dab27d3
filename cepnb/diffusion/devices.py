"""Devices by name, and training steps replayed as CUDA graphs.

torch is imported by the functions, so that commands refuse a wrong name at once.
"""

from collections.abc import Callable

from cepnb.errors import CepnbError

DEVICES = ("cpu", "cuda")
WARM_UP = 3  # steps before recording: libraries choose kernels, and Adam allocates its state


def check_device(name: str) -> None:
    """Raise `CepnbError` unless `name` is one of `DEVICES`."""
    if name not in DEVICES:
        raise CepnbError(f"--device {name}: use {' or '.join(DEVICES)}")


def device_named(name: str) -> "torch.device":
    """Return the device "cpu" or "cuda" (the current GPU); raise `CepnbError` if it is missing."""
    check_device(name)
    import torch

    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        version = torch.__version__
        raise CepnbError(f"--device cuda: torch {version} finds no GPU; use --device cpu")
    return torch.device(name, torch.cuda.current_device())


def captured(
    step: Callable[[], None], device: "torch.device", generator: "torch.Generator"
) -> Callable[[], None]:
    """Return a faster equivalent of `step` on a CUDA device, and `step` itself on any other device.

    After `WARM_UP` ordinary calls, `step` is recorded as a CUDA graph and replayed: one launch
    replaces several hundred. `step` must run the same operations at every call, in place on tensors
    that stay allocated, and read no values on the host. The caller fills tensors that change.
    """
    if device.type != "cuda":
        return step
    import torch

    graph, stream, calls = torch.cuda.CUDAGraph(), torch.cuda.Stream(device), 0
    graph.register_generator_state(generator)

    def replayed() -> None:
        nonlocal calls
        calls += 1
        if calls <= WARM_UP:  # on the recording's stream, where gradients must first be created
            current = torch.cuda.current_stream(device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                step()
            current.wait_stream(stream)
            return
        if calls == WARM_UP + 1:
            with torch.cuda.graph(graph, stream=stream):  # records, runs nothing
                step()
        graph.replay()

    return replayed
