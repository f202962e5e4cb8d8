"""What a loss that is no number leads to, and who gets signals."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from pconv_seg.engine import (
    FiniteLossHook,
    PreflightError,
    ResumableCheckpointHook,
    StopOnSignalHook,
)

BATCH = {"data_samples": [SimpleNamespace(img_path="a.png"), SimpleNamespace(img_path="b.png")]}
RUNNER = SimpleNamespace(iter=6)


def test_finite_losses_pass_whatever_other_outputs_are() -> None:
    outputs = {"loss": torch.tensor(1.0), "decode.acc_seg": torch.tensor(float("nan"))}
    FiniteLossHook().after_train_iter(RUNNER, 6, BATCH, outputs)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_terms_and_images_are_named(value: str) -> None:
    outputs = {
        "decode.loss_ce": torch.tensor(float(value)),
        "aux.loss_ce": torch.tensor(2.0),
        "loss": torch.tensor(float(value)),
    }
    with pytest.raises(FloatingPointError) as error:
        FiniteLossHook().after_train_iter(RUNNER, 6, BATCH, outputs)
    assert str(error.value).startswith(
        f"iteration 7: decode.loss_ce is {value}, loss is {value} for the images a.png, b.png. "
    )


def _runner(*hooks: ResumableCheckpointHook) -> SimpleNamespace:
    loop = SimpleNamespace(dataloader=SimpleNamespace(worker_init_fn=None))
    return SimpleNamespace(hooks=hooks, train_loop=loop, val_loop=None)


def test_a_second_signal_is_not_held_up_and_training_gives_signals_back() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    runner, hook = _runner(ResumableCheckpointHook(by_epoch=False)), StopOnSignalHook()
    try:
        hook.before_train(runner)
        os.kill(os.getpid(), signal.SIGTERM)
        assert hook._signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        hook.after_train(runner)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        hook.after_train(runner)
        signal.signal(signal.SIGTERM, before)


def test_signals_need_checkpoints_by_iteration() -> None:
    for hooks in ((), (ResumableCheckpointHook(by_epoch=True),)):
        with pytest.raises(PreflightError, match=r"StopOnSignalHook needs default_hooks\.checkpo"):
            StopOnSignalHook().before_train(_runner(*hooks))
