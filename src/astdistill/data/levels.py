"""From pictures and lists of any mode and depth to 256 levels: transparency, orientation, and which value is white."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from ..runtime.errors import InputError
from .arrays import dark

GREY_MODES = ("1", "L", "LA", "La")
SHORT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
"""Sixteen-bit grey."""
DEEP_MODES = (*SHORT_MODES, "I", "F")
"""Grey of more than eight bits: whole numbers of 16 or 32 bits, and floating-point numbers."""
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
DROP = "drop"
WHOLE_DEPTHS = (255, 1023, 4095, 16383, 65535)
"""The largest whole numbers of 8, 10, 12, 14 and 16 bits."""
FEW = 16
"""Whole numbers up to here are taken for so many levels (scikit-learn's digits), not for a dark picture of 256."""
HALF = 128
"""Fractions that reach neither this nor exceed 1 are no picture of 256 levels."""
FRAMES = ("GIF", "TIFF", "WEBP", "PNG", "AVIF")
"""Formats whose further frames or pages are said; a phone's second picture in a JPEG (MPO) is none."""
ORIENTATION = 0x0112
"""The EXIF tag that says how the camera was held."""
TURNS = (2, 3, 4, 5, 6, 7, 8)
"""Its values that turn or mirror; 1 and any other do nothing."""
LYING = (5, 6, 7, 8)
"""Those that exchange height and width."""
SAID_APART, REFUSED_APART = 3.0, 8.0
"""How many times brighter one part may be than another before it is said, and before it is refused: 12 bits beside 16
are 16 times, fractions beside 256 levels 255 times."""


@dataclass(frozen=True)
class Opening:
    """How pictures are opened: what lies behind transparent pixels ('white', 'black', '#rrggbb', or 'drop' to show the
    colour that they hide), and the value that is white in pictures of more than eight bits (None: as they tell)."""

    background: str = "white"
    white_level: float | None = None

    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue behind transparent pixels, 0..255."""
        return background_colour(self.background)


def background_colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a background. Raises InputError for what names no colour; 'drop' counts as white."""
    if name in (*COLOURS, DROP):
        return COLOURS.get(name, COLOURS["white"])
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", name):
        raise InputError(
            f"The background '{name}' is no colour; choose --data.background white, black, drop, or '#rrggbb' such as "
            "'#ff8000'."
        )
    red, green, blue = bytes.fromhex(name[1:])
    return red, green, blue


class Values(NamedTuple):
    """A picture as it was stored, `[C, H, W]`; `kind` says what it is where that is not 256 levels, `white` the value
    that is white where the file says so, `notes` what was done to it, and `part` the part it is of, as people call it,
    where that is known."""

    values: np.ndarray
    kind: str = ""
    white: float | None = None
    notes: tuple[str, ...] = ()
    part: str = ""


SHORT, COLOUR16 = "16-bit grey pictures", "16-bit colour pictures"
INVERTED = " stored with 0 for white"
KINDS = {"I": "32-bit integer pictures", "F": "floating-point pictures"}
TURNED = "turned upright as the EXIF orientation says"
FRAME = "with several frames or pages, of which the first was read"
TRANSPARENT = "with transparent pixels"
FLAT = "flat lists of numbers"


def picture_values(picture: Image.Image, opening: Opening) -> Values:
    """The values of one picture, turned upright: one channel for grey modes, three for all others.

    Raises ValueError for what cannot be shown: negative values, values that are no numbers.
    """
    rawmode = _rawmode(picture)
    turned = (picture.getexif().get(ORIENTATION, 1) in TURNS) * (TURNED,)
    upright = ImageOps.exif_transpose(picture)
    notes = (*turned, *(_has_frames(picture) * (FRAME,)))
    if upright.mode in DEEP_MODES:
        return _deep(picture, upright, rawmode, opening, notes)
    shown, was_transparent = _shown(upright, opening)
    array = np.array(shown)
    channels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return Values(channels, COLOUR16 * (";16" in rawmode), None, (*notes, *(was_transparent * (TRANSPARENT,))))


def header_shape(picture: Image.Image) -> tuple[int, int, int]:
    """Channels, height and width that `picture_values` will give, of a picture that is opened and not decoded."""
    channels = 1 if picture.mode in (*GREY_MODES, *DEEP_MODES) else 3
    # Of a PNG the whole file would be decoded: its EXIF data may stand at the end.
    if picture.format != "PNG" and picture.getexif().get(ORIENTATION, 1) in LYING:
        return channels, picture.width, picture.height
    return channels, picture.height, picture.width


def list_values(array: np.ndarray) -> Values:
    """The values of nested lists, `[H, W]`, `[H, W, C]` or `[C, H, W]`, or of a flattened square `[H·W]`.

    Without an axis that is shorter than both others the channels could be either. Raises ValueError for that, for
    other shapes, negative values, and values that are no numbers.
    """
    channels = _channels_first(array)
    notes = (f"{FLAT} as grey pictures of {channels.shape[-1]}×{channels.shape[-2]}",) * (array.ndim == 1)
    if array.dtype == np.uint8:
        return Values(channels, notes=notes)
    if array.dtype == np.bool_:
        return Values(channels, "lists of flags", 1.0, notes)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"its values are of type {array.dtype}, and pixels are numbers")
    kind = {"f": "floating-point lists"}.get(array.dtype.kind, "integer lists")
    return Values(_checked(channels), kind, None, notes)


def _channels_first(array: np.ndarray) -> np.ndarray:
    if array.ndim == 1:
        side = round(array.size**0.5)
        if side * side != array.size or not side:
            raise ValueError(f"its {array.size} numbers in a row are no square of grey pixels, so height is not known")
        return array.reshape(1, side, side)
    if array.ndim == 2 and array.size:
        return array[None]
    if array.ndim != 3 or not array.size:
        raise ValueError(f"its lists have shape {array.shape}; [H, W], [H, W, C] and [C, H, W] are pictures")
    first, middle, last = array.shape
    if last < min(first, middle):
        return array.transpose(2, 0, 1)
    if first < min(middle, last):
        return array
    raise ValueError(f"its lists have shape {array.shape}, which could be [H, W, C] or [C, H, W]")


def _rawmode(picture: Image.Image) -> str:
    """How a file's pixels are stored, as Pillow calls it; nothing once they are read."""
    tiles = getattr(picture, "tile", None)
    if not tiles:
        return ""
    args = tiles[0][3]
    return str(args[0] if isinstance(args, tuple) and args else args)


def _has_frames(picture: Image.Image) -> bool:
    if picture.format not in FRAMES:
        return False
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # a later frame is broken, of which each format says it otherwise; only the first is read
        return False


def _deep(picture: Image.Image, upright: Image.Image, rawmode: str, opening: Opening, notes: tuple[str, ...]) -> Values:
    """A grey picture of more than eight bits, not brought to 256 levels yet."""
    array = _checked(np.asarray(upright)[None])
    clear = picture.info.get("transparency")
    if isinstance(clear, int) and opening.background != DROP and bool((array == clear).any()):
        raise ValueError("it has 16 bits and transparent pixels; save it with 8 bits, or set --data.background drop")
    kind = KINDS.get(upright.mode, SHORT) + INVERTED * _is_white_zero(picture)
    return Values(array, kind, _declared(upright.mode, picture.format, rawmode), notes)


def _declared(mode: str, form: str | None, rawmode: str) -> float | None:
    """The value that is white, where the format says so: Pillow brings PGM with more than 256 levels to 16 bits."""
    if form == "PPM" and mode != "F":
        return 65535.0
    return {"I;12": 4095.0}.get(rawmode)


def _is_white_zero(picture: Image.Image) -> bool:
    """Whether a TIFF file stores white as 0, which Pillow minds for 8 bits only."""
    tags: Any = getattr(picture, "tag_v2", None)
    return tags is not None and tags.get(262) == 0


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise ValueError("it holds values that are no numbers (NaN or infinite)")
    if array.dtype.kind in "if" and array.size and array.min() < 0:
        raise ValueError(f"its values go down to {array.min():g}, and pixels are 0 or more; shift them first")
    return array


def _shown(picture: Image.Image, opening: Opening) -> tuple[Image.Image, bool]:
    """The picture without transparency, grey or RGB, and whether it had transparent pixels. An opaque one keeps its
    bits."""
    grey = picture.mode in GREY_MODES
    plain = "L" if grey else "RGB"
    if not picture.has_transparency_data:
        return picture.convert(plain), False
    whole = picture if picture.mode in ("LA", "RGBA") else picture.convert("LA" if grey else "RGBA")
    lowest, _ = whole.getchannel("A").getextrema()
    if lowest == 255:
        return whole.convert(plain), False
    if opening.background == DROP:
        return whole.convert(plain), True
    colour = opening.colour()
    if len(set(colour)) > 1:
        plain = "RGB"
    behind = Image.new("RGBA", picture.size, (*colour, 255))
    return Image.alpha_composite(behind, whole.convert("RGBA")).convert(plain), True


class Range(NamedTuple):
    """What the values of a kind have in common over the whole set: the largest, whether all are whole numbers, whether
    all are 16-bit values that are multiples of 257, as 8-bit ones become; how many there are, and how many of them lie
    beyond a white level that was given."""

    top: float = 0.0
    whole: bool = True
    spread: bool = True
    values: int = 0
    beyond: int = 0

    def with_values(self, values: np.ndarray, white: float | None) -> Range:
        """The same, with those of one more picture."""
        is_whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
        spread = self.spread and values.dtype.itemsize == 2 and not bool((values % 257).any())
        beyond = 0 if white is None else int((values > white).sum())
        return Range(
            max(self.top, float(values.max(initial=0))),
            self.whole and is_whole,
            spread,
            self.values + values.size,
            self.beyond + beyond,
        )


class Levels:
    """Brings the pictures of one set to 256 levels, all of a kind by the same factor, so that a dark one stays dark.

    `every` gives the values of every picture of the set once more; it is asked only where there are pictures whose
    white value no file tells. `words` and `guesses` say, once all are read, what was done.
    """

    def __init__(self, opening: Opening, every: Callable[[], Iterable[Values]]) -> None:
        self.opening, self._every = opening, every
        self._ranges: dict[str, Range] = {}
        self._tops: dict[str, dict[str, float]] = {}
        """The largest value of every kind in every part."""
        self._said: Counter[str] = Counter()
        self._whites: dict[str, tuple[float, bool]] = {}
        self._apart: tuple[str, ...] = ()

    def pixels(self, picture: Values) -> UInt8[Tensor, "C H W"]:
        """One picture in 256 levels."""
        self._said.update(picture.notes)
        if not picture.kind:
            return _tensor(picture.values)
        white = self._white(picture)
        if picture.kind == COLOUR16:
            return _tensor(picture.values)
        scaled = np.clip(np.rint(picture.values.astype(np.float64) * 255 / white), 0, 255).astype(np.uint8)
        return _tensor(255 - scaled if picture.kind.endswith(INVERTED) else scaled)

    def words(self) -> tuple[str, ...]:
        """What was read, in sentences."""
        counted = [f"{_pictures(self._said[note])} {note}" for note in (TURNED, FRAME) if self._said[note]]
        sure = [
            f"{kind}: {white:g} is white{self._beyond(kind)}"
            for kind, (white, certain) in self._whites.items()
            if certain
        ]
        return (*counted, *sure)

    def guesses(self) -> tuple[str, ...]:
        """What could have been read otherwise, in sentences."""
        clear = f"{_pictures(self._said[TRANSPARENT])} {TRANSPARENT}, "
        done = {DROP: "whose transparency was dropped"}.get(
            self.opening.background, f"laid on {self.opening.background}"
        )
        unsure = [
            f"{kind} reach {self._ranges[kind].top:g}, so {white:g} is white (otherwise: --data.white-level)"
            for kind, (white, certain) in self._whites.items()
            if not certain
        ]
        flat = [
            f"{self._said[note]} {note} (otherwise: store them as [H, W, C])"
            for note in self._said
            if note.startswith(FLAT)
        ]
        seen = (clear + done + " (otherwise: --data.background)",) * bool(self._said[TRANSPARENT])
        return (*seen, *flat, *unsure, *self._apart)

    def _white(self, picture: Values) -> float:
        if picture.white is not None:
            self._whites.setdefault(f"{picture.kind} with a depth of their own", (picture.white, True))
            return picture.white
        if picture.kind not in self._whites:
            self._survey()
            self._whites[picture.kind] = self._chosen(picture.kind)
            self._apart = self._parts_apart()
        return self._whites[picture.kind][0]

    def _chosen(self, kind: str) -> tuple[float, bool]:
        """The white value of a kind, and whether no other was possible."""
        seen = self._ranges[kind]
        if self.opening.white_level is not None:
            self._check_given(kind, self.opening.white_level)
            return self.opening.white_level, True
        if kind == COLOUR16:
            return _colour_white(seen.top), True
        if kind.startswith(SHORT) and (seen.top > WHOLE_DEPTHS[-2] or (seen.spread and seen.top)):
            return 65535.0, True
        return _white_of(seen), not seen.whole and seen.top <= 1 and not dark(seen.top, 1)

    def _check_given(self, kind: str, white: float) -> None:
        """Raise InputError where a given white level would leave nothing to see: black pictures, or white ones."""
        seen = self._ranges[kind]
        black = 0 < seen.top * 255 < white / 2
        if kind != COLOUR16 and (black or 2 * seen.beyond > seen.values):
            lie, shown = f"with {seen.beyond / max(1, seen.values):.0%} of their values beyond", "white"
            if black:
                lie, shown = "far below", "black"
            raise InputError(
                f"{kind[0].upper()}{kind[1:]} of this set reach {seen.top:g}, {lie} the white level of {white:g}, so "
                f"that they would be {shown}; give --data.white-level {seen.top:g}, or leave it out."
            )

    def _beyond(self, kind: str) -> str:
        """A word on the values beyond a white level that was given."""
        seen = self._ranges.get(kind, Range())
        if self.opening.white_level is None or not seen.beyond or kind == COLOUR16:
            return ""
        return f", and {100 * seen.beyond / seen.values:.2g}% of the values lie beyond it (they reach {seen.top:g})"

    def _parts_apart(self) -> tuple[str, ...]:
        """A word on parts of which one would be much darker than the other, as where they are stored with different
        white levels. Raises InputError where it would be nearly black, unless the white level was given."""
        shares = {part: self._share(part) for part in self._tops}
        if len(shares) < 2 or not min(shares.values()):
            return ()
        dim, bright = (choose(shares, key=lambda part: shares[part]) for choose in (min, max))
        factor = shares[bright] / shares[dim]
        if factor < SAID_APART:
            return ()
        reach = [f"the {part} reaches {self._reached(part)}" for part in (bright, dim)]
        if factor < REFUSED_APART or self.opening.white_level is not None:
            return (f"one white level for both parts, though {' and '.join(reach)} (otherwise: store them alike)",)
        raise InputError(
            f"Of the pictures {' and '.join(reach)}, so the {dim} would be {factor:.3g} times darker; store both "
            "parts with the same value for white, or, where they are so, give that value with --data.white-level."
        )

    def _share(self, part: str) -> float:
        """The brightest value of a part as a share of white."""
        return max(top / self._full(kind) for kind, top in self._tops[part].items())

    def _full(self, kind: str) -> float:
        """The value that becomes 255, as the values of a kind are handed on."""
        return 255.0 if kind in ("", COLOUR16) else self._chosen(kind)[0]

    def _reached(self, part: str) -> str:
        """The largest values of a part."""
        return " and ".join(f"{top:g} ({kind or '8-bit pictures'})" for kind, top in self._tops[part].items())

    def _survey(self) -> None:
        """Find the range of every kind, and the largest values of each part."""
        if self._ranges:
            return
        for picture in self._every():
            if picture.white is not None:
                continue
            if picture.kind:
                seen = self._ranges.get(picture.kind, Range())
                self._ranges[picture.kind] = seen.with_values(picture.values, self.opening.white_level)
            if picture.part:
                tops = self._tops.setdefault(picture.part, {})
                tops[picture.kind] = max(tops.get(picture.kind, 0.0), float(picture.values.max(initial=0)))


def _white_of(seen: Range) -> float:
    if seen.top <= 1:
        return 1.0 if seen.top else 255.0
    if seen.whole:
        if seen.top <= FEW:
            return seen.top
        return float(next((depth for depth in WHOLE_DEPTHS if seen.top <= depth), seen.top))
    return 255.0 if HALF <= seen.top <= 255 else seen.top


def _colour_white(top: float) -> float:
    """Pillow gives the upper eight of 16 bits of colour: pictures of 14 bits and fewer would lose most of theirs."""
    if top < 64:
        raise InputError(
            f"16-bit colour pictures of this set reach only about {top * 256:g} of 65535, so they hold fewer bits, of "
            "which most would be lost; save them with 8 bits a channel, or set --data.white-level 65535."
        )
    return 65535.0


def _pictures(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)


def _tensor(array: np.ndarray) -> UInt8[Tensor, "C H W"]:
    return torch.from_numpy(np.ascontiguousarray(array))
