"""Whether compilers are at work, and what they know, in all versions of PyTorch."""

import torch

# torch < 2.3 has it in torch._utils only.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
# Faster to ask, and enough where a tensor is known to be a plain one.
is_dynamo_compiling = getattr(torch.compiler, "is_dynamo_compiling", is_compiling)


def is_exporting() -> bool:
    """Whether what is compiled is for export, or may be."""
    # torch < 2.7 does not say. Later ones have torch.compiler.is_exporting, which returns this, but
    # until 2.11 at least their compilers take it for true.
    return getattr(torch.compiler, "_is_exporting_flag", True)


def is_known(size: int) -> bool:
    """Whether the compiler at work knows this size, and has not only a symbol for it."""
    # Compilers have imported this, which takes a while, and torch < 2.8 does not say.
    has_static_value = getattr(torch.fx.experimental.symbolic_shapes, "has_static_value", None)
    return has_static_value is not None and has_static_value(size)
