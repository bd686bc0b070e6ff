"""How the small models that ship with the package were pretrained: ``python -m bench.pretraining``."""
