"""Registry nodes that make ``type='pconv_seg.NAME'`` resolvable without ``custom_imports``.

Everything in this package is registered with mmengine's root registries, so that ``type='PConv'``
is found from every scope (mmseg, mmdet, mmpretrain, ...). The nodes below are empty: a look-up in
the scope ``pconv_seg`` falls through to the root.

mmengine resolves ``pconv_seg.NAME`` by importing this module and swallows an ImportError on the
way. ``locations`` makes the node import the package once more on first use, where nothing is
swallowed: a broken import shows as itself, not as "not found in the registry".
"""

from mmengine import registry as _root


class _Node(_root.Registry):
    """A node whose own scope is no obstacle: ``pconv_seg.NAME`` falls through as ``NAME`` does."""

    def get(self, key: str) -> type | None:
        return super().get(key.removeprefix(f"{self.scope}."))


for _kind in (
    "MODELS",
    "DATASETS",
    "DATA_SAMPLERS",
    "TRANSFORMS",
    "HOOKS",
    "LOOPS",
    "METRICS",
    "WEIGHT_INITIALIZERS",
):
    _parent = getattr(_root, _kind)
    globals()[_kind] = _Node(
        _parent.name, parent=_parent, scope="pconv_seg", locations=["pconv_seg"]
    )
