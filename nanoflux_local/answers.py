"""Reads the number or the option letter that a reply's answer states, and decides whether two numbers agree.

The parser is written for this project: text from a model or a program is never evaluated, unpickled or passed to a
symbolic parser.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from nanoflux_local.reply_end import cut_at_next_turn

TOLERANCE = 1e-6
"""Numbers a and b agree if |a − b| ≤ 1e-6 · max(1, |b|)."""

MAX_CHARS = 20_000
"""A text with more characters is not searched for an answer."""
_NUMBER = re.compile(
    r"""(?<![\w.])
    (?P<sign>[-+−–](?=[\d.$€£¥])|(?<!\w\s)[-+−](?=\s))?  # a spaced dash after a word is punctuation
    \s*(?P<money>[$€£¥]?)\s*(?P<sign_after_money>[-+−]?)
    (?:(?P<whole>\d+)\s+(?=\d+\s*/\s*\d))?  # 1 1/2
    (?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?![._]*\d)
    (?!k\b)  # 18k is ambiguous: 18 or 18,000
    (?P<exponent>[eE][-+−]?\d+)?
    (?:\s*/\s*(?P<denominator>\d+(?:\.\d+)?)(?![.\d]|\s*/\s*\d))?
    (?:[\s-]*(?P<scale>hundred|thousand|million|billion|trillion)s?\b)?
    (?![A-Za-z]\d)  # 0x10, 4x6""",
    re.VERBOSE | re.IGNORECASE,
)
"""A number in plain spelling, with sign, currency, fraction, exponent or scale: "-$1,234.50", "1 1/2", "5 million"."""
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_OPERATOR = re.compile(r"[-+−*×·/]")
"""An arithmetic operator: two numbers with an operator between them are a calculation."""
_POWER_OF_TEN = re.compile(
    r"((?<=\d)\s*(?:×|x|\*|·|⋅|\\times|\\cdot)\s*)?(?<![\d.])10\s*(?:\^|\*\*)\s*\{?\s*([-+−]?\d+)\s*\}?", re.IGNORECASE
)
"""A power of ten, and the times sign before it: the "× 10^3" of "2 × 10^3"."""
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUPERSCRIPT_RUN = re.compile("[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_FRACTION_SIGN = re.compile("[¼-¾⅐-⅞]")
_LATEX_FRACTION = re.compile(r"\\[cdt]?frac\s*(?:\{\s*([-+−]?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}|(\d)\s*(\d)(?!\d))")
"""A fraction of numbers in LaTeX: "\\frac{3}{4}" or "\\frac34"."""
_LATEX_WRAPPER = re.compile(r"\\(?:f?boxed|text|textbf|mathrm|mathbf|left|right)\b|\\[()\[\]]")
_NOT_EVALUATED = re.compile(r"\\(?:[cdt]?frac|sqrt|pi|log|ln)\b|[√π±]")
"""Marks an expression that would have to be calculated, so its value is not read."""
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])\s*\}?\s*(?:\^|\*\*)\s*\{?-?\d\}?")
"""The exponent of a unit: the "^2" of "5 m^2"."""
_LEAD_IN = re.compile(
    r"^\W*(?:(?:it\s+is|i\s+(?:would\s+)?(?:choose|pick|select))\s+)?"
    r"(?:(?:the\s+)?(?:(?:correct|best|final|right)\s+)?(?:answer|option|choice)(?:\s+is)?"
    r"(?:\W*\b(?:option|choice|letter))?)?\W*",
    re.IGNORECASE,
)
"""Opening words before an answer, such as "The correct answer is option"."""
_BOX = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
"""The content of a LaTeX box, in which braces may be nested two deep."""
_STRUCK_OUT = re.compile(r"~~[^~\n]*~~")
"""Text that Markdown strikes out: "~~12~~"."""
_EMPHASIS = re.compile(r"(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w)")
"""The underscores of Markdown's emphasis: "_12_"."""
_DIGIT = re.compile(r"[\d¼-¾⅐-⅞]")
_FIRST_LIST_ITEM = re.compile(r"\W*1[.)]\s+\w")
"""The first item of a numbered list, whose number is not an answer."""
_BRACKETED_REMARK = re.compile(
    r"(?<=[^\s*×·/+\-−=^(])\s+\((?!\s*or\b)(?![\d\s.,$]*[-+−*×·/][\d\s.,$+*×·/−-]*\))[^()]*\)(?!\s*[-+−*×·/^\d])"
)
"""A remark in brackets after a value or a word. A calculation in brackets, or "(or 20)", is not a remark."""
_UNEQUAL = re.compile(r"!=|≠|\\neq?\b")
_EQUALS = re.compile(r"(?<![<>])=")
"""An equals sign that is not part of "<=" or ">="."""
_REASON_START = re.compile(
    r"\b(?:because|since)\b|\b(?:check|note|verification|human|user|assistant|question)\s*:", re.IGNORECASE
)
"""Words after which the numbers of a line are reasons or checks, not answers."""
_NOT_CONCLUSION = (
    r"(?!(?:so|therefore|thus|hence|then|giving|making|and|or|to|but|the\s+(?:final\s+)?(?:answer|total))\b)"
)
"""A lookahead that fails before words that introduce a conclusion or continue the value."""
_REMARK = re.compile(
    rf"(?<![.\s][A-Za-z])[.!?;]\s+{_NOT_CONCLUSION}(?=[A-Za-z(])|\s[—–]\s+{_NOT_CONCLUSION}(?=[A-Za-z]{{2}})"
    rf"|,\s+{_NOT_CONCLUSION}(?=[A-Za-z][^\d=]{{0,60}}=)|,?\s+(?:not|rather\s+than|instead\s+of)\b",
    re.IGNORECASE,
)
"""The beginning of a remark after a value: another sentence, a dash, ", n = 9" or "not 20", but not a conclusion such
as ", so x = 9".
"""
_OPENING_LETTER = re.compile(r"^[\s(\[{<*_\"'`]*([A-Za-z])(?=[ \t]*(?:\n|$)|[)\]}>.:,;*_\"'`]|\s+[-–—]\s|\s+\()")
"""A letter that stands alone at the beginning of an answer: "B", "(b)", "B. mitochondria", "B - mitochondria"."""
_ONLY_LETTERS = re.compile(r"(?:[\W_]+(?:(?:and|or)[\W_]+)?[A-Za-z])+[\W_]*", re.IGNORECASE)
"""Nothing but further letters: the ", C and D" of "A, C and D"."""
_OPTION_MARK = re.compile(r"(?<!\w)([A-J])[*_]{0,3}[.):](?=\s|[*_])")
"""The letter that marks an option anywhere in a line: "A." or "**B)**"."""
_LINE_OPTION_MARK = re.compile(r"^[\s(\[*_>-]*([A-J])[*_]{0,3}[.):\]](?=\s|[*_])", re.MULTILINE)
"""The letter that marks an option at the beginning of a line: "- A." or "(B)"."""
_VERDICT = re.compile(
    r"(?<!\w)([A-J])\b[^\w\n]*(?:\([^()\n]*\)\s*)?(?:is|was)\s+(?:(?:clearly|definitely|also|the|an?)\s+)*"
    r"(?:(?P<yes>correct|right|true|best|answer)|(?P<no>not|incorrect|wrong|false))\b"
)
"""A verdict directly after an option's letter: "B is correct"."""
_OPTION_VERDICT = re.compile(
    r"(?<!\w)([A-J])[*_]{0,3}[.):][ \t]*[^.;\n]{0,200}?(?<![\s(][A-J])\s(?:is|was)\s+"
    r"(?:(?:clearly|definitely|also|the)\s+)*(?:(?P<yes>correct|right)|(?P<no>incorrect|wrong|not\s+(?:correct|right)))\b"
)
"""A verdict in an option's sentence: "A. ant is wrong"."""
_SHORT_VERDICT = re.compile(
    r"(?<!\w)([A-J])[*_]{0,3}[.):]\s*[*_]{0,3}(?:(?P<yes>correct|right)|(?P<no>incorrect|wrong))[*_]{0,3}\s*(?=[.,;!\n]|$)",
    re.IGNORECASE,
)
"""A verdict in place of an option's sentence: "B: right"."""
_EXPLANATION_WORD = re.compile(r"\b(?:wrong|incorrect|not|false|because)\b", re.IGNORECASE)
"""A word that shows that a line explains an answer, and does not list an option."""
_SEVERAL_OPTIONS = re.compile(r"\W*(?:both|all|neither|none)\b", re.IGNORECASE)
"""The beginning of an option that is about other options: "Both A and C"."""
_FURTHER_LETTER = re.compile(r"(?:\b(?:and|or)\b|[,/&])\s*\(?([A-J])\b(?=\)\s*\w|:\s*\w|\s*\(\w)")
"""The letter of a further option that an answer also chooses: the "C" of "A) ant and C) cat"."""
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | dict.fromkeys(map(ord, "‐‑﹣"), "-")
"""Translates full-width characters, and hyphens used as minus signs, to ASCII."""


def numbers_agree(value: float, expected: float) -> bool:
    """Whether two numbers are the same answer (paper A.1). NaN and infinities agree with nothing.

    For an expected number below the tolerance, the relative difference decides, since even 0 would be close enough in
    absolute terms.
    """
    if not (math.isfinite(value) and math.isfinite(expected)):
        return False
    scale = abs(expected) if is_below_tolerance(expected) else max(1.0, abs(expected))
    return abs(value - expected) <= TOLERANCE * scale


def is_below_tolerance(value: float | Decimal) -> bool:
    """Whether a number is nearer to 0 than the tolerance without being 0."""
    return value != 0 and -TOLERANCE < value < TOLERANCE


def same_number(answer: str, expected: str) -> bool:
    """Whether each of two answers states one number, and the two numbers agree.

    An expected number below the tolerance may be rounded: 5.158232e-7 agrees with an expected "5.158e-7".
    """
    value, expected_value = read_number(answer), read_number(expected)
    if value is None or expected_value is None:
        return False
    if is_below_tolerance(expected_value) and math.isfinite(value):
        return numbers_agree(value, expected_value) or abs(value - expected_value) <= _half_unit(expected)
    return numbers_agree(value, expected_value)


def _half_unit(text: str) -> float:
    """Half a unit of a number's last digit, which is the largest rounding error; 0 if the text is not a number."""
    try:
        exponent = Decimal(text.strip()).as_tuple().exponent
    except InvalidOperation:
        return 0.0
    return 0.5 * 10.0**exponent if isinstance(exponent, int) else 0.0


def float_or_none(text: str) -> float | None:
    """The text as a number, which may be NaN or infinite; None if it is not a number."""
    try:
        return float(text)
    except ValueError:
        return None


def read_number(text: str) -> float | None:
    """The one number that an answer states, or None if it states none or several different ones.

    Reads the first value on the first line with a number. An invented next turn, control tokens, bracketed remarks and
    checks that follow the value are ignored. "3 * 4 = 12" states the value after the last "=" of the line. If the text
    does not open with a value but has a box (\\boxed), the value in the box is read.

    Understands signs, thousands separators, decimals, fractions and mixed numbers, scientific notation, "2.5 million",
    money and LaTeX, in ASCII and full-width characters; units and words around the number are ignored. An expression to
    calculate (9 + 9, roots, π, ±) is not a number, and neither are digits in an unknown notation ("1.234.567").
    """
    if len(text) > MAX_CHARS:
        return None
    text = _STRUCK_OUT.sub(" ", cut_at_next_turn(text.translate(_FULL_WIDTH)))
    line = _BRACKETED_REMARK.sub("", _to_plain_spelling(_find_answer_line(text)))
    first_value = None if _FIRST_LIST_ITEM.match(line) else _NUMBER.match(line, _find_lead_in_end(line))
    boxes = _BOX.findall(text) if first_value is None else []
    if boxes:
        values = {_read_value_after_equals(_to_plain_spelling(box)) for box in boxes}
        return values.pop() if len(values) == 1 else None
    line = _cut_at_reason(_UNEQUAL.split(line)[0])
    remark = _REMARK.search(line, first_value.end()) if first_value else None
    if remark and "=" not in line[: remark.start()]:
        line = line[: remark.start()]
    return _read_value_after_equals(line)


def _cut_at_reason(line: str) -> str:
    """The line up to the words after its first number that introduce a reason or a check ("because", "note:")."""
    number = _NUMBER.search(line)
    reason = _REASON_START.search(line, number.end()) if number else None
    return line[: reason.start()] if reason else line


def _find_answer_line(text: str) -> str:
    """The first line with a number; "" if no line has one. If the text opens with several lines that contain only a
    number, the result is all of these lines, joined by " ; ", because they state several answers.
    """
    lines = [line for line in _join_equations(text.split("\n")) if _DIGIT.search(line)]
    if not lines:
        return ""
    number_lines = list(itertools.takewhile(_is_only_number, lines))
    return " ; ".join(number_lines) if len(number_lines) > 1 else lines[0]


def _join_equations(lines: Iterable[str]) -> list[str]:
    """The lines without blank lines and surrounding spaces; lines that break before or after "=" are joined."""
    joined_lines: list[str] = []
    for line in map(str.strip, lines):
        if not line:
            continue
        continues_equation = line.lstrip("&\\ ").startswith("=")
        if joined_lines and (continues_equation or joined_lines[-1].endswith("=")):
            joined_lines[-1] = f"{joined_lines[-1]} {line}"
        else:
            joined_lines.append(line)
    return joined_lines


def _is_only_number(line: str) -> bool:
    """Whether a line contains a number and no other words or digits."""
    match = _NUMBER.search(line)
    return match is not None and re.search(r"\w", line[: match.start()] + line[match.end() :]) is None


def _find_lead_in_end(text: str) -> int:
    """The index after opening words like "The answer is"."""
    lead_in = _LEAD_IN.match(text)
    return lead_in.end() if lead_in else 0


def _read_value_after_equals(line: str) -> float | None:
    """The one number after the last "=" of a line in plain spelling; None if there is no number, several different
    numbers, or an expression to calculate.
    """
    plain = _UNIT_POWER.sub("", _EQUALS.split(line)[-1])
    if _NOT_EVALUATED.search(plain):
        return None
    numbers = list(_NUMBER.finditer(plain))
    if any(_is_operation(plain, number, next_number) for number, next_number in itertools.pairwise(numbers)):
        return None
    values = {_read_value(number) for number in numbers} - {None}
    return values.pop() if len(values) == 1 else None


def _to_plain_spelling(text: str) -> str:
    """The text with LaTeX, superscripts, fraction characters and powers of ten in their plain spelling."""
    plain = _EMPHASIS.sub("", " ".join(text.split())).strip("_ ")  # long runs of spaces would be slow to match
    plain = _FRACTION_SIGN.sub(lambda match: f" {unicodedata.normalize('NFKC', match[0])} ", plain).replace("⁄", "/")
    plain = _SUPERSCRIPT_RUN.sub(lambda match: f"^{match[0].translate(_SUPERSCRIPTS)}", plain)
    plain = re.sub(r"(?<=\d)(?=\\[cdt]?frac)", " ", plain)  # 1\frac{1}{2}
    plain = _LATEX_FRACTION.sub(lambda match: f"{match[1] or match[3]}/{match[2] or match[4]}", plain)
    plain = _LATEX_WRAPPER.sub(" ", plain)
    for mark, meaning in (("\\$", "$"), ("\\,", ""), ("\\!", ""), ("{,}", ",")):
        plain = plain.replace(mark, meaning)
    return _POWER_OF_TEN.sub(lambda match: f"{'' if match[1] else '1'}e{match[2].replace('−', '-')}", plain)


def _is_operation(text: str, left_number: re.Match[str], right_number: re.Match[str]) -> bool:
    """Whether there is only an arithmetic operator between two numbers. `_NUMBER` may have matched the operator as the
    sign of the right number: the "-5" of "9 -5".
    """
    between = text[left_number.end() : right_number.start()].strip()
    sign_of_right_number = (right_number["sign"] or "").strip()
    operator = between if between else sign_of_right_number
    return _OPERATOR.fullmatch(operator) is not None


def _read_value(match: re.Match[str]) -> float | None:
    """The value of a match of `_NUMBER`; None if it divides by 0 or is too large for a float."""
    number = float(match["digits"].replace(",", "") + (match["exponent"] or "").replace("−", "-"))
    if match["denominator"]:
        denominator = Fraction(match["denominator"])
        if denominator == 0:
            return None
        number = number / float(denominator)
    number += float(match["whole"] or 0)
    if match["scale"]:
        number *= _SCALES[match["scale"].lower()]
    minus_signs = [sign for sign in (match["sign"], match["sign_after_money"]) if sign and sign in "-−–"]
    value = -number if len(minus_signs) == 1 else number  # two minus signs cancel out
    return value if math.isfinite(value) else None


def read_choice(text: str, letters: str) -> str | None:
    """The option letter at the start of an answer ("B", "(b)", "B. mitochondria"), or None. `letters` are the options'
    letters, such as "ABCD".

    Several letters ("A, C") or a repeated list of the options yield None. "A) is incorrect. B) is correct." states B:
    if an answer calls its opening option wrong, the result is the only option that the answer calls right.
    """
    text = _STRUCK_OUT.sub(" ", cut_at_next_turn(text.translate(_FULL_WIDTH)))
    plain = _LATEX_WRAPPER.sub("", text).strip(" $\n\t\r")
    right_letters, wrong_letters = _find_verdicts(plain)
    answer = _LEAD_IN.sub("", plain)
    match = _OPENING_LETTER.match(answer)
    if match is None or match[1].upper() in wrong_letters:
        opens_with_an_option = match is not None or _VERDICT.match(answer) is not None
        if not opens_with_an_option or len(right_letters) != 1:
            return None
        letter = right_letters.pop()
        return letter if letter in letters and letter not in wrong_letters else None
    letter = match[1].upper()
    if letter not in letters or _are_options_listed(plain, letters):
        return None
    first_line = answer[match.end() :].partition("\n")[0]
    if _SEVERAL_OPTIONS.match(first_line):  # "D. Both A and C" is one answer
        return letter
    further_letters = set(_FURTHER_LETTER.findall(first_line)) | _find_bare_letters(answer, match.end())
    chosen_letters = {letter} | ((right_letters | further_letters) & set(letters))
    return letter if chosen_letters == {letter} else None


def _find_verdicts(text: str) -> tuple[set[str], set[str]]:
    """The letters of the options that a text calls right, and of those that it calls wrong."""
    verdicts = [*_VERDICT.finditer(text), *_OPTION_VERDICT.finditer(text)]
    short_verdicts = list(_SHORT_VERDICT.finditer(text))
    # A lone "B: right" may be option B with the text "right". Short verdicts count only if some say right and others
    # say wrong.
    if any(match["yes"] for match in short_verdicts) and any(match["no"] for match in short_verdicts):
        verdicts += short_verdicts
    right_letters = {match[1] for match in verdicts if match["yes"]}
    wrong_letters = {match[1] for match in verdicts if match["no"]}
    return right_letters, wrong_letters


def _are_options_listed(text: str, letters: str) -> bool:
    """Whether the text repeats the options in their order: line by line, or several on one line.

    "A. ant" followed by the line "B. bee is wrong" is not a list of options, but an answer and its explanation.
    """
    if _LINE_OPTION_MARK.findall(text)[:2] == list(letters[:2]):
        return _EXPLANATION_WORD.search(text.partition("\n")[2]) is None
    first_letters = list(letters[:3])
    return any(_OPTION_MARK.findall(line)[: len(first_letters)] == first_letters for line in text.split("\n"))


def _find_bare_letters(text: str, start: int) -> set[str]:
    """The option letters in `text[start:]` if it contains nothing but such letters: the "C" of "A, C"."""
    letters_match = _ONLY_LETTERS.fullmatch(text, start)
    return set(re.findall(r"\b[A-Z]\b", letters_match[0].upper())) if letters_match else set()


def plain_number(number: float) -> str:
    """A calculated number as people write it, with at most six decimals and no exponent: 12.0 becomes "12"."""
    if isinstance(number, int):
        return str(number)
    text = f"{number:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def exact_number(number: float | Decimal) -> str:
    """A number with all of its digits: 0.00025033 becomes "0.00025033", 3.2e-7 becomes "3.2e-7". Only numbers below
    1e-6 have an exponent.

    Raises ValueError for NaN and infinities.
    """
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    value = Decimal(repr(number) if isinstance(number, float) else number)
    if is_below_tolerance(value):
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{_strip_zeros(mantissa)}e{int(exponent)}"
    text = _strip_zeros(f"{value:f}")
    return "0" if text == "-0" else text


def _strip_zeros(decimal: str) -> str:
    """A decimal without the zeros at the end of its fraction: "1.50" becomes "1.5", "2.0" becomes "2"."""
    return decimal.rstrip("0").rstrip(".") if "." in decimal else decimal


def answer_number(number: float) -> str:
    """A number read from an answer, as people write it; with all of its digits if six decimals would round it to 0."""
    return exact_number(number) if is_below_tolerance(number) else plain_number(number)


_ARTICLES = frozenset({"a", "an", "the"})
_NEGATIONS = frozenset({"no", "not", "never", "without", "none", "nor"})


def same_short_text(answer: str, expected: str) -> bool | None:
    """Whether two short texts are the same answer; None if their words do not decide it.

    The texts are the same answer if they have the same words, or if one has all words of the other and adds neither a
    number nor a negation ("45 minutes", "after 45 minutes"). They are different answers if their numbers or negations
    differ, or if they have no word in common.
    """
    words, expected_words = _content_words(answer), _content_words(expected)
    if words == expected_words:
        return True if words else None
    numbers, expected_numbers = _select_numbers(words), _select_numbers(expected_words)
    if numbers != expected_numbers and numbers and expected_numbers:
        return False
    has_common_word = bool(words & expected_words)
    has_same_negations = words & _NEGATIONS == expected_words & _NEGATIONS
    if not has_common_word or not has_same_negations:
        return False
    is_contained = words <= expected_words or expected_words <= words
    return True if is_contained and numbers == expected_numbers else None


def _select_numbers(words: frozenset[str]) -> set[str]:
    return {word for word in words if word[0].isdigit()}


def _content_words(text: str) -> frozenset[str]:
    """The words and numbers of a text in lower case, without articles; a number keeps its decimals."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return frozenset(re.findall(r"\d[\d,.]*\d|\w+", plain)) - _ARTICLES
