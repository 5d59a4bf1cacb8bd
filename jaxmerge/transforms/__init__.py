"""What is done to one expert's delta: sparsify, rescale, reshape its tails."""

from jaxmerge.transforms.noise import ReparameterizedNoise as ReparameterizedNoise
from jaxmerge.transforms.rescale import Scale as Scale, ScalarControl as ScalarControl
from jaxmerge.transforms.sparsify import (
    DropRandom as DropRandom,
    KeepLargest as KeepLargest,
)
