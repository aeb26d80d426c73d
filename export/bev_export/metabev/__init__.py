"""metabev_tiny: a camera and LiDAR fusion model that keeps working with any subset of its sensors.

The idea is MetaBEV's (Ge et al., ICCV 2023): BEV queries attend to whichever modality has features,
trained with modalities switched off. The size and everything else are ours.
"""
