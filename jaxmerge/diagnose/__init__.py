"""From a base and its experts to what their geometry says about merging them."""

from jaxmerge.diagnose.advice import Advice as Advice, Choice as Choice
from jaxmerge.diagnose.diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
from jaxmerge.diagnose.intervals import Interval as Interval
from jaxmerge.diagnose.measure import (
    Measurements as Measurements,
    Measures as Measures,
    measure as measure,
)
from jaxmerge.diagnose.mechanisms import (
    Mechanism as Mechanism,
    mechanisms as mechanisms,
)
from jaxmerge.diagnose.record import record as record
from jaxmerge.diagnose.saturation import (
    Layer as Layer,
    Saturation as Saturation,
    saturation as saturation,
)
