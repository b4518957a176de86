"""From MediaWiki markup to the prose of an article."""

import re
from collections.abc import Callable

import mwparserfromhell
from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Node, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

DISAMBIGUATION = re.compile(r"\{\{\s*(disamb|geodis|hndis|surname)", re.IGNORECASE)
SECTION_START = re.compile(r"^(?===[^=])", re.MULTILINE)
END_MATTER = re.compile(
    r"==\s*(references|external links|see also|further reading|notes|footnotes|bibliography|sources|citations"
    r"|notes and references|works cited)\s*==",
    re.IGNORECASE,
)
DROPPED_TAGS = {"ref", "references", "gallery", "table", "math", "timeline", "imagemap"}
DROPPED_LINKS = ("file:", "image:", "category:", "media:")
INLINE_TEMPLATES = {
    "convert": "{0} {1}",
    "lang": "{1}",
    "nihongo": "{0}",
    "nowrap": "{0}",
    "quote": "{0}",
    "as of": "As of {0}",
}
"""The templates that stand for words of a sentence, and those words in terms of their positional parameters."""

CLEAN_UP: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"^.*(\[\[|\]\]|\{\{|\}\}|\{\||\|\}|</?\w+|\w=[^|\n]*\||^ *[|!]).*$", re.MULTILINE), ""),
    (re.compile(r"[^\S\n]+"), " "),
    (re.compile(r"__[A-Z]+__"), ""),
    (re.compile(r"'{2,}(s\b)?"), lambda match: "'s" if match[1] else ""),
    (re.compile(r"\([\s,;:]+"), "("),
    (re.compile(r"[\s,;:]+\)"), ")"),
    (re.compile(r"\s*\(\s*\)"), ""),
    (re.compile(r" +([,.;:])"), r"\1"),
    (re.compile(r"^[ *#:;,|]+|[ |]+$", re.MULTILINE), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
]
"""In this order: lines where broken markup defeated the parser, then the holes that dropped markup leaves."""


def is_disambiguation(markup: str) -> bool:
    """Tell whether a page only lists the meanings of a word."""
    return bool(DISAMBIGUATION.search(markup))


def strip_markup(markup: str) -> str:
    """Return the plain text of an article without tables, notes, images and the lists that end it."""
    sections = SECTION_START.split(markup)
    text = "\n".join(_plain(mwparserfromhell.parse(section)) for section in sections if not END_MATTER.match(section))
    for pattern, replacement in CLEAN_UP:
        text = pattern.sub(replacement, text)
    return text.strip()


def _plain(code: Wikicode | None) -> str:
    return "".join(_words(node) for node in code.nodes) if code else ""


def _words(node: Node) -> str:
    match node:
        case Text():
            return str(node.value)
        case HTMLEntity():
            return str(node.normalize())
        case Heading():
            return f"\n{_plain(node.title)}\n"
        case Tag() if str(node.tag).strip().lower() not in DROPPED_TAGS:
            return _plain(node.contents)
        case Wikilink() if not str(node.title).strip().lower().startswith(DROPPED_LINKS):
            return _plain(node.text or node.title)
        case ExternalLink():
            return _plain(node.title)
        case Template():
            words = INLINE_TEMPLATES.get(str(node.name).strip().lower(), "")
            positional = [_plain(parameter.value) for parameter in node.params if not parameter.showkey]
            return words.format(*positional, *[""] * 2)
    return ""
