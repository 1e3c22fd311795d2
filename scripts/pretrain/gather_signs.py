"""Draw letters of fonts and icons as small masks, the `--signs` of `distil_nano.py`.

    python scripts/pretrain/gather_signs.py --fonts FOLDER --icons FOLDER --out signs.npz

No digits are drawn: handwritten ones are among the sets that the backbone is judged on. Reading
SVG files needs `pip install resvg_py`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import string
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pretrain_glyphs import SIDE

Mask = npt.NDArray[np.uint8]


def draw_letters(font: Path) -> list[Mask]:
    """One mask (32, 32) a letter, a to z and A to Z, as large as the canvas takes."""
    face = ImageFont.truetype(str(font), 4 * SIDE)
    return [_centred(_drawn(letter, face)) for letter in string.ascii_letters]


def _drawn(letter: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    left, top, right, bottom = face.getbbox(letter)
    canvas = Image.new("L", (max(1, int(right - left)), max(1, int(bottom - top))))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=face)
    return canvas


def draw_icon(path: Path) -> Mask:
    """The mask (32, 32) of an SVG file's opacity."""
    resvg_py = importlib.import_module("resvg_py")

    png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=4 * SIDE, height=4 * SIDE))
    return _centred(Image.open(io.BytesIO(png)).convert("RGBA").getchannel("A"))


def _centred(picture: Image.Image) -> Mask:
    picture = picture.crop(picture.getbbox())
    scale = 0.75 * SIDE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.BOX)
    canvas = Image.new("L", (SIDE, SIDE))
    canvas.paste(small, ((SIDE - width) // 2, (SIDE - height) // 2))
    return np.asarray(canvas)


def main() -> None:
    """Draw everything and write masks uint8 (N, 32, 32) with their class labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--fonts", type=Path, required=True, help="folder of .woff2, .ttf or .otf files")
    add("--icons", type=Path, required=True, help="folder of .svg files, a class each")
    add("--out", type=Path, required=True)
    options = parser.parse_args()
    fonts = sorted(p for p in options.fonts.rglob("*") if p.suffix in {".woff2", ".ttf", ".otf"})
    masks = [mask for font in fonts for mask in draw_letters(font)]
    labels = list(range(len(string.ascii_letters))) * len(fonts)
    # Names of one word: variants of an icon ("bell-outline", "bell-off") would be one class's.
    icons = sorted(p for p in options.icons.rglob("*.svg") if p.stem.isalpha())
    masks += [draw_icon(icon) for icon in icons]
    labels += range(len(string.ascii_letters), len(string.ascii_letters) + len(icons))
    np.savez(options.out, masks=np.stack(masks), labels=np.array(labels, dtype=np.int64))
    print(f"{len(fonts)} fonts, {len(icons)} icons")


if __name__ == "__main__":
    main()
