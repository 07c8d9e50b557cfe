"""The joint audio-video diffusion transformer, its sampler and its context memory."""
