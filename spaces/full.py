"""Full fine-tuning: all of the backbone. An anchor, not in a search unless a study names it.

It moves pretrained weights, so that its learning rate lies below the adapters'; the default is Paretune's (on the packaged digits
1e-4 is still under way after 30 epochs, 3e-4 has arrived).
"""

from spaces.space import Space

SPACE = Space("full", recipe={"optim.lr": 3e-4})
