"""Turns the Sphinx markup of the docstrings into links of the site."""

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([\w.]+)`")
_LINK = re.compile(r"`([^`<]+)\s+<([^`>]+)>`_")


class SphinxMarkup(griffe.Extension):
    """Roles such as ``:func:`name```, and links with a text of their own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            text = _ROLE.sub(lambda role: _reference(obj, role[1]), obj.docstring.value)
            obj.docstring.value = _LINK.sub(r"[\1](\2)", text)


def _reference(obj: griffe.Object, name: str) -> str:
    code = f"<code>{name.rpartition('.')[2]}</code>"
    try:
        path = obj.resolve(name)
    except griffe.NameResolutionError:
        return code
    # What has no entry on the site stays text.
    return f'<autoref identifier="{path}" optional>{code}</autoref>'
