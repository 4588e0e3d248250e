"""A molecule as a drawing: RDKit's SVG, rebuilt from the few elements and attributes that it needs.

What a browser gets is made of shapes and numbers only: no text, style sheet, link or script can stand in it.
"""

import re
from html import escape
from xml.etree import ElementTree  # it reads what RDKit has written, never a caller's text

from budwood.core.errors import DataError, require
from budwood.engine.molecules import prepare, quiet

__all__ = ["MAX_DRAWN", "draw_molecule"]

MAX_DRAWN = 150
"""Heavy atoms; a drawing of more is a knot that nobody can read, and costs more than 30 ms."""
WIDTH, HEIGHT = 320, 220
ATTRIBUTES = {
    "rect": ("x", "y", "width", "height", "fill"),
    "path": ("d", "fill", "stroke", "stroke-width"),
    "ellipse": ("cx", "cy", "rx", "ry", "fill", "stroke", "stroke-width"),
    "polygon": ("points", "fill", "stroke", "stroke-width"),
}
"""The shapes of a drawing; RDKit's styles become attributes."""
VALUE = re.compile(r"[-#0-9A-Za-z., \n]*", re.ASCII)
"""Numbers, the letters of paths, and colours such as #FF0000 or none."""


def draw_molecule(smiles: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """One `<svg>` element on a white card, the size in pixels; the same molecule always gives the same drawing.

    Raises:
        DataError: the text is no molecule, or has too many atoms to be drawn.
    """
    molecule = prepare(smiles).molecule
    count = molecule.GetNumHeavyAtoms()
    if count > MAX_DRAWN:
        fix = "draw a part of it"
        raise DataError(f"it has {count} heavy atoms, at most {MAX_DRAWN} are drawn", where="smiles", fix=fix)
    drawing = require("rdkit.Chem.Draw.rdMolDraw2D", extra="chem")
    with quiet():
        canvas = drawing.MolDraw2DSVG(width, height)
        drawing.PrepareAndDrawMolecule(canvas, molecule)
        canvas.FinishDrawing()
    shapes = "".join(rebuilt(canvas.GetDrawingText()))
    space = "http://www.w3.org/2000/svg"
    return f'<svg xmlns="{space}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{shapes}</svg>'


def rebuilt(svg: str) -> list[str]:
    """The known shapes with their known attributes, in order."""
    found = []
    for element in ElementTree.fromstring(svg.encode("latin-1")).iter():  # noqa: S314
        tag = element.tag.rpartition("}")[2]
        if tag not in ATTRIBUTES:
            continue
        given = dict(element.attrib) | dict(
            pair.split(":", 1) for pair in element.get("style", "").split(";") if ":" in pair
        )
        given["stroke-width"] = given.get("stroke-width", "").removesuffix("px")
        kept = [(name, " ".join(given[name].split())) for name in ATTRIBUTES[tag] if given.get(name)]
        shown = "".join(f' {name}="{escape(value)}"' for name, value in kept if VALUE.fullmatch(value))
        found.append(f"<{tag}{shown}/>")
    return found
