"""Whether compilers are at work, and what they know, in all versions of PyTorch."""

import torch
from torch.fx.experimental import symbolic_shapes

# torch < 2.3 has it in torch._utils only.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
# Whether a compiler knows a size, and not only a symbol for it: torch < 2.8 does not say.
is_known = getattr(symbolic_shapes, "has_static_value", lambda size: False)


def is_exporting() -> bool:
    """Whether what is compiled is for export, or may be."""
    # torch < 2.7 does not say. Later ones have torch.compiler.is_exporting, which returns this, but
    # until 2.11 at least their compilers take it for true.
    return getattr(torch.compiler, "_is_exporting_flag", True)
