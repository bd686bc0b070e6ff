"""Find, load, quantise, take apart and save a pretrained model."""
