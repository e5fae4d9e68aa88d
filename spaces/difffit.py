"""DiffFit. Xie et al., ICCV 2023, arXiv 2304.06648; values from the study of Mai et al., CVPR 2025, arXiv 2409.16434.

Its one own knob is Paretune's. On VTAB-1k Mai et al. search learning rates of 1e-3 and 1e-2, weight decays of 1e-4 and 1e-3, with
batches of 64 and a drop path of 0.1. On 12 of the 19 tasks they choose 1e-3, on 7 1e-2. The shared knobs have these values.
"""

from spaces.shared import layers
from spaces.space import Space

SPACE = Space("difffit", (layers("difffit"),), recipe={"optim.batch_size": 64})
