"""Full fine-tuning: all of the backbone. An anchor, searched only if a study names it.

It moves pretrained weights, so its learning rate is below the adapters'; the default is Paretune's (on the packaged digits 1e-4
has not converged after 30 epochs, 3e-4 has).
"""

from spaces.space import Space

SPACE = Space("full", recipe={"optim.lr": 3e-4})
