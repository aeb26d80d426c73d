"""How much a model loses with each sensor: the same moments again under many conditions."""
