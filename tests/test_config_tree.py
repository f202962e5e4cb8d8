from mmengine.config import ConfigDict

from pconv_seg.config_tree import entries


def test_entries_come_with_their_keys_before_what_they_hold():
    head = ConfigDict(type="FCNHead", custom={"a.b": None})
    found = list(entries({"model": {"heads": (head, 2)}, "seeds": [0]}, "cfg"))
    assert found == [
        ("cfg.model", "model", {"heads": (head, 2)}),
        ("cfg.model.heads", "heads", (head, 2)),
        ("cfg.model.heads.0", 0, head),
        ("cfg.model.heads.0.type", "type", "FCNHead"),
        ("cfg.model.heads.0.custom", "custom", {"a.b": None}),
        ("cfg.model.heads.0.custom.a.b", "a.b", None),
        ("cfg.model.heads.1", 1, 2),
        ("cfg.seeds", "seeds", [0]),
        ("cfg.seeds.0", 0, 0),
    ]
    assert list(entries({"a": 1})) == [("a", "a", 1)]
    assert not list(entries("ab"))
