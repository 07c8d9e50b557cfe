"""Video and audio codecs: latents and mel frames in, pixels and samples out."""
