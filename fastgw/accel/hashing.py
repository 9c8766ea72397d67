"""The digest by which keys are looked up: only it is stored or compared, never the key itself."""

from __future__ import annotations

from fastgw.digests import digest as digest

DIGEST_BYTES = 32
