"""Films made better after the fact, under any method and on any backbone (VCD, arXiv 2402.09368, section 4.3).

Face VCD makes small faces again at the backbone's full size, Tiled VCD enlarges the film and makes its details again.
"""

from __future__ import annotations

from starring.refine.again import from_sidecar
from starring.refine.ask import Progress, refine
from starring.refine.face import FaceOptions, Faces, refine_faces
from starring.refine.show import comparison
from starring.refine.tiles import TileOptions

__all__ = [
    "FaceOptions",
    "Faces",
    "Progress",
    "TileOptions",
    "comparison",
    "from_sidecar",
    "refine",
    "refine_faces",
]
