"""Loads everything that a program may import, once, in the fork server. Each program runs in a fork of the fork server.

A program cannot open files, so it cannot import anything else. Each of `SAMPLE_PROGRAMS` is run once, to load the parts
of the libraries that are imported lazily, and to fill caches. Third-party libraries that are not installed are skipped.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import BuiltinImporter, ModuleSpec


def _split_words(text: str) -> list[str]:
    """The words of a text; a list of words is shorter in this form than as a list of string literals."""
    return text.split()


STANDARD_MODULES = _split_words(
    """
abc argparse array ast asyncio atexit base64 binascii bisect builtins bz2 calendar cmath codecs collections
collections.abc colorsys concurrent.futures contextlib contextvars copy copyreg csv ctypes ctypes.util dataclasses
datetime decimal difflib dis doctest enum errno fcntl fnmatch fractions functools gc getpass gettext glob graphlib
hashlib heapq hmac html importlib inspect io ipaddress itertools json keyword linecache locale logging lzma math
mmap multiprocessing multiprocessing.popen_fork numbers operator os pathlib pickle pkgutil platform pprint profile
queue random re reprlib resource runpy sched secrets select selectors shutil signal socket stat statistics string
stringprep struct subprocess symtable sys tempfile textwrap threading time timeit token tokenize traceback types
typing unicodedata unittest urllib.error urllib.parse urllib.request uuid warnings weakref zlib
"""
)

ENCODINGS = _split_words(
    """
ascii latin_1 utf_8 utf_8_sig utf_16 utf_16_le utf_16_be utf_32 utf_32_le utf_32_be utf_7 cp1252 cp437 iso8859_15
idna punycode hex_codec base64_codec rot_13 unicode_escape raw_unicode_escape quopri_codec zlib_codec
"""
)

THIRD_PARTY = ("numpy", "sympy", "mpmath")
"""The third-party packages that a program may import if they are installed."""

_NUMPY_MODULES = _split_words("linalg random fft polynomial ma testing char rec ctypeslib exceptions dtypes typing")
_SYMPY_PACKAGES = _split_words(
    """
algebras assumptions calculus combinatorics concrete core discrete functions geometry holonomic integrals logic
matrices ntheory polys printing series sets simplify solvers stats strategies tensor unify utilities vector
"""
)
_SYMPY_SINGLE_MODULES = _split_words(
    """
parsing.sympy_parser physics.units physics.units.systems printing.latex printing.pretty
printing.str printing.pycode
"""
)
_SKIPPED_PREFIXES = (
    "tests", "benchmarks", "plotting", "pytest", "runtests", "tmpfiles", "autowrap", "_compilation", "sampling",
)  # fmt: skip
"""Name prefixes of the sympy modules that are not loaded: tests, and parts that need files or other programs."""

SAMPLE_PROGRAMS = (
    """
import io
import numpy as np
a = np.array([[2.0, 1.0], [1.0, 3.0]])
print(a, np.linalg.solve(a, [1.0, 2.0]), np.linalg.eigh(a), np.linalg.svd(a), np.linalg.inv(a) @ a)
print(np.fft.fft(np.arange(8)), np.polyfit([0, 1, 2], [1, 3, 5], 1), np.random.default_rng(1).normal(size=3))
print(np.percentile(a, 50), np.einsum('ij,jk', a, a), np.unique([3, 1, 3]), np.isclose(1.0, 1.0 + 1e-9))
print(np.genfromtxt(io.StringIO("1 2"), dtype=None), np.loadtxt(io.StringIO("1,2"), delimiter=","))
print(np.array2string(a, precision=3), np.mean(a, axis=0), np.sort(a), repr(np.float64(1.5)), f"{a[0, 0]:.3f}")
""",
    """
import sympy as sp
from sympy import *
x, y, z = symbols("x y z"); n = symbols("n", integer=True, positive=True); f = Function("f")
print(solve(x**2 - 5*x + 6, x), solve([x + y - 3, x - y - 1], [x, y]), solveset(sin(x), x), nsolve(cos(x) - x, 1))
print(integrate(sin(x)**2 * exp(x), x), integrate(exp(-x**2), (x, -oo, oo)), diff(x**x, x), limit(sin(x)/x, x, 0))
print(series(exp(x), x, 0, 5), summation(n**2, (n, 1, 10)), factor(x**3 - 1), expand((x + y)**3))
print(simplify(sin(x)**2 + cos(x)**2))
print(Matrix([[1, 2], [3, 4]]).inv(), Matrix([[2, 1], [1, 2]]).eigenvals(), dsolve(f(x).diff(x) - f(x)))
print(Rational(1, 3).evalf(20))
print(factorint(360), isprime(97), gcd(12, 18), latex(sqrt(x)), N(pi, 30), apart(1/(x**2 - 1)), sympify("x + 1/2"))
print(lambdify(x, x**2)(3), pretty(x/y), nsimplify(0.5), binomial(10, 3), linsolve([x + y - 2, x - y], x, y), srepr(x))
print(Eq(x, 1), Piecewise((x, x > 0), (0, True)), reduce_inequalities(x**2 < 4, x))
print(Poly(x**2 + 1, x).nroots(), re(1 + 2*I))
""",
    """
import datetime, decimal, fractions, json, random, re, statistics, textwrap
decimal.getcontext().prec = 30
print(decimal.Decimal(1) / 7, fractions.Fraction(1, 3) + 1, statistics.stdev([1, 2, 4]), json.dumps({"a": [1, 2.5]}))
print(datetime.date(2024, 2, 29) + datetime.timedelta(days=1), datetime.datetime.strptime("2024-01-02", "%Y-%m-%d"))
print(re.findall(r"\\d+", "a1b22"), textwrap.fill("a b c", 3), random.Random(1).random(), f"{1234.5:,.2f}")
raise ValueError("a typical failure")
""",
)


def load() -> dict[str, str]:
    """Import everything that a program may import. Returns the versions of the installed third-party libraries."""
    versions = {name: _read_version(name) for name in THIRD_PARTY if importlib.util.find_spec(name)}
    sys.meta_path.insert(0, _PackageBlocker())
    encodings = (f"encodings.{name}" for name in ENCODINGS)
    for name in (*STANDARD_MODULES, *encodings, *_list_third_party_modules(versions), *_PRIVATE_MODULES):
        # Some modules are missing from some versions, and others are deprecated.
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    return versions


class _PackageBlocker:
    """An import finder that refuses every package outside the standard library, `THIRD_PARTY` and this package. Parts
    of sympy would otherwise import torch and scipy if these were installed.
    """

    def find_spec(self, name: str, *_: object) -> None:
        top_package = name.partition(".")[0]
        if top_package not in sys.stdlib_module_names and top_package not in (*THIRD_PARTY, __package__):
            raise ModuleNotFoundError(f"no {name} in the sandbox", name=name)


_PRIVATE_MODULES = ("_strptime", "_pydecimal", "_pyio", "numpy.random._pickle")
"""Modules that functions of the other modules import only when they are called."""


def _read_version(name: str) -> str:
    return str(getattr(importlib.import_module(name), "__version__", "unknown"))


def _list_third_party_modules(versions: dict[str, str]) -> Iterator[str]:
    """The modules of the installed third-party libraries, in addition to the libraries themselves."""
    if "numpy" in versions:
        yield from (f"numpy.{part}" for part in _NUMPY_MODULES)
    if "sympy" in versions:
        yield from (f"sympy.{part}" for part in _SYMPY_SINGLE_MODULES)
        for part in _SYMPY_PACKAGES:
            yield from _list_modules_below(f"sympy.{part}")


def _list_modules_below(package: str) -> Iterator[str]:
    """The modules in a package and in its subpackages, without those that `_SKIPPED_PREFIXES` excludes."""
    module = importlib.import_module(package)
    for submodule in pkgutil.iter_modules(getattr(module, "__path__", []), f"{package}."):
        if submodule.name.rpartition(".")[2].startswith(_SKIPPED_PREFIXES):
            continue
        yield submodule.name
        if submodule.ispkg:
            yield from _list_modules_below(submodule.name)


def restrict_imports(versions: dict[str, str]) -> None:
    """Restrict imports to modules that are loaded or built into the interpreter."""
    sys.meta_path[:] = [BuiltinImporter, _ImportRefusal(versions)]
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


class _ImportRefusal:
    """The last import finder of a program: raises an error that lists the importable modules."""

    def __init__(self, versions: dict[str, str]) -> None:
        listed_modules = [name for name in STANDARD_MODULES if name not in _UNLISTED_MODULES]
        self._importable = ", ".join([*versions, *listed_modules])

    def find_spec(self, name: str, *_: object) -> ModuleSpec:
        message = f"No module named {name!r} in the sandbox, which has: {self._importable}"
        raise ModuleNotFoundError(message, name=name)


_UNLISTED_MODULES = frozenset(
    _split_words(
        """
asyncio ctypes ctypes.util fcntl glob mmap multiprocessing multiprocessing.popen_fork runpy select selectors shutil
socket subprocess tempfile urllib.error urllib.request
"""
    )
)
"""Modules that other modules need, but that are not listed as importable, since the kernel refuses their system calls.
"""


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def warm_up() -> None:
    """Run each of `SAMPLE_PROGRAMS`, so that lazy imports are done and caches filled before the first fork."""
    from nanoflux_sandbox import script

    for source in SAMPLE_PROGRAMS:
        with _suppress_output():
            script.run(source)
