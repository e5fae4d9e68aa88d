"""Full fine-tuning: all of the backbone. An anchor, not in a search unless a study names it.

It moves pretrained weights, so that its learning rate is a tenth of the adapters' (the default is Paretune's).
"""

from spaces.space import Space

SPACE = Space("full", recipe={"optim.lr": 1e-4})
