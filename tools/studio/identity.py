"""Who a character is: every choice of looks, drawn from one seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import palette
from .palette import Colour

FRINGES = ("blunt", "swept", "parted", "messy", "side", "curtain", "pointed", "slick", "round")
BACKS = ("bob", "long", "twintails", "ponytail", "buns", "short", "wavy", "spiky", "braids", "curly", "hime")
SIDES = ("none", "short", "chin", "long", "flare")
EARS = ("human", "human", "cat", "fox", "bunny", "elf", "bear", "horns")
OUTFITS = ("hoodie", "sailor", "shirt", "turtleneck", "kimono", "dress", "jacket", "suit", "coat", "sweater")
HEADGEAR = ("none", "ribbon", "headphones", "beret", "flower", "clips", "headband", "cap", "halo", "crown", "sidebow")


@dataclass(frozen=True)
class Identity:
    """Looks of one character. Lengths are px of a 256 px picture; colours (r, g, b) in 0..1."""

    seed: int
    gender: str  # "f", "m" or "a"
    age: str  # "young", "adult" or "old"
    skin: Colour
    face_w: float
    jaw: float  # 0 pointed .. 1 square
    chin: float
    eye_w: float
    eye_h: float
    eye_x: float
    eye_tilt: float  # + outer corner up
    eye_round: float
    iris_l: Colour
    iris_r: Colour
    pupil: str  # "round", "slit", "ring"
    lashes: float  # thickness
    lash_colour: Colour
    brow_w: float
    brow_arch: float
    nose: int
    mouth_w: float  # half width at rest
    lip: float  # strength of lip colour
    lip_colour: Colour
    fang: bool
    hair: Colour
    hair_tip: Colour
    streak: Colour | None
    fringe: str
    side: str
    back: str
    volume: float
    hair_seed: int
    flip: bool
    ahoge: bool
    ears: str
    glasses: str  # "none", "round", "square", "half"
    glass_colour: Colour
    headgear: str
    gear_colour: Colour
    earrings: str  # "none", "stud", "drop"
    outfit: str
    cloth: Colour
    cloth2: Colour
    accent: Colour
    shoulders: float
    neck: float
    freckles: bool
    mole: int  # 0 none, 1 under left eye, 2 under right eye, 3 by the mouth
    marks: str  # "none", "scar", "paint", "whiskers", "plaster"
    beard: str  # "none", "stubble", "goatee", "full", "moustache"

    @staticmethod
    def from_seed(seed: int) -> "Identity":
        """The character of a seed; equal seeds give equal identities on every machine."""
        r = random.Random(0x57A2C4A2 * 1_000_003 + int(seed))
        gender = r.choices("fma", (50, 32, 18))[0]
        age = r.choices(("young", "adult", "old"), (48, 42, 10))[0]
        masc = {"f": 0.0, "a": 0.45, "m": 1.0}[gender]

        i = min(len(palette.SKIN) - 2, int(r.random() ** 1.25 * (len(palette.SKIN) - 1)))
        skin = palette.mix(palette.SKIN[i], palette.SKIN[i + 1], r.random())
        if r.random() < 0.03:
            skin = r.choice(palette.FANTASY_SKIN)

        hair = palette.jitter(r, r.choice(palette.HAIR))
        if age == "old":
            hair = palette.mix(hair, r.choice(palette.HAIR[9:12]), r.uniform(0.7, 1.0))
        tip = hair
        if r.random() < 0.22:
            tip = palette.mix(hair, palette.jitter(r, r.choice(palette.HAIR)), r.uniform(0.5, 0.95))
        streak = palette.jitter(r, r.choice(palette.HAIR)) if r.random() < 0.14 else None

        iris_l = palette.jitter(r, r.choice(palette.IRIS))
        iris_r = palette.jitter(r, r.choice(palette.IRIS)) if r.random() < 0.05 else iris_l
        if gender == "m":
            fringe = r.choices(FRINGES, (2, 5, 3, 6, 4, 3, 4, 4, 2))[0]
            back = r.choices(BACKS, (1, 1, 0, 2, 0.3, 9, 1, 6, 0.2, 2, 0))[0]
            side = r.choices(SIDES, (4, 5, 2, 0.5, 1))[0]
        elif gender == "a":
            fringe = r.choice(FRINGES)
            back = r.choices(BACKS, (6, 2, 1, 3, 1, 6, 3, 3, 1, 2, 2))[0]
            side = r.choice(SIDES)
        else:
            fringe = r.choices(FRINGES, (6, 5, 4, 4, 3, 4, 4, 0.7, 5))[0]
            back = r.choices(BACKS, (6, 7, 6, 5, 4, 1.2, 6, 1, 4, 2, 4))[0]
            side = r.choices(SIDES, (1, 2, 5, 5, 3))[0]
        ears = r.choices(EARS, (40, 30, 9, 4, 3, 6, 3, 4))[0]
        headgear = r.choices(HEADGEAR, (46, 9, 7, 5, 6, 9, 5, 4, 3, 2, 7))[0]
        if gender == "m" and headgear in ("ribbon", "flower", "sidebow", "crown"):
            headgear = "none"
        if ears in ("cat", "fox", "bunny", "bear", "horns") and headgear in ("beret", "cap", "crown", "headband"):
            headgear = "clips"
        beard = "none"
        if gender == "m" and age != "young":
            beard = r.choices(("none", "stubble", "goatee", "full", "moustache"), (50, 16, 12, 12, 10))[0]
        main = palette.jitter(r, r.choice(palette.CLOTH))
        second = palette.jitter(r, r.choice(palette.CLOTH))
        while abs(palette.luma(main) - palette.luma(second)) < 0.18:
            second = palette.jitter(r, r.choice(palette.CLOTH))
        dark = palette.luma(hair) < 0.3
        shrink = {"young": 1.06, "adult": 1.0, "old": 0.84}[age]
        return Identity(
            seed=int(seed),
            gender=gender,
            age=age,
            skin=skin,
            face_w=r.uniform(55, 61) + masc * r.uniform(-2, 2.5),
            jaw=min(1, max(0, r.gauss(0.25 + 0.42 * masc, 0.14))),
            chin=r.uniform(63, 67) + masc * r.uniform(0, 3) - (1.5 if age == "young" else 0),
            eye_w=r.uniform(15.8, 18.6) * shrink - masc * 0.6,
            eye_h=(r.uniform(15.5, 19.5) - masc * r.uniform(1.5, 4.5)) * shrink,
            eye_x=r.uniform(27.5, 30.5),
            eye_tilt=r.gauss(1.5 + 1.5 * masc, 2.6),
            eye_round=r.random(),
            iris_l=iris_l,
            iris_r=iris_r,
            pupil=r.choices(("round", "slit", "ring"), (82, 8, 10))[0],
            lashes=r.uniform(3.6, 5.2) - masc * r.uniform(0.6, 1.6),
            lash_colour=palette.mix(palette.ink(hair), (0.12, 0.08, 0.12), 0.45 if dark else 0.6),
            brow_w=r.uniform(2.2, 3.2) + masc * r.uniform(0.5, 2.2),
            brow_arch=r.uniform(1.5, 5.5) - masc,
            nose=r.randrange(3),
            mouth_w=r.uniform(17.5, 20.5),
            lip=r.choices((0.0, 0.35, 0.8), (50, 32, 18))[0] * (0.25 if gender == "m" else 1.0),
            lip_colour=r.choice(
                (
                    palette.hexa("d8606a"),
                    palette.hexa("c44a5c"),
                    palette.hexa("e0788a"),
                    palette.hexa("a8435a"),
                    palette.hexa("d4705a"),
                )
            ),
            fang=r.random() < (0.5 if ears in ("cat", "fox", "horns") else 0.06),
            hair=hair,
            hair_tip=tip,
            streak=streak,
            fringe=fringe,
            side=side,
            back=back,
            volume=r.uniform(5.5, 11.0),
            hair_seed=r.getrandbits(32),
            flip=r.random() < 0.5,
            ahoge=r.random() < 0.24,
            ears=ears,
            glasses=r.choices(("none", "round", "square", "half"), (78, 9, 7, 6))[0],
            glass_colour=r.choice(tuple(map(palette.hexa, ("26242e", "7a3a3a", "b08a4a", "3a4a7a", "5a3a5a")))),
            headgear=headgear,
            gear_colour=palette.jitter(r, r.choice(palette.CLOTH)),
            earrings=r.choices(("none", "stud", "drop"), (64, 20, 16))[0],
            outfit=r.choice(OUTFITS),
            cloth=main,
            cloth2=second,
            accent=palette.jitter(r, r.choice(palette.CLOTH)),
            shoulders=r.uniform(76, 88) + masc * r.uniform(6, 16) - (5 if age == "young" else 0),
            neck=r.uniform(15.5, 18) + masc * r.uniform(2, 6),
            freckles=r.random() < 0.1,
            mole=r.choices((0, 1, 2, 3), (82, 6, 6, 6))[0],
            marks=r.choices(("none", "scar", "paint", "whiskers", "plaster"), (87, 4, 3, 3, 3))[0],
            beard=beard,
        )
