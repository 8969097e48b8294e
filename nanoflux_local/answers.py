"""Answers as values: reads a number or a letter out of a reply's answer, and says whether two numbers agree.

Our own parser: text from a model or a program is never evaluated, unpickled or handed to a symbolic parser.
"""

import math
import re
from fractions import Fraction

TOLERANCE = 1e-6
"""SPEC §6: |a − b| ≤ 1e-6 · max(1, |b|)."""

_NUMBER = re.compile(
    r"""(?<![\w.])
    (?P<sign>[-+−–](?=[\d.$€£¥])|(?<!\w\s)[-+−](?=\s))?  # a spaced dash after a word is punctuation
    \s*(?P<money>[$€£¥]?)\s*(?P<sign2>[-+−]?)
    (?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?![._]*\d)
    (?P<exponent>[eE][-+−]?\d+|\s*(?:×|x|\*|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*\{?\s*[-+−]?\d+\s*\}?)?
    (?:\s*/\s*(?P<below>\d+(?:\.\d+)?))?
    (?:[\s-]*(?P<scale>hundred|thousand|million|billion|trillion)s?\b)?
    (?![A-Za-z]\d)  # 0x10, 4x6""",
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([-+−]?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")
_LATEX_WRAPPER = re.compile(r"\\(?:boxed|text|mathrm|mathbf|left|right)\b")
_NOT_EVALUATED = re.compile(r"\\(?:[dt]?frac|sqrt|pi|log|ln)\b|[√π±]")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s*\}?\s*(?:\^|\*\*)\s*\{?-?\d\}?")
_CHOICE = re.compile(r"^[\s(\[{*_\"'`]*([A-Za-z])(?=[ \t]*(?:\n|$)|[)\]}.:,;*_\"'`]|\s+[-–—]\s)")
_LETTERS_ALONE = re.compile(r"(?:[\W_]+(?:(?:and|or)[\W_]+)?[A-Za-z])+[\W_]*", re.IGNORECASE)


def numbers_agree(found: float, expected: float) -> bool:
    """Whether two numbers are the same answer (paper A.1, SPEC §6). NaN and infinities agree with nothing."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return False
    return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))


def read_number(text: str) -> float | None:
    """The one number that an answer states, or None where there is none or where there are several different ones.

    Understands signs, thousands separators, decimals, fractions, scientific notation, "2.5 million", money and LaTeX.
    Units and words around it are passed over; "3 * 4 = 12" states what stands after its last "=". What would have to
    be calculated (roots, π, ±) is no number, and neither is a run of digits written in no known way ("1.234.567").
    """
    plain = _LATEX_FRACTION.sub(r"\1/\2", " ".join(text.split()))  # long runs of spaces would be slow to match
    plain = _LATEX_WRAPPER.sub(" ", plain)
    for mark, meaning in (("\\$", "$"), ("\\,", ""), ("\\!", ""), ("{,}", ",")):
        plain = plain.replace(mark, meaning)
    plain = _UNIT_POWER.sub("", plain.rpartition("=")[2])
    if _NOT_EVALUATED.search(plain):
        return None
    values = [value for match in _NUMBER.finditer(plain) if (value := _value(match)) is not None]
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _value(match: re.Match[str]) -> float | None:
    digits = match["digits"].replace(",", "")
    number = float(digits)
    if match["exponent"]:
        power = re.sub(r"^\s*(?:[eE]|(?:×|x|\*|\\times|\\cdot)\s*10\s*(?:\^|\*\*))", "", match["exponent"])
        number = float(f"{digits}e{power.strip(' {}').replace('−', '-')}")
    if match["below"]:
        below = Fraction(match["below"])
        if below == 0:
            return None
        number = number / float(below)
    if match["scale"]:
        number *= _SCALES[match["scale"].lower()]
    negative = ((match["sign"] or "+") in "-−–") != ((match["sign2"] or "+") in "-−")
    value = -number if negative else number
    return value if math.isfinite(value) else None


def read_choice(text: str, letters: str) -> str | None:
    """The option letter that an answer opens with ("B", "(b)", "B. mitochondria"), or None. `letters` as "ABCD".

    Several letters ("A, C") are no answer.
    """
    plain = _LATEX_WRAPPER.sub("", text).strip(" $\n\t\r")
    stated = re.sub(r"^\W*(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)(?:\s+is)?\W*", "", plain, flags=re.I)
    match = _CHOICE.match(stated)
    if match is None:
        return None
    letter, rest = match[1].upper(), _LETTERS_ALONE.fullmatch(stated, match.end())
    others = set(re.findall(r"\b[A-Z]\b", rest[0].upper())) & set(letters) - {letter} if rest else set()
    return letter if letter in letters and not others else None


def plain_number(x: float) -> str:
    """A number as people write it: 12.0 is "12", 1234.5 is "1234.5"; at most six decimals, never an exponent."""
    if isinstance(x, int):
        return str(x)
    text = f"{x:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
