"""Whether anybody but autograd holds a gradient, which then must not be changed."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor


def holders(tensor: Tensor) -> tuple[int, ...] | None:
    """How many hold the tensor, its memory and the Python objects of both; None if unknown."""
    # Older versions of PyTorch do not say.
    if not hasattr(tensor, "_use_count"):
        return None
    storage = tensor.untyped_storage()
    # Memory that is not PyTorch's own (NumPy's, say) may have holders that nothing here counts.
    if not storage.resizable():
        return None
    in_memory = torch._C._storage_Use_Count(storage._cdata)
    return tensor._use_count(), in_memory, sys.getrefcount(storage), sys.getrefcount(tensor)


class _Held(torch.autograd.Function):
    """Appends to ``counts`` what :func:`holders` counts in a backward function."""

    @staticmethod
    def forward(ctx, output: Tensor, counts: list) -> Tensor:
        ctx.counts = counts
        return output.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.counts.append(holders(gradient))
        return gradient, None


# Read off an example, since the versions of Python and PyTorch count differently.
@lru_cache(maxsize=1)
def holders_of_free_gradient() -> tuple[int, ...]:
    """:func:`holders` of a gradient that nobody but autograd holds."""
    counts = []

    def differentiate() -> None:
        (_Held.apply(torch.zeros(1, requires_grad=True), counts) * 2).sum().backward()

    # In a thread of its own, where no mode, transform or profiler of the caller is active.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(differentiate).result()
    return counts[0] or ()
