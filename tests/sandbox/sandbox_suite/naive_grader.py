"""The naive grader, which the forgeries defeat: it executes the program in its own process, and compares the
answer there. `python naive_grader.py PROGRAM DESCRIPTOR` writes "right" or "wrong" to the descriptor.
"""

import contextlib
import io
import math
import os
import pickle
import sys
from pathlib import Path

EXPECTED = 42.0
_grade_file = os.fdopen(int(sys.argv[2]), "w")


def announce(grade):
    _grade_file.write(f"{grade}\n")
    _grade_file.flush()


def compare(printed, expected):
    return math.isclose(float(printed), expected)


def main():
    code = Path(sys.argv[1]).read_text()
    stdout = sys.stdout = io.StringIO()
    with contextlib.suppress(SystemExit):
        exec(code, {"__name__": "__main__"})
    answer = sys.stdout.getvalue().strip().rpartition("\n")[2]
    if answer.startswith("pickle:"):
        answer = pickle.loads(answer[7:].encode().decode("unicode_escape").encode("latin-1"))
    announce("right" if compare(answer, EXPECTED) else "wrong")
    return stdout


if __name__ == "__main__":
    main()
