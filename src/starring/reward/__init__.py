"""TTRO, test-time reward optimization, after any method (BridgeIV, arXiv 2505.06985, section 4.2)."""

from __future__ import annotations

from starring.reward.ascent import Rewards, Sight
from starring.reward.eyes import again, eyes_for, options_of, rewarded, rewarded_again
from starring.reward.film import Result, Rewarded, optimise
from starring.reward.sight import Eyes, Unseen

__all__ = [
    "Eyes",
    "Result",
    "Rewarded",
    "Rewards",
    "Sight",
    "Unseen",
    "again",
    "eyes_for",
    "optimise",
    "options_of",
    "rewarded",
    "rewarded_again",
]
