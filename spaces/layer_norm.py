"""LayerNorm tuning: the layer norms of the backbone. Basu et al., AAAI 2024, arXiv 2304.01917. An anchor, searched only on request.

It has no knobs of its own. Mai et al. (CVPR 2025, arXiv 2409.16434) search learning rates of 1e-3 and 1e-2 (many images: 5e-4 and
1e-3), weight decays of 1e-4 and 1e-3 and drop paths of 0, 0.1 and 0.2, with batches of 64. On 13 of the 19 tasks of VTAB-1k they
choose 1e-3, on 6 1e-2. The shared knobs have all of these values but a drop path of 0.2.
"""

from spaces.space import Space

SPACE = Space("layer_norm", recipe={"optim.batch_size": 64})
