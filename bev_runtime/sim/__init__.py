"""A procedural driving world with ray-cast cameras and LiDAR, for training, demos and robustness
tables (extra `sim`).
"""
