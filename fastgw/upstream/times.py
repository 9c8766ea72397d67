"""Between which bounds the times of answers are counted: of each engine here, of each model in ``observe``, so that both read
alike. Those of OpenTelemetry's conventions for generative AI are among them, so that these are read off the same counts.
"""

from __future__ import annotations

from typing import Final

from fastgw.accel.histograms import Bounds

FIRST_TOKEN: Final = Bounds((
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
))  # fmt: skip
PER_TOKEN: Final = Bounds((
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
))  # fmt: skip
