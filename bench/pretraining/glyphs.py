"""Images that tiny-vit is pretrained on: digits and letters drawn with random strokes, 8 × 8 grey values.

Drawn as scikit-learn's digits were scanned: a bitmap of 32 × 32, of which blocks of 4 × 4 are counted. No row of that
data set is used, so none of a test split can be known to the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Strokes (comma) of the ways to write a sign (space), as points of a grid three across and five down:
#   a b c
#   d e f
#   g h i
#   j k l
#   m n o
_SIGNS: dict[str, str] = {
    "0": "bfilnjgdb bcflonmjdab", "1": "bn dbn dbn,mo", "2": "dbfhmo acfhmo dbfjmo", "3": "acfhlnm abfhlnj acehlnm",
    "4": "cgi,fo bgi,hn agi,cl", "5": "caghlnm cadhlnm cbdhlnm", "6": "cbdjnlhg bgjnlhj cdgjmnolih",
    "7": "acm acn acn,gi acfhn", "8": "bdhlnjhfb badhjmnolhfcb", "9": "fbdhfn fbdhfo cbadghfcinm",
    "A": "mbo,gi", "C": "cbdjno", "D": "abfilnma", "E": "camo,gh", "F": "cam,gh", "H": "am,co,gi", "J": "clnj",
    "K": "am,cgo", "L": "amo", "M": "maheco", "N": "maoc", "P": "mabfhg", "R": "mabfhgo", "S": "fbdhlnj", "T": "ac,bn",
    "U": "ajnlc", "V": "anc", "W": "amhoc", "X": "ao,cm", "Y": "ahc,hn", "Z": "acmo",
}  # fmt: skip
LABELS = tuple(_SIGNS)
_PEN, _BITMAP, _BLOCK = 72, 32, 4  # points along a sign's strokes; pixels of the bitmap's side and of a block's


def draw(count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Random signs: grey values in 0…16, (count, 8, 8) float32, and the index of each in ``LABELS`` (count,)."""
    labels = generator.integers(len(LABELS), size=count)
    images = np.empty((count, _BITMAP // _BLOCK, _BITMAP // _BLOCK), np.float32)
    for index, label in enumerate(labels):
        images[index] = _scan(_sign(LABELS[label], generator), generator.uniform(1.2, 2.6))
    return images, labels


def _sign(name: str, generator: np.random.Generator) -> Array:
    """Points along one way to write a sign, shaken, slanted and stretched: (points, 2) as x, y in bitmap pixels."""
    ways = _SIGNS[name].split()
    strokes = ways[generator.integers(len(ways))].split(",")
    places = {letter: np.array([index % 3 - 1, index // 3 - 2]) for index, letter in enumerate("abcdefghijklmno")}
    shaken = {letter: place + generator.normal(0, 0.16, 2) for letter, place in places.items()}
    lines = [np.array([shaken[letter] for letter in stroke]) for stroke in strokes]
    each = _PEN // len(lines)
    points = np.concatenate([_along(line, each) for line in lines])
    angle, slant = generator.normal(0, 0.1), generator.normal(0, 0.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points @ turn.T @ np.array([[1.0, slant], [0.0, 1.0]]).T
    size = np.array([generator.uniform(5.5, 9.5), generator.uniform(6.0, 7.2)])
    placed: Array = points * size + _BITMAP / 2 + generator.normal(0, 0.8, 2)
    return placed


def _along(line: Array, count: int) -> Array:
    """Evenly spread points on a line through corners, rounded off a little."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    where = np.linspace(0, lengths[-1], count)
    points = np.stack([np.interp(where, lengths, line[:, axis]) for axis in (0, 1)], axis=1)
    padded = np.pad(points, ((2, 2), (0, 0)), mode="edge")
    smooth: Array = np.stack([padded[shift : shift + count] for shift in range(5)]).sum(axis=0) / 5
    return smooth


def _scan(points: Array, thickness: float) -> Array:
    """Count the inked pixels of each block: (8, 8)."""
    centres = np.arange(_BITMAP) + 0.5
    across = (centres[None, :] - points[:, :1]) ** 2
    down = (centres[None, :] - points[:, 1:]) ** 2
    inked = (down[:, :, None] + across[:, None, :]).min(axis=0) < thickness**2
    side = _BITMAP // _BLOCK
    counted: Array = inked.reshape(side, _BLOCK, side, _BLOCK).sum(axis=(1, 3)).astype(np.float32)
    return counted
