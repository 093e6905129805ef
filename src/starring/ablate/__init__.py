"""A paper's component table on one's own subjects: learn each once, film it with every component on or off, score.

The rows are data that a method declares (:attr:`starring.methods.base.Method.ablation`): options, sampling and reward.
What was learned is shared by all rows, but for those with options on which learning itself depends
(:attr:`~starring.methods.base.Method.shaping`). All share prompts, seeds and initial noise, so they are compared in
pairs.

The films of a subject and their scores are kept in its run, in a ledger of their own. So several processes can make one
table in one folder, each with other subjects; the call with all of them then finds everything made.
"""

from __future__ import annotations

from starring.ablate.ask import ablate
from starring.ablate.rows import Row, rows_of
from starring.ablate.told import Ablation
from starring.evaluate.progress import Progress

__all__ = ["Ablation", "Progress", "Row", "ablate", "rows_of"]
