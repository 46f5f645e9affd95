"""Numbers, units and abbreviations in words, by num2words where it knows the language, and English rules of our own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from num2words import CONVERTER_CLASSES, num2words

if TYPE_CHECKING:
    from workers.tts.normalise import Rewriting

LONGEST = 15
"""Digits of a number that is still read as one; longer ones are read digit by digit, as are those that begin with 0."""

PERCENT = {
    "en": "percent", "de": "Prozent", "fr": "pour cent", "es": "por ciento", "it": "per cento", "pt": "por cento",
    "nl": "procent", "sv": "procent", "da": "procent", "no": "prosent", "pl": "procent",
}  # fmt: skip
CURRENCIES = {"$": "USD", "€": "EUR", "£": "GBP", "¥": "JPY"}
ABBREVIATIONS = {
    "dr.": "doctor", "mr.": "mister", "mrs.": "missus", "ms.": "miss", "prof.": "professor", "e.g.": "for example",
    "i.e.": "that is", "vs.": "versus", "etc.": "et cetera", "approx.": "approximately", "dept.": "department",
    "jr.": "junior", "sr.": "senior", "w/": "with", "w/o": "without",
}  # fmt: skip
UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"), "mph": ("mile per hour", "miles per hour"),
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"), "lb": ("pound", "pounds"),
    "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"), "ft": ("foot", "feet"), "ml": ("milliliter", "milliliters"),
    "m": ("meter", "meters"), "g": ("gram", "grams"), "l": ("liter", "liters"), "s": ("second", "seconds"),
    "min": ("minute", "minutes"), "h": ("hour", "hours"), "ms": ("millisecond", "milliseconds"),
    "gb": ("gigabyte", "gigabytes"), "mb": ("megabyte", "megabytes"), "khz": ("kilohertz", "kilohertz"),
    "hz": ("hertz", "hertz"), "°c": ("degree Celsius", "degrees Celsius"), "°": ("degree", "degrees"),
    "°f": ("degree Fahrenheit", "degrees Fahrenheit"),
}  # fmt: skip
MONTHS = (
    "", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SIGNS = {"&": " and ", "+": " plus ", "=": " equals ", "×": " times ", "÷": " divided by ", "≈": " about "}

_SHORT = re.compile(r"(?<![\w.])(?:" + "|".join(re.escape(each) for each in ABBREVIATIONS) + r")(?=[\s,;:)]|$)", re.I)
_NUMBERED = re.compile(r"\bNo\.\s?(?=\d)")
_DATE = re.compile(r"(?<![\w-])((?:1[1-9]|20)\d\d)-(0[1-9]|1[0-2])-([0-2]\d|3[01])(?![\w-])")
_TIME = re.compile(r"(?<![\d:.])([01]?\d|2[0-3]):([0-5]\d)(?![\d:])(?=([ap]\.?m)?)")
_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,9})(?:st|nd|rd|th)\b", re.I)
_RANGE = re.compile(r"(?<=\d)\s?[–—-]\s?(?=\d)(?![\d.,]*[–—-]\d)")
_SIGN = re.compile(r"(?<=[\w)])\s*[&+=×÷≈]\s*(?=[\w(])|(?<=\d)\s*\*\s*(?=\d)|(?<!\S)&(?!\S)")
_UNIT = "|".join(sorted((re.escape(each) for each in UNITS), key=len, reverse=True))


def in_words(said: Rewriting, language: str) -> None:
    """Rewrite what is written in figures; ``language`` is a two-letter tag."""
    if language not in CONVERTER_CLASSES:
        return
    if language == "en":
        said.sub(_SHORT, lambda match: _cased(match.group(), ABBREVIATIONS[match.group().lower()]))
        said.sub(_NUMBERED, lambda match: "number ")
        said.sub(_DATE, lambda match: _date(match[1], int(match[2]), match[3]))
        said.sub(_TIME, lambda match: _time(int(match[1]), match[2]) + (" " if match[3] else ""))
        said.sub(_ORDINAL, lambda match: _number(match[1], language, to="ordinal"))
        said.sub(_RANGE, lambda match: " to ")
        said.sub(_SIGN, lambda match: " times " if "*" in match.group() else SIGNS[match.group().strip()])
    said.sub(_figures(language), lambda match: _figure(match, language))


def _figures(language: str) -> re.Pattern[str]:
    """A number with what belongs to it: sign, currency, percent, unit."""
    thousands, decimal = (",", r"\.") if language in ("en", "zh", "ja", "ko", "he", "th") else (r"[.\u202f\u00a0]", ",")
    number = rf"(?P<whole>\d{{1,3}}(?:{thousands}\d{{3}})+|\d+)(?:{decimal}(?P<part>\d+))?"
    return re.compile(
        rf"(?<![\w.,])(?P<minus>[-−](?=[\d$€£¥]))?(?P<money>[$€£¥])?{number}(?![\w]*\d|[.,]\d)"
        rf"(?:\s?(?P<after>[€£¥])|\s?(?P<percent>%)|\s?(?P<unit>(?i:{_UNIT}))(?!\w)|(?![^\W\d_]))",
    )


def _figure(match: re.Match[str], language: str) -> str | None:
    whole, part = re.sub(r"\D", "", match["whole"]), match["part"] or ""
    plain = match["whole"] == whole and not part and not match["minus"]
    figures = f"{whole}.{part}" if part else whole
    money = CURRENCIES.get(match["money"] or match["after"] or "")
    if money:
        words = _number(figures, language, to="currency", currency=money)
        words = words and re.sub(r", zero \w+$", "", words)
    elif plain and (len(whole) > LONGEST or (len(whole) > 1 and whole[0] == "0")):
        words = " ".join(_number(digit, language) or digit for digit in whole)
    elif plain and len(whole) == 4 and 1100 <= int(whole) <= 2099 and not (match["percent"] or match["unit"]):
        words = _number(whole, language, to="year")
    else:
        words = _number(figures, language)
    if words is None:
        return None
    words = f"minus {words}" if match["minus"] and language == "en" else words
    if match["percent"]:
        return f"{words} {PERCENT[language]}" if language in PERCENT else f"{words}%"
    if match["unit"]:
        one, many = UNITS[match["unit"].lower()]
        return f"{words} {one if figures == '1' else many}" if language == "en" else f"{words} {match['unit']}"
    return f"-{words}" if match["minus"] and language != "en" else words


def _number(figures: str, language: str, **options: Any) -> str | None:
    """``figures`` in words; None where num2words cannot."""
    try:
        exact = float(figures) if "." in figures and len(figures) < LONGEST else figures.partition(".")[0]
        return str(num2words(exact if options.get("to") == "currency" else figures, lang=language, **options))
    except Exception:  # whatever a language's converter stumbles over
        return None


def _date(year: str, month: int, day: str) -> str:
    ordinal, named = num2words(int(day), to="ordinal"), num2words(int(year), to="year")
    return f"{MONTHS[month]} {ordinal}, {named}"


def _time(hour: int, minutes: str) -> str:
    if minutes == "00":
        return f"{num2words(hour)} o'clock"
    return f"{num2words(hour)} {'oh ' if minutes[0] == '0' else ''}{num2words(int(minutes))}"


def _cased(written: str, said: str) -> str:
    return said.capitalize() if written[0].isupper() else said
