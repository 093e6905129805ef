"""From runs to numbers: film a suite of prompts with and without what was learned, score all films, write it down."""

from __future__ import annotations

from starring.evaluate.ask import Evaluation, Progress, evaluate
from starring.evaluate.shots import Shot

__all__ = ["Evaluation", "Progress", "Shot", "evaluate"]
