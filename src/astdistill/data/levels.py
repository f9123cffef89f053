"""Converts pictures and lists of any mode and depth to 256 levels: handles transparency, orientation, and the value of
white."""

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
"""16-bit grey modes."""
DEEP_MODES = (*SHORT_MODES, "I", "F")
"""Grey modes of more than eight bits: integers of 16 or 32 bits, and floating-point numbers."""
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
DROP = "drop"
WHOLE_DEPTHS = (255, 1023, 4095, 16383, 65535)
"""The largest integers of 8, 10, 12, 14 and 16 bits."""
FEW = 16
"""Integers with a maximum up to this have that many levels (scikit-learn's digits); they are not dark pictures with 256
levels."""
HALF = 128
"""Fractional values have 256 levels only if the largest is between this and 255."""
FRAMES = ("GIF", "TIFF", "WEBP", "PNG", "AVIF")
"""Formats for which further frames or pages are reported; not MPO, the second picture that phones store in a JPEG."""
WIDTH, HEIGHT = 256, 257
"""The TIFF tags of the size as stored."""
ORIENTATION = 0x0112
"""The EXIF tag of the camera orientation."""
TURNS = (2, 3, 4, 5, 6, 7, 8)
"""Orientation values that rotate or mirror; 1 and all others have no effect."""
LYING = (5, 6, 7, 8)
"""Orientation values that swap height and width."""
SAID_APART, REFUSED_APART = 3.0, 8.0
"""Brightness ratios of two parts from which a note is given, and from which the data are refused: 12 bits next to 16
bits give a ratio of 16, fractions next to 256 levels one of 255."""


@dataclass(frozen=True)
class Opening:
    """How pictures are opened: the background of transparent pixels ('white', 'black', '#rrggbb', or 'drop' to ignore
    transparency and use the stored colour), and the value of white in pictures of more than eight bits (None:
    detected)."""

    background: str = "white"
    white_level: float | None = None

    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background of transparent pixels, 0..255."""
        return background_colour(self.background)


def background_colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue of a background. Raises InputError for an invalid colour; 'drop' counts as white."""
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
    """A picture as stored, `[C, H, W]`; `kind` describes it if it does not have 256 levels ('' otherwise), `white` is
    the value of white if the file declares it, `notes` list what was done to it, and `part` is the display name of its
    data set part, if known."""

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
    """The values of one picture, rotated upright: one channel for grey modes, three for all others.

    Raises ValueError for negative, infinite and NaN values, and for 16-bit pictures with transparent pixels that need a
    background.
    """
    rawmode = _rawmode(picture)
    turned = (picture.getexif().get(ORIENTATION, 1) in TURNS) * (TURNED,)
    upright = ImageOps.exif_transpose(picture)
    notes = (*turned, *(_has_frames(picture) * (FRAME,)))
    if upright.mode in DEEP_MODES:
        return _deep_values(picture, upright, rawmode, opening, notes)
    converted, was_transparent = _flatten(upright, opening)
    array = np.array(converted)
    channels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return Values(channels, COLOUR16 * (";16" in rawmode), None, (*notes, *(was_transparent * (TRANSPARENT,))))


def header_shape(picture: Image.Image) -> tuple[int, int, int]:
    """Channels, height and width of the result of `picture_values`, for a picture that is opened but not decoded."""
    channels = 1 if picture.mode in (*GREY_MODES, *DEEP_MODES) else 3
    # Newer versions of Pillow give the size of a TIFF upright, older ones as stored.
    tags: Any = getattr(picture, "tag_v2", {})
    width, height = tags.get(WIDTH, picture.width), tags.get(HEIGHT, picture.height)
    # EXIF data behind the pixels of a PNG are not known yet, and asking for them would decode the whole file.
    is_known = picture.format != "PNG" or "exif" in picture.info
    if is_known and picture.getexif().get(ORIENTATION, 1) in LYING:
        return channels, width, height
    return channels, height, width


def list_values(array: np.ndarray) -> Values:
    """The values of nested lists, `[H, W]`, `[H, W, C]` or `[C, H, W]`, or of a flattened square `[H·W]`.

    The channel axis is the first or last one, if it is shorter than both others. Raises ValueError if neither is, for
    other shapes, and for negative, infinite, NaN and non-numeric values.
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
    """Pillow's raw mode of the pixels in a file; '' once they are read."""
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
    except Exception:  # a later frame is broken, and the error depends on the format; only the first frame is read
        return False


def _deep_values(
    picture: Image.Image, upright: Image.Image, rawmode: str, opening: Opening, notes: tuple[str, ...]
) -> Values:
    """The values of a grey picture of more than eight bits, not yet converted to 256 levels."""
    array = _checked(np.asarray(upright)[None])
    transparent_value = picture.info.get("transparency")
    if isinstance(transparent_value, int) and opening.background != DROP and bool((array == transparent_value).any()):
        raise ValueError("it has 16 bits and transparent pixels; save it with 8 bits, or set --data.background drop")
    kind = KINDS.get(upright.mode, SHORT) + INVERTED * _is_white_zero(picture)
    return Values(array, kind, _declared(upright.mode, picture.format, rawmode), notes)


def _declared(mode: str, form: str | None, rawmode: str) -> float | None:
    """The value of white, if the format declares it: Pillow scales PGM with more than 256 levels to 16 bits."""
    if form == "PPM" and mode != "F":
        return 65535.0
    return {"I;12": 4095.0}.get(rawmode)


def _is_white_zero(picture: Image.Image) -> bool:
    """Whether a TIFF file stores white as 0, which Pillow handles for 8 bits only."""
    tags: Any = getattr(picture, "tag_v2", None)
    return tags is not None and tags.get(262) == 0


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise ValueError("it holds values that are no numbers (NaN or infinite)")
    if array.dtype.kind in "if" and array.size and array.min() < 0:
        raise ValueError(f"its values go down to {array.min():g}, and pixels are 0 or more; shift them first")
    return array


def _flatten(picture: Image.Image, opening: Opening) -> tuple[Image.Image, bool]:
    """The picture without transparency, grey or RGB, and whether it had transparent pixels. Pixels of an opaque picture
    do not change."""
    grey = picture.mode in GREY_MODES
    plain = "L" if grey else "RGB"
    if not picture.has_transparency_data:
        return picture.convert(plain), False
    with_alpha = picture if picture.mode in ("LA", "RGBA") else picture.convert("LA" if grey else "RGBA")
    lowest, _ = with_alpha.getchannel("A").getextrema()
    if lowest == 255:
        return with_alpha.convert(plain), False
    if opening.background == DROP:
        return with_alpha.convert(plain), True
    colour = opening.colour()
    if len(set(colour)) > 1:
        plain = "RGB"
    backdrop = Image.new("RGBA", picture.size, (*colour, 255))
    return Image.alpha_composite(backdrop, with_alpha.convert("RGBA")).convert(plain), True


class Range(NamedTuple):
    """Statistics of the values of one kind of picture over the whole set: the largest value, whether all are integers,
    whether all are 16-bit multiples of 257 (the result of converting 8 bits to 16), the number of values, and how many
    of them exceed the user's white level."""

    top: float = 0.0
    integers: bool = True
    spread: bool = True
    values: int = 0
    beyond: int = 0

    def with_values(self, values: np.ndarray, white: float | None) -> Range:
        """The statistics after adding the values of one picture."""
        is_whole = values.dtype.kind != "f" or bool((values == np.rint(values)).all())
        spread = self.spread and values.dtype.itemsize == 2 and not bool((values % 257).any())
        beyond = 0 if white is None else int((values > white).sum())
        return Range(
            max(self.top, float(values.max(initial=0))),
            self.integers and is_whole,
            spread,
            self.values + values.size,
            self.beyond + beyond,
        )


class Levels:
    """Converts the pictures of one set to 256 levels. All pictures of a kind are scaled by the same factor, so that a
    dark picture stays dark.

    `every` iterates again over the values of all pictures of the set; it is called only if there are pictures without a
    declared white value. After all pictures are read, `notes` and `guesses` describe what was done.
    """

    def __init__(self, opening: Opening, every: Callable[[], Iterable[Values]]) -> None:
        self.opening, self._iterate_all = opening, every
        self._ranges: dict[str, Range] = {}
        self._tops: dict[str, dict[str, float]] = {}
        """The largest value by part and kind."""
        self._note_counts: Counter[str] = Counter()
        self._whites: dict[str, tuple[float, bool]] = {}
        self._part_notes: tuple[str, ...] = ()

    def pixels(self, picture: Values) -> UInt8[Tensor, "C H W"]:
        """One picture converted to 256 levels."""
        self._note_counts.update(picture.notes)
        if not picture.kind:
            return _to_tensor(picture.values)
        white = self._white(picture)
        if picture.kind == COLOUR16:
            return _to_tensor(picture.values)
        scaled = np.clip(np.rint(picture.values.astype(np.float64) * 255 / white), 0, 255).astype(np.uint8)
        return _to_tensor(255 - scaled if picture.kind.endswith(INVERTED) else scaled)

    def notes(self) -> tuple[str, ...]:
        """Notes on what was read."""
        counted = [
            f"{_count_pictures(self._note_counts[note])} {note}" for note in (TURNED, FRAME) if self._note_counts[note]
        ]
        definite = [
            f"{kind}: {white:g} is white{self._note_on_clipping(kind)}"
            for kind, (white, certain) in self._whites.items()
            if certain
        ]
        return (*counted, *definite)

    def guesses(self) -> tuple[str, ...]:
        """Notes on choices that could have been different."""
        subject = f"{_count_pictures(self._note_counts[TRANSPARENT])} {TRANSPARENT}, "
        handling = {DROP: "whose transparency was dropped"}.get(
            self.opening.background, f"shown on {self.opening.background}"
        )
        uncertain = [
            f"{kind} reach {self._ranges[kind].top:g}, so {white:g} is white (otherwise: --data.white-level)"
            for kind, (white, certain) in self._whites.items()
            if not certain
        ]
        flat = [
            f"{self._note_counts[note]} {note} (otherwise: store them as [H, W, C])"
            for note in self._note_counts
            if note.startswith(FLAT)
        ]
        transparency = (subject + handling + " (otherwise: --data.background)",) * bool(self._note_counts[TRANSPARENT])
        return (*transparency, *flat, *uncertain, *self._part_notes)

    def _white(self, picture: Values) -> float:
        if picture.white is not None:
            self._whites.setdefault(f"{picture.kind} with a depth of their own", (picture.white, True))
            return picture.white
        if picture.kind not in self._whites:
            self._find_ranges()
            self._whites[picture.kind] = self._choose_white(picture.kind)
            self._part_notes = self._compare_parts()
        return self._whites[picture.kind][0]

    def _choose_white(self, kind: str) -> tuple[float, bool]:
        """The white value of a kind, and whether it is certain."""
        stats = self._ranges[kind]
        if self.opening.white_level is not None:
            self._check_white_level(kind, self.opening.white_level)
            return self.opening.white_level, True
        if kind == COLOUR16:
            return _colour_white(stats.top), True
        if kind.startswith(SHORT) and (stats.top > WHOLE_DEPTHS[-2] or (stats.spread and stats.top)):
            return 65535.0, True
        return _white_from_range(stats), not stats.integers and stats.top <= 1 and not dark(stats.top, 1)

    def _check_white_level(self, kind: str, white: float) -> None:
        """Raise InputError if the user's white level would make all pictures of a kind almost black or white."""
        stats = self._ranges[kind]
        black = 0 < stats.top * 255 < white / 2
        if kind != COLOUR16 and (black or 2 * stats.beyond > stats.values):
            position, appearance = f"with {stats.beyond / max(1, stats.values):.0%} of their values beyond", "white"
            if black:
                position, appearance = "far below", "black"
            raise InputError(
                f"{kind[0].upper()}{kind[1:]} of this set reach {stats.top:g}, {position} the white level of "
                f"{white:g}, so that they would be {appearance}; give --data.white-level {stats.top:g}, or leave "
                "it out."
            )

    def _note_on_clipping(self, kind: str) -> str:
        """A clause on the share of values that exceed the user's white level."""
        stats = self._ranges.get(kind, Range())
        if self.opening.white_level is None or not stats.beyond or kind == COLOUR16:
            return ""
        return f", and {100 * stats.beyond / stats.values:.2g}% of the values lie beyond it (they reach {stats.top:g})"

    def _compare_parts(self) -> tuple[str, ...]:
        """A note if one part would be much darker than the other, as when they are stored with different white levels.
        Raises InputError if it would be nearly black, unless the user gave the white level."""
        shares = {part: self._brightness(part) for part in self._tops}
        if len(shares) < 2 or not min(shares.values()):
            return ()
        dim, bright = (choose(shares, key=lambda part: shares[part]) for choose in (min, max))
        factor = shares[bright] / shares[dim]
        if factor < SAID_APART:
            return ()
        reached = [f"the {part} reaches {self._describe_tops(part)}" for part in (bright, dim)]
        if factor < REFUSED_APART or self.opening.white_level is not None:
            return (f"one white level for both parts, though {' and '.join(reached)} (otherwise: store them alike)",)
        raise InputError(
            f"The largest values differ: {' and '.join(reached)}, so the {dim} would be {factor:.3g} times darker; "
            "store both parts with the same value for white, or, if they have one, give it with --data.white-level."
        )

    def _brightness(self, part: str) -> float:
        """The brightest value of a part as a share of white."""
        return max(top / self._white_value(kind) for kind, top in self._tops[part].items())

    def _white_value(self, kind: str) -> float:
        """The value of a kind that becomes 255."""
        return 255.0 if kind in ("", COLOUR16) else self._choose_white(kind)[0]

    def _describe_tops(self, part: str) -> str:
        """Text that lists the largest values of a part by kind."""
        return " and ".join(f"{top:g} ({kind or '8-bit pictures'})" for kind, top in self._tops[part].items())

    def _find_ranges(self) -> None:
        """Compute the range of every kind, and the largest values of each part."""
        if self._ranges:
            return
        for picture in self._iterate_all():
            if picture.white is not None:
                continue
            if picture.kind:
                stats = self._ranges.get(picture.kind, Range())
                self._ranges[picture.kind] = stats.with_values(picture.values, self.opening.white_level)
            if picture.part:
                tops = self._tops.setdefault(picture.part, {})
                tops[picture.kind] = max(tops.get(picture.kind, 0.0), float(picture.values.max(initial=0)))


def _white_from_range(stats: Range) -> float:
    if stats.top <= 1:
        return 1.0 if stats.top else 255.0
    if stats.integers:
        if stats.top <= FEW:
            return stats.top
        return float(next((depth for depth in WHOLE_DEPTHS if stats.top <= depth), stats.top))
    return 255.0 if HALF <= stats.top <= 255 else stats.top


def _colour_white(top: float) -> float:
    """The white value of 16-bit colour pictures, 65535. Raises InputError for fewer bits: Pillow returns only the upper
    eight of the 16 bits, so that pictures of 14 bits or fewer would lose most of their information."""
    if top < 64:
        raise InputError(
            f"16-bit colour pictures of this set reach only about {top * 256:g} of 65535, so they hold fewer bits, of "
            "which most would be lost; save them with 8 bits a channel, or set --data.white-level 65535."
        )
    return 65535.0


def _count_pictures(count: int) -> str:
    return f"{count} picture" + "s" * (count != 1)


def _to_tensor(array: np.ndarray) -> UInt8[Tensor, "C H W"]:
    return torch.from_numpy(np.ascontiguousarray(array))
