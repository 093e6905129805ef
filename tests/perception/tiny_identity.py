"""Identity eyes of the real classes, with a few thousand random weights."""

from __future__ import annotations

import torch

from starring.perception.identity import Identity, IdentityEncoder, IdentityEyes, MaskedSubjects
from starring.perception.iresnet import IResNet
from tests.reward.middle import Middle


def tiny_iresnet(seed: int = 0) -> IResNet:
    """One block a stage, 16 numbers for a crop of 32; its batch norms have statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = IResNet((2, 1, 1, 1), (8, 8, 16, 16), 16, 32)
        for _ in range(3):
            net(torch.rand(8, 3, 32, 32) * 2 - 1)
    return net.eval()


def tiny_identity_eyes(seed: int = 0) -> IdentityEyes:
    """They look at the middle of every frame."""
    return IdentityEyes(
        finder=MaskedSubjects(Middle(), "dog"), encoder=IdentityEncoder(tiny_iresnet(seed), 32, f"tiny{seed}")
    )


def tiny_identity(seed: int = 0) -> Identity:
    """Somebody, by three vectors."""
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    return Identity(eyes=tiny_identity_eyes(seed), references=torch.nn.functional.normalize(vectors, dim=-1))
