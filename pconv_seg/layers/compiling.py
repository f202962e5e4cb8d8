"""Whether compilers are at work, in all versions of PyTorch."""

import torch
from torch.fx.experimental import symbolic_shapes

# torch < 2.3 has it in torch._utils only.
is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling
# torch < 2.7 does not say whether what it compiles is for export.
is_exporting = getattr(torch.compiler, "is_exporting", lambda: True)
# Whether a compiler knows a size, and not only a symbol for it: old versions of torch do not say.
is_known = getattr(symbolic_shapes, "has_static_value", lambda size: False)
