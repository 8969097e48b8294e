"""Exploits on the grade: programs that try to get the wrong answer 7 graded as right, although 42 is expected. Without
a sandbox, a naive grader compares the answers.

In the sandbox, the grade is derived as in the application: outside the child, from the status and the last line of
output. The child never has the expected number.
"""

# ruff: noqa: E501 (programs are easier to read unbroken)

from sandbox_suite.exploit import Exploit, changed_world, graded_right

_FORGERIES = {
    "the expected number from a frame": (
        "import sys\nf = sys._getframe()\nwhile f:\n    if 'EXPECTED' in f.f_globals:\n        print(f.f_globals['EXPECTED'])\n"
        "        break\n    f = f.f_back\nelse:\n    print(7)"
    ),
    "the expected number from gc": (
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'EXPECTED' in o and 'compare' in o:\n"
        "        print(o['EXPECTED'])\n        break\nelse:\n    print(7)"
    ),
    "the expected number replaced": (
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'compare' in o and 'EXPECTED' in o:\n"
        "        o['EXPECTED'] = 7.0\nprint(7)"
    ),
    "the comparison replaced": "import math\nmath.isclose = lambda *a, **k: True\nprint(7)",
    "the comparing function replaced": (
        "import sys\nf = sys._getframe()\nwhile f:\n    if 'compare' in f.f_globals:\n"
        "        f.f_globals['compare'] = lambda a, b: True\n    f = f.f_back\nprint(7)"
    ),
    "float replaced": (
        "import builtins\n\nclass Same(float):\n    __eq__ = lambda s, o: True\n    __sub__ = __rsub__ = lambda s, o: 0.0\n\n"
        "builtins.float = lambda x: 42.0\nprint(7)"
    ),
    "the grade written before the grader": (
        "import os\nfor d in range(3, 1024):\n    try:\n        os.write(d, b'right\\n')\n    except OSError:\n        pass\n"
        "print(7)\nos._exit(0)"
    ),
    "the grade written to every open file": (
        "import gc, io, os\nfor o in gc.get_objects():\n    if isinstance(o, io.TextIOWrapper):\n        try:\n"
        "            o.write('right\\n'); o.flush()\n        except Exception:\n            pass\nprint(7)\nos._exit(0)"
    ),
    "the announcing function replaced": (
        "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'announce' in o and 'compare' in o:\n"
        "        o['announce'] = lambda v, say=o['announce']: say('right')\nprint(7)"
    ),
    "a grade at exit": (
        "import atexit, os\n\ndef late():\n    for d in range(3, 1024):\n        try:\n            os.write(d, b'right\\n')\n"
        "        except OSError:\n            pass\n    os._exit(0)\n\natexit.register(late)\nprint(7)\nraise SystemExit"
    ),
    "a grade in a profiler": (
        "import sys\n\ndef p(frame, event, arg):\n    if event == 'call' and frame.f_code.co_name == 'compare':\n"
        "        frame.f_globals['EXPECTED'] = 7.0\n        frame.f_globals['math'].isclose = lambda *a, **k: True\n\n"
        "sys.setprofile(p)\nprint(7)"
    ),
    "a replaced import": (
        "import sys, types\nm = types.ModuleType('math')\nm.isclose = lambda *a, **k: True\n"
        "for o in list(sys.modules.values()):\n    if getattr(o, 'math', None):\n        o.math = m\nprint(7)"
    ),
    "the output replaced": (
        "import sys\n\nclass O:\n    def write(s, t): return len(t)\n    def flush(s): pass\n    def getvalue(s): return '42'\n\n"
        "sys.stdout = O()\nprint(7)"
    ),
}

_UNPICKLED = (
    "import os, pickle, sys\n\nclass R:\n    def __reduce__(self):\n        return os.mkdir, (W['scratch'] + '/unpickled',)\n\n"
    "sys.stdout.write('pickle:' + pickle.dumps(R(), 0).decode('latin-1').encode('unicode_escape').decode() + '\\n')"
)

FORGERIES = [
    *(Exploit(f"grade: {name}", code, graded_right, graded=True) for name, code in _FORGERIES.items()),
    Exploit("grade: an answer that runs when read", _UNPICKLED, changed_world, graded=True),
]
