"""What may hold a tile to the picture that it was cut from: a ControlNet made for tiles."""

# The paper names ControlNet tile once, in the lead of section 4; section 4.3 and the released workflow do without it.

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from torch import Tensor

from starring.backbones.base import Backbone

Control = Callable[[Backbone, Tensor], AbstractContextManager[None]]
"""Called with the backbone and a tile ``1 3 F h w`` in [-1, 1] before it is drawn again, which happens inside the
context that it returns: a :class:`starring.generate.control.ControlNet`, such as
``lllyasviel/control_v11f1e_sd15_tile``."""
