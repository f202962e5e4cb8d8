"""What is asked of any model."""

from mmengine.model import BaseTTAModel
from torch import nn

from pconv_seg.wrappers import unwrapped


class First(BaseTTAModel):
    def merge_preds(self, data_samples_list: list) -> list:
        return data_samples_list[0]


class Network(nn.Module):
    def test_step(self, data: dict) -> list:
        return []


def test_the_network_is_found_inside_of_all_wrappers() -> None:
    network = Network()
    for model in (
        network,
        nn.DataParallel(network),
        First(network),
        nn.DataParallel(First(network)),
    ):
        assert unwrapped(model) is network
