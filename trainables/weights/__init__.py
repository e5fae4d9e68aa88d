"""The packaged backbones: their weights, their cards (JSON) and the scripts that make both again."""
