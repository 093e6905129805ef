"""From runs to numbers: film a suite of prompts with and without what was learned, score all films, write it down."""

from __future__ import annotations

from starring.evaluate.ask import Evaluation, Progress, evaluate
from starring.evaluate.contest import contest, read_subjects
from starring.evaluate.shots import Shot
from starring.evaluate.validation import Films, Plan

__all__ = ["Evaluation", "Films", "Plan", "Progress", "Shot", "contest", "evaluate", "read_subjects"]
