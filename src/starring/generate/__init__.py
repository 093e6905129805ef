"""From a run and prompts to films: mp4, and beside each a sidecar with everything needed to make it again.

Every film is sampled alone, so its numbers do not depend on what else was asked for in the same call.
"""

from __future__ import annotations

from starring.generate.again import from_sidecar
from starring.generate.ask import generate
from starring.generate.films import Film, Progress, fingerprint, shoot

__all__ = ["Film", "Progress", "fingerprint", "from_sidecar", "generate", "shoot"]
