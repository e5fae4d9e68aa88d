"""BitFit: the biases of the backbone. Ben Zaken et al., ACL 2022, arXiv 2106.10199. An anchor, not in a search unless named."""

from spaces.space import Space

SPACE = Space("bitfit")
