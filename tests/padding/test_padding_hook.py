"""Padding as a line in a config: runs of a real runner."""

import logging
import uuid

import pytest
import torch
from mmcv.cnn import ConvWS2d
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.runner import Runner
from torch import nn

from pconv_seg import PConv2d
from pconv_seg.padding import PaddingHook, add_padding, apply_padding, scheme_of, trained_padding


class Net(BaseModel):
    def __init__(self, conv=nn.Conv2d):
        super().__init__()
        self.conv = conv(1, 1, 3, padding=1)

    def forward(self, inputs, mode="tensor"):
        output = self.conv(torch.stack(inputs))
        return {"loss": output.square().mean()} if mode == "loss" else [output]


class Quiet(nn.Module):
    """An evaluator that has nothing to say."""

    def process(self, data_samples, data_batch=None):
        pass

    def evaluate(self, size):
        return {}


class Seen(Hook):
    """What the model was when the training began."""

    def before_train(self, runner):
        self.at_start = type(runner.model.conv)


def run(tmp_path, hooks, model=None, **kwargs):
    data = dict(
        dataset=[dict(inputs=torch.randn(1, 6, 7)) for _ in range(2)],
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=1,
        num_workers=0,
    )
    runner = Runner(
        model=model or Net(),
        work_dir=str(tmp_path),
        train_dataloader=data,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        test_dataloader=data,
        test_cfg=dict(),
        test_evaluator=Quiet(),
        custom_hooks=hooks,
        experiment_name=uuid.uuid4().hex,  # mmengine keeps loggers by this name
        default_scope="mmseg",
        **kwargs,
    )
    return runner


class Messages(logging.Handler):
    """Messages about padding; mmengine's loggers do not hand theirs on to pytest."""

    def __init__(self, runner, level=logging.WARNING):
        super().__init__(level)
        self.messages = []
        runner.logger.addHandler(self)

    def emit(self, record):
        if "padding" in record.getMessage():
            self.messages.append(record.getMessage())


def warnings_of_test(*args, **kwargs):
    runner = run(*args, **kwargs)
    warnings = Messages(runner)
    runner.test()
    return warnings.messages


HOOK = dict(type="pconv_seg.PaddingHook", scheme="partial")


@pytest.fixture
def trained(tmp_path):
    runner = run(tmp_path, [HOOK])
    runner.train()
    return str(tmp_path / "epoch_1.pth")


def test_training_switches_first_and_writes_the_scheme_down(tmp_path):
    ema, seen = EMAHook(), Seen()
    runner = run(tmp_path, [ema, seen, HOOK])
    log = Messages(runner, logging.INFO)
    runner.train()
    assert log.messages == ["partial padding in 1 convolutions"]
    assert seen.at_start is PConv2d
    assert type(ema.ema_model.module.conv) is PConv2d
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    assert checkpoint["meta"]["padding"] == "partial"
    Net().load_state_dict(checkpoint["state_dict"], strict=True)


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        (HOOK, []),
        (dict(HOOK, scheme="zeros"), ["zeros padding a checkpoint that was trained with partial"]),
        (dict(HOOK, scheme=None), ["zeros padding a checkpoint that was trained with partial"]),
    ],
)
def test_testing_under_another_scheme_says_so_once(tmp_path, trained, hook, expected):
    messages = warnings_of_test(tmp_path, [hook], load_from=trained)
    assert len(messages) == len(expected)
    for message, text in zip(messages, expected, strict=True):
        assert text in message


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("partial", []), ("zeros", ["Going on to train with zeros padding a checkpoint that was"])],
)
def test_resuming_under_another_scheme_says_so_once(tmp_path, trained, scheme, expected):
    runner = run(tmp_path, [dict(HOOK, scheme=scheme)], load_from=trained, resume=True)
    warnings = Messages(runner)
    runner.train()
    assert [message[: len(expected[0])] for message in warnings.messages] == expected


def test_scheme_of_the_network_itself_is_recorded_and_compared(tmp_path):
    """A network built with conv_cfg, and a hook that only watches."""
    watch = dict(type="pconv_seg.PaddingHook")
    run(tmp_path, [watch], Net(PConv2d)).train()
    path = str(tmp_path / "epoch_1.pth")
    assert torch.load(path, weights_only=False)["meta"]["padding"] == "partial"
    assert warnings_of_test(tmp_path, [watch], Net(PConv2d), load_from=path) == []
    (message,) = warnings_of_test(tmp_path, [watch], Net(nn.Conv2d), load_from=path)
    assert "trained with partial" in message


def unpadded(*args, padding):
    return nn.Conv2d(*args)


def test_checkpoint_that_does_not_say(tmp_path):
    path = str(tmp_path / "plain.pth")
    torch.save({"state_dict": Net().state_dict(), "meta": {}}, path)
    assert warnings_of_test(tmp_path, [dict(HOOK, scheme="zeros")], load_from=path) == []
    (message,) = warnings_of_test(tmp_path, [HOOK], load_from=path)
    assert "does not say" in message
    # Nothing pads, so nothing can have been padded otherwise.
    torch.save({"state_dict": Net(unpadded).state_dict(), "meta": {}}, path)
    watch = dict(HOOK, scheme=None)
    assert warnings_of_test(tmp_path, [watch], Net(unpadded), load_from=path) == []


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"padding": "partial"}, "partial"),
        ({"padding": "zeros"}, "zeros"),
        ({"padding": "partial+zeros"}, None),
        ({"padding": "none"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_scheme_of_a_checkpoint_is_one_or_none(meta, expected):
    assert trained_padding({"meta": meta}) == expected


def test_fine_tuning_from_another_scheme_is_no_reason_to_warn(tmp_path, trained):
    runner = run(tmp_path, [dict(HOOK, scheme="reflect")], load_from=trained)
    warnings = Messages(runner)
    runner.train()
    runner.test()
    assert warnings.messages == []


@pytest.mark.parametrize("head", [dict(type="PConv"), dict(type="pconv_seg.PConv"), dict()])
@pytest.mark.parametrize("conv", [nn.Conv2d, PConv2d])
def test_training_names_what_conv_cfg_did_not_reach(tmp_path, head, conv):
    cfg = Config(dict(model=dict(decode_head=[dict(conv_cfg=head)])))

    def warnings_of_training(hook):
        model = Net(conv)  # which SegFormer has not: there, conv_cfg reaches nothing that pads
        model.more = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)))
        model.standardized = ConvWS2d(1, 1, 3, padding=1)  # out of reach of a switch
        runner = run(tmp_path, [hook], model, cfg=cfg)
        warnings = Messages(runner)
        runner.train()
        return warnings.messages

    messages = warnings_of_training(dict(HOOK, scheme=None))
    assert len(messages) == bool(head)
    if conv is PConv2d:
        expected = "4 of 6 padded convolutions pad with zeros (more.0, more.1, more.2, ...): no "
    else:
        expected = "5 of 6 padded convolutions pad with zeros (conv, more.0, more.1, ...): no "
    assert all(expected in message for message in messages)
    # The remedy leaves nothing to warn of, and what a hook selects is meant.
    assert warnings_of_training(HOOK) == warnings_of_training(dict(HOOK, where="more.0")) == []


def test_where_leaves_a_mixture(tmp_path):
    model = Net()
    model.second = nn.Conv2d(1, 1, 3, padding=1)
    runner = run(tmp_path, [dict(HOOK, where="conv")], model)
    log = Messages(runner, logging.INFO)
    runner.train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    assert checkpoint["meta"]["padding"] == "partial+zeros"
    assert log.messages == [
        "partial padding in 1 convolutions; 1 padded layers keep theirs:\n"
        "  second: zeros (not selected by `where`)"
    ]
    path = str(tmp_path / "epoch_1.pth")
    model.conv = nn.Conv2d(1, 1, 3, padding=1)
    (message,) = warnings_of_test(tmp_path, [dict(HOOK, scheme=None)], model, load_from=path)
    # No scheme of one hook would bring it back.
    assert message.endswith("with partial+zeros padding: expect worse scores than with that.")


class Twice(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return data_samples_list[0]


def test_where_names_the_network_inside_of_test_time_augmentation(tmp_path):
    net = Net()
    runner = run(tmp_path, [dict(HOOK, where="conv")], Twice(net))
    runner.call_hook("before_run")
    assert type(net.conv) is PConv2d


def test_an_unknown_scheme_is_refused_before_data_are_read():
    with pytest.raises(ValueError, match="unknown padding scheme 'Partial': choose one of zeros,"):
        PaddingHook("Partial")


def test_add_padding_replaces_the_hook_that_is_there():
    other = dict(type="EMAHook")
    for hook in ("PaddingHook", "pconv_seg.PaddingHook", PaddingHook):
        cfg = Config(dict(custom_hooks=[dict(type=hook, scheme="zeros"), other]))
        add_padding(cfg)
        assert cfg.custom_hooks[0].scheme == "zeros"
        add_padding(cfg, "partial")
        assert cfg.custom_hooks == [other, HOOK]
    for cfg in (Config(dict()), Config(dict(custom_hooks=None))):
        add_padding(cfg)
        assert cfg.custom_hooks == [dict(HOOK, scheme=None)]


@pytest.mark.parametrize(
    "hook",
    [
        dict(type="PaddingHook", scheme="partial", where="1"),
        dict(type=PaddingHook, scheme="partial", where="1", priority="LOW"),
        PaddingHook("partial", where="1"),
    ],
    ids=["named", "class", "instance"],
)
def test_apply_padding_takes_what_a_runner_takes(hook):
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    apply_padding(model, Config(dict(custom_hooks=[hook, PaddingHook()])))
    assert [scheme_of(layer) for layer in model] == ["zeros", "partial"]
