"""SSF. Lian et al., NeurIPS 2022, arXiv 2210.08823; values from the released scripts.

Its one own knob is Paretune's. The scripts of the 19 tasks of VTAB-1k have learning rates from 1e-3 to 5e-2 (10 of them 5e-3),
weight decays of 5e-5 (14 tasks) and 5e-2, and drop paths of 0 (9 tasks), 0.1 and 0.2; those of FGVC rates from 2e-4 to 2e-2. The
batch is 32 on each of two GPUs. The shared knobs end at 2e-2, 1e-2 and 0.1.
"""

from spaces.shared import layers
from spaces.space import Space

SPACE = Space("ssf", (layers("ssf"),), recipe={"optim.lr": 5e-3, "optim.batch_size": 64, "recipe.drop_path": 0.0})
