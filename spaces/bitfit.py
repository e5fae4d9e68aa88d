"""BitFit: the biases of the backbone. Ben Zaken et al., ACL 2022, arXiv 2106.10199. An anchor, searched only on request."""

from spaces.space import Space

SPACE = Space("bitfit")
