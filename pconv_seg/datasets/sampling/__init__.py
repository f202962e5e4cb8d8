"""Which samples training sees: draws that are independent of workers, processes and resuming."""

from .cache import DecodedCache
from .centroids import CentroidIndex, centroid_index
from .dataset import DrawnDataset
from .draw import Draw
from .frequency import ClassFrequency, class_frequency, compare_sampling, frequency_table
from .reading import SampleError
from .samplers import ClassUniformSampler, ResumableSampler

__all__ = [
    "CentroidIndex",
    "ClassFrequency",
    "ClassUniformSampler",
    "DecodedCache",
    "Draw",
    "DrawnDataset",
    "ResumableSampler",
    "SampleError",
    "centroid_index",
    "class_frequency",
    "compare_sampling",
    "frequency_table",
]
