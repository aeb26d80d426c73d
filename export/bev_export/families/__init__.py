"""Published BEV models, written anew: the official checkpoints load, the numbers are the same."""
