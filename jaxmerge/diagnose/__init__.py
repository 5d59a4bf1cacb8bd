"""From a base and its experts to what their geometry says about merging them."""

from jaxmerge.diagnose.saturation import (
    Layer as Layer,
    Saturation as Saturation,
    saturation as saturation,
)
