"""Which HTML elements a reader of the rendered page can see, as far as the element itself and its inline style tell.

Knows no style sheets and runs no script, so an element hidden by a class is taken for visible. Text that is there for
machines alone is a way to smuggle instructions into an answer; it is dropped, not indexed.
"""

from __future__ import annotations

import re

from lxml import etree

_UNRENDERED_TAGS = """
    script style template noscript head title meta link svg iframe object embed audio video canvas datalist param source
    track map
"""
UNRENDERED = frozenset(_UNRENDERED_TAGS.split())
_ZERO = re.compile(r"0*\.?0*(px|pt|em|rem|ex|ch|%|vw|vh|cm|mm|in|pc|q)?")
_TINY_FONT = re.compile(r"(0*[01](\.0*)?|0*\.\d+)(px|pt)|0*\.0\d*(em|rem)|0*[0-9](\.\d*)?%")
_FAR_OUT = re.compile(r"-\d{4,}(\.\d*)?(px|pt|em|rem|%)?")
_HEX = re.compile(r"#(?:([0-9a-f])([0-9a-f])([0-9a-f])[0-9a-f]?|([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})(?:[0-9a-f]{2})?)")
_RGB = re.compile(r"rgba?\((\d{1,3}),(\d{1,3}),(\d{1,3})(?:,[\d.]+%?)?\)")
_TRANSPARENT = re.compile(r"transparent|rgba\(.*,0*\.?0*%?\)|#[0-9a-f]{3}0|#[0-9a-f]{6}00")
_WHITE_FROM = 250  # of 255 in each channel


def declarations(style: str) -> dict[str, str]:
    """Property -> value of an inline style, in lower case without blanks.

    >>> declarations("Color: #FFF !important; font-size:0 ")
    {'color': '#fff', 'font-size': '0'}
    """
    pairs = (declaration.partition(":") for declaration in style.lower().split(";"))
    return {name.strip(): re.sub(r"\s+|!important", "", value) for name, _, value in pairs if value}


def is_hidden(element: etree._Element) -> bool:
    """Whether the element hides itself: ``hidden``, ``aria-hidden``, a closed ``dialog``, or an inline style.

    Styles that count: no display, no visibility, no opacity, a font of 1 px or less, a place far off the page, text in the
    colour of its background.
    """
    attributes = element.attrib
    if "hidden" in attributes or attributes.get("aria-hidden", "").strip().lower() == "true":
        return True
    if element.tag == "dialog" and "open" not in attributes:
        return True
    style = declarations(attributes.get("style", ""))
    if not style and "color" not in attributes:
        return False
    return (
        style.get("display") == "none"
        or style.get("visibility") in ("hidden", "collapse")
        or ("opacity" in style and _ZERO.fullmatch(style["opacity"]) is not None)
        or ("font-size" in style and bool(_ZERO.fullmatch(style["font-size"]) or _TINY_FONT.fullmatch(style["font-size"])))
        or any(_FAR_OUT.fullmatch(style.get(name, "")) for name in ("left", "top", "text-indent", "margin-left"))
        or _melts_into_background(element, style.get("color") or attributes.get("color", "").lower())
    )


def _melts_into_background(element: etree._Element, colour: str) -> bool:
    if not colour:
        return False
    if _TRANSPARENT.fullmatch(colour):
        return True
    text = _channels(colour)
    if text is None:
        return False
    node: etree._Element | None = element
    is_styled_elsewhere = False
    while node is not None:
        style = declarations(node.get("style", ""))
        stated = style.get("background-color") or style.get("background") or node.get("bgcolor", "").lower()
        if stated and not _TRANSPARENT.fullmatch(stated):
            return _channels(stated) == text
        is_styled_elsewhere |= node.tag not in ("html", "body") and ("class" in node.attrib or "id" in node.attrib)
        node = node.getparent()
    # the bare page is white; a class or an id may have darkened it in a style sheet that nobody read
    return not is_styled_elsewhere and text == (255, 255, 255)


def _channels(colour: str) -> tuple[int, ...] | None:
    """Red, green, blue; nearly white counts as white. ``None`` for what is no plain colour."""
    if colour in ("white", "snow", "ivory", "hsl(0,0%,100%)"):
        return (255, 255, 255)
    if colour == "black":
        return (0, 0, 0)
    channels: tuple[int, ...]
    if found := _HEX.fullmatch(colour):
        channels = tuple(int(digit * 2 if len(digit) == 1 else digit, 16) for digit in found.groups() if digit)
    elif found := _RGB.fullmatch(colour):
        channels = tuple(int(number) for number in found.groups())
    else:
        return None
    return (255, 255, 255) if min(channels) >= _WHITE_FROM else channels
