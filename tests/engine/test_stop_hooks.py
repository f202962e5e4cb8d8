"""What a loss that is no number leads to."""

from types import SimpleNamespace

import pytest
import torch

from pconv_seg.engine import FiniteLossHook

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
