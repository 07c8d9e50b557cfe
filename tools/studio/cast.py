"""The characters that ship with the product: name -> identity seed."""

from __future__ import annotations

CAST: dict[str, int] = {
    "mika": 329,  # blonde with violet eyes, sailor collar and a green bow
    "juno": 306,  # streaked brown spikes, square glasses, hoodie
    "yuki": 377,  # white cat with lilac tips
    "kai": 11,  # sky-blue spikes, denim jacket
    "nia": 362,  # brown twintails, pink ribbon
    "rhea": 378,  # black long hair, horns and headphones
    "theo": 335,  # side-parted, green eyes, suit
    "otis": 2,  # silver-haired elder
}

#: the voice each of them speaks with unless another is asked for
VOICE_OF: dict[str, str] = {
    "mika": "slt", "juno": "rms", "yuki": "slt", "kai": "rms", "nia": "slt", "rhea": "slt", "theo": "rms", "otis": "awb",
}
