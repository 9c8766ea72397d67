"""``tgi``: Hugging Face's Text Generation Inference. Gauges: its "Metrics" reference; it tells nothing of its cache."""

from __future__ import annotations

from typing import Final

from fastgw.protocol.gauges import Names
from fastgw.upstream.kinds.kind import Kind
from fastgw.upstream.models import by_info

KIND: Final = Kind(
    "tgi",
    asked=(b"/info", "max_total_tokens"),
    more=(b"/info", by_info),
    gauges=Names(b"tgi_", b"tgi_batch_current_size", b"tgi_queue_size", ()),
    h2c=False,
)
