"""What is set in the process around a call, kept out of its numbers and put back after it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def steady(*, grad: bool = False) -> Iterator[None]:
    """Compute as in a fresh process, whatever was set in this one.

    Autocast and inference mode are off inside, the default device is the CPU and the default dtype
    float32; all of it comes back after.

    Args:
        grad: Whether gradients are taken inside.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        if torch.is_grad_enabled() != grad:
            stack.enter_context(torch.set_grad_enabled(grad))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in autocast_devices():
            stack.enter_context(torch.autocast(device, enabled=False))
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


def autocast_devices() -> list[str]:
    """Return the kinds of device on which autocast is on."""
    return [device for device in _DEVICES if torch.is_autocast_enabled(device)]
