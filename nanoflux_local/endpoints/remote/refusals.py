"""Recognises the errors of a server that permanently refuses one prompt but accepts others.

Other permanent errors (a wrong key, no credit, an unknown model) concern every prompt and end the run. If a provider's
wording is not recognised, a rejected request counts as a refusal of its prompt; `ledger.calls` and `run.streaks` detect
a server that refuses one prompt after another.
"""

import re

from nanoflux_local.endpoints.faults import ClassifiedFault

TOO_LONG, FILTERED, REJECTED, NO_ANSWER = "prompt too long", "content filter", "prompt rejected", "no answer"
"""The causes of a refusal. `NO_ANSWER`: the reply is complete but is not an answer, such as a tool call. `REJECTED`:
any other cause.
"""
REJECTION_STATUSES = (400, 413, 422)
"""Statuses with which servers refuse a single request."""
_CONCERNS_EVERY_PROMPT = re.compile(
    r"api.?key|credentials?\b|unauthori[sz]ed|authenticat|permission_error|credit balance|billing|quota"
    r"|insufficient[ _](?:credits?|balance|funds)|account\b.{0,60}\b(?:blocked|suspended|disabled|deactivated)"
    r"|model_not_found|(?:invalid|unknown|unsupported) model|not a valid model"
    r"|model\W.{0,200}\b(?:does not exist|not found|not available|is not supported)",
    re.IGNORECASE | re.DOTALL,
)
"""Texts of errors that have one of the `REJECTION_STATUSES` but concern every prompt."""
_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|window|size|limit)|maximum (?:context|input|prompt|sequence) ?length|max_model_len"
    r"|(?:prompt|input|request|message|text)s?(?: is| are|_) ?too (?:long|large|big)|request_too_large|too_long"
    r"|too many (?:input |total )?tokens|entity too large|payload too large|string_above_max_length|longer than the"
    r"|exceed_context|exceeds?\b.{0,80}\btokens?\b|\btokens?\b.{0,80}\b(?:exceed|must be <=|> \d)"
    r"|reduce the length|input length",
    re.IGNORECASE | re.DOTALL,
)
_FILTERED = re.compile(
    r"content.?(?:filter|management|policy)|responsibleai|responsible ai|flagged|moderation|usage polic|safety"
    r"|data_inspection|inappropriate|prohibited_content|sensitive|invalid_prompt|blocked",
    re.IGNORECASE,
)
_EXCEEDS_RATE_LIMIT = re.compile(r"request too large|must be reduced in order to run", re.IGNORECASE)
"""The message if one prompt exceeds the tokens-per-minute limit. Waiting does not help, although OpenAI sends 429."""
_NAMES_CONTEXT = re.compile(r"context (?:size|length|window)", re.IGNORECASE)
"""The message of a status 500 with which some servers (llama.cpp before 2025) refuse a prompt that is too long."""


def find_refusal_cause(fault: ClassifiedFault) -> str:
    """The cause (`TOO_LONG`, `FILTERED`, `REJECTED` or `NO_ANSWER`) if the server permanently refuses this prompt; ""
    for any other fault.
    """
    text = " ".join((fault.server_message, *fault.codes))
    if fault.kind is None and not fault.status:
        return NO_ANSWER  # only the fault of a `NoAnswerError` has neither a kind nor a status
    if fault.status in REJECTION_STATUSES:
        return _classify_rejection(text)
    if fault.status == 403:
        return FILTERED if _FILTERED.search(text) and not _CONCERNS_EVERY_PROMPT.search(text) else ""
    if fault.status == 429:
        return TOO_LONG if _EXCEEDS_RATE_LIMIT.search(text) else ""
    if fault.status == 500:
        return TOO_LONG if _NAMES_CONTEXT.search(text) else ""
    return ""


def _classify_rejection(text: str) -> str:
    """The cause of a refusal with one of the `REJECTION_STATUSES`; "" if the error concerns every prompt."""
    if _TOO_LONG.search(text) or _EXCEEDS_RATE_LIMIT.search(text):
        return TOO_LONG
    if _CONCERNS_EVERY_PROMPT.search(text):
        return ""
    return FILTERED if _FILTERED.search(text) else REJECTED
