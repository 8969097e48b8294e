"""Answers as values: reads a number or a letter out of a reply's answer, and says whether two numbers agree.

Our own parser: text from a model or a program is never evaluated, unpickled or handed to a symbolic parser.
"""

import itertools
import math
import re
import unicodedata
from fractions import Fraction

TOLERANCE = 1e-6
"""SPEC §6: |a − b| ≤ 1e-6 · max(1, |b|)."""

LONGEST = 20_000
"""Characters: what is longer is no answer, and is not searched for one."""
_NUMBER = re.compile(
    r"""(?<![\w.])
    (?P<sign>[-+−–](?=[\d.$€£¥])|(?<!\w\s)[-+−](?=\s))?  # a spaced dash after a word is punctuation
    \s*(?P<money>[$€£¥]?)\s*(?P<sign2>[-+−]?)
    (?:(?P<whole>\d+)\s+(?=\d+\s*/\s*\d))?  # 1 1/2
    (?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?![._]*\d)
    (?!k\b)  # 18k is 18 or 18,000
    (?P<exponent>[eE][-+−]?\d+)?
    (?:\s*/\s*(?P<below>\d+(?:\.\d+)?)(?![.\d]|\s*/\s*\d))?
    (?:[\s-]*(?P<scale>hundred|thousand|million|billion|trillion)s?\b)?
    (?![A-Za-z]\d)  # 0x10, 4x6""",
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_OPERATION = re.compile(r"[-+−*×·/]?")
_POWER_OF_TEN = re.compile(
    r"((?<=\d)\s*(?:×|x|\*|\\times|\\cdot)\s*)?(?<![\d.])10\s*(?:\^|\*\*)\s*\{?\s*([-+−]?\d+)\s*\}?", re.IGNORECASE
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_RAISED = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*([-+−]?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}|(\d)\s*(\d)(?!\d))")
_LATEX_WRAPPER = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf|left|right)\b|\\[()\[\]]")
_NOT_EVALUATED = re.compile(r"\\(?:[dt]?frac|sqrt|pi|log|ln)\b|[√π±]")
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s*\}?\s*(?:\^|\*\*)\s*\{?-?\d\}?")
_LEAD = re.compile(
    r"^\W*(?:(?:it\s+is|i\s+(?:would\s+)?(?:choose|pick|select))\s+)?"
    r"(?:(?:the\s+)?(?:(?:correct|best|final|right)\s+)?(?:answer|option|choice)(?:\s+is)?)?\W*",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"^[\s(\[{<*_\"'`]*([A-Za-z])(?=[ \t]*(?:\n|$)|[)\]}>.:,;*_\"'`]|\s+[-–—]\s|\s+\()")
_LETTERS_ALONE = re.compile(r"(?:[\W_]+(?:(?:and|or)[\W_]+)?[A-Za-z])+[\W_]*", re.IGNORECASE)


def numbers_agree(found: float, expected: float) -> bool:
    """Whether two numbers are the same answer (paper A.1, SPEC §6). NaN and infinities agree with nothing."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return False
    return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))


def same_number(found: str, expected: str) -> bool:
    """Whether two answers each state one number, and these agree."""
    one, other = read_number(found), read_number(expected)
    return one is not None and other is not None and numbers_agree(one, other)


def read_number(text: str) -> float | None:
    """The one number that an answer states, or None where there is none or where there are several different ones.

    Understands signs, thousands separators, decimals, fractions and mixed numbers, scientific notation, "2.5 million",
    money and LaTeX. Units and words around it are passed over; "3 * 4 = 12" states what stands after its last "=". What
    would have to be calculated (9 + 9, roots, π, ±) is no number, and neither is a run of digits written in no known
    way ("1.234.567").
    """
    if len(text) > LONGEST:
        return None
    plain = _UNIT_POWER.sub("", _plain(text).rpartition("=")[2])
    if _NOT_EVALUATED.search(plain):
        return None
    found = list(_NUMBER.finditer(plain))
    if any(_is_operation(plain, one, other) for one, other in itertools.pairwise(found)):
        return None
    distinct = {value for match in found if (value := _value(match)) is not None}
    return distinct.pop() if len(distinct) == 1 else None


def _plain(text: str) -> str:
    """The text with LaTeX, raised digits, written fractions and powers of ten in their plain spelling."""
    plain = " ".join(text.split()).strip("_ ")  # long runs of spaces would be slow to match
    plain = _VULGAR.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", plain).replace("⁄", "/")
    plain = _RAISED.sub(lambda match: f"^{match[0].translate(_SUPERSCRIPTS)}", plain)
    plain = re.sub(r"(?<=\d)(?=\\[dt]?frac)", " ", plain)  # 1\frac{1}{2}
    plain = _LATEX_FRACTION.sub(lambda match: f"{match[1] or match[3]}/{match[2] or match[4]}", plain)
    plain = _LATEX_WRAPPER.sub(" ", plain)
    for mark, meaning in (("\\$", "$"), ("\\,", ""), ("\\!", ""), ("{,}", ",")):
        plain = plain.replace(mark, meaning)
    return _POWER_OF_TEN.sub(lambda match: f"{'' if match[1] else '1'}e{match[2].replace('−', '-')}", plain)


def _is_operation(text: str, one: re.Match[str], other: re.Match[str]) -> bool:
    """Whether two numbers follow each other with nothing but a sign of arithmetic between them."""
    between = text[one.end() : other.start()].strip()
    sign = between or (other["sign"] or "").strip()
    return bool(sign) and _OPERATION.fullmatch(sign) is not None


def _value(match: re.Match[str]) -> float | None:
    number = float(match["digits"].replace(",", "") + (match["exponent"] or "").replace("−", "-"))
    if match["below"]:
        below = Fraction(match["below"])
        if below == 0:
            return None
        number = number / float(below)
    number += float(match["whole"] or 0)
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
    stated = _LEAD.sub("", plain)
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
