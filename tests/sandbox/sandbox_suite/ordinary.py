"""Ordinary programs with their exact output, and failing ones with their error output; none is an exploit."""

# ruff: noqa: E501 (programs are easier to read unbroken)

ORDINARY: dict[str, tuple[str, str]] = {
    "print": ("print('hello', 1, 2.5, sep=', ', end='!\\n')", "hello, 1, 2.5!\n"),
    "gsm word problem": ("eggs = 16\neaten = 3 + 4\nprice = 2\nprint((eggs - eaten) * price)", "18\n"),
    "fixed structure of a check": (
        "price = 1250.0\nrate = 0.045\nyears = 7\nbalance = price * (1 + rate) ** years\nstep_1 = round(balance, 2)\nresult = step_1 - price\nprint(f'{result:.2f}')",
        "451.08\n",
    ),
    "large product": (
        "print(123456789 * 987654321, 2 ** 200)",
        "121932631112635269 1606938044258990275541962092341162602522202993782792835301376\n",
    ),
    "linear system": (
        "import numpy as np\na = np.array([[3.0, 2, -1], [2, -2, 4], [-1, 0.5, -1]])\nb = np.array([1.0, -2, 0])\nprint(np.round(np.linalg.solve(a, b), 9).tolist())",
        "[1.0, -2.0, -2.0]\n",
    ),
    "eigenvalues": (
        "import numpy as np\nprint(np.round(np.linalg.eigvalsh([[2.0, 1], [1, 2]]), 9).tolist())",
        "[1.0, 3.0]\n",
    ),
    "determinant and inverse": (
        "import numpy as np\na = np.array([[4.0, 7], [2, 6]])\nprint(round(float(np.linalg.det(a)), 6), np.round(np.linalg.inv(a), 3).tolist())",
        "10.0 [[0.6, -0.7], [-0.2, 0.4]]\n",
    ),
    "least squares": (
        "import numpy as np\nx = np.arange(5.0)\nprint(np.round(np.polyfit(x, 3 * x + 1, 1), 6).tolist())",
        "[3.0, 1.0]\n",
    ),
    "numpy statistics": (
        "import numpy as np\nx = np.array([1, 2, 3, 4, 100])\nprint(float(np.mean(x)), float(np.median(x)), round(float(np.std(x)), 4), float(np.percentile(x, 25)))",
        "22.0 3.0 39.0128 2.0\n",
    ),
    "numpy random with a seed": (
        "import numpy as np\nprint(np.random.default_rng(7).integers(0, 100, 5).tolist())",
        "[94, 62, 68, 89, 57]\n",
    ),
    "numpy shapes": (
        "import numpy as np\na = np.arange(12).reshape(3, 4)\nprint(a.T.shape, a.sum(axis=0).tolist(), a[a % 3 == 0].tolist())",
        "(4, 3) [12, 15, 18, 21] [0, 3, 6, 9]\n",
    ),
    "numpy fft": (
        "import numpy as np\nprint(np.round(np.abs(np.fft.fft([1, 0, 0, 0])), 6).tolist())",
        "[1.0, 1.0, 1.0, 1.0]\n",
    ),
    "numpy reads text": (
        "import io\nimport numpy as np\nprint(np.loadtxt(io.StringIO('1,2\\n3,4'), delimiter=',').tolist())",
        "[[1.0, 2.0], [3.0, 4.0]]\n",
    ),
    "quadratic": ("import sympy as sp\nx = sp.symbols('x')\nprint(sp.solve(x**2 - 5*x + 6, x))", "[2, 3]\n"),
    "system of equations": (
        "from sympy import symbols, solve\nx, y = symbols('x y')\nprint(solve([2*x + 3*y - 12, x - y - 1], [x, y]))",
        "{x: 3, y: 2}\n",
    ),
    "integral": (
        "from sympy import *\nx = symbols('x')\nprint(integrate(x**2 * exp(-x), (x, 0, oo)), integrate(1/(1 + x**2), x))",
        "2 atan(x)\n",
    ),
    "derivative": (
        "from sympy import *\nx = symbols('x')\nprint(diff(sin(x) * exp(x), x))",
        "exp(x)*sin(x) + exp(x)*cos(x)\n",
    ),
    "series": (
        "from sympy import *\nx = symbols('x')\nprint(series(cos(x), x, 0, 6))",
        "1 - x**2/2 + x**4/24 + O(x**6)\n",
    ),
    "limit": ("from sympy import *\nx = symbols('x')\nprint(limit((1 + 1/x)**x, x, oo))", "E\n"),
    "differential equation": (
        "from sympy import *\nt = symbols('t')\nf = Function('f')\nprint(dsolve(f(t).diff(t) + 2*f(t), f(t)))",
        "Eq(f(t), C1*exp(-2*t))\n",
    ),
    "symbolic matrix": (
        "from sympy import Matrix\nm = Matrix([[1, 2], [3, 4]])\nprint(m.det(), m.inv(), m.eigenvals())",
        "-2 Matrix([[-2, 1], [3/2, -1/2]]) {5/2 - sqrt(33)/2: 1, 5/2 + sqrt(33)/2: 1}\n",
    ),
    "number theory": (
        "from sympy import factorint, isprime, nextprime, totient\nprint(factorint(5040), isprime(2**31 - 1), nextprime(100), totient(36))",
        "{2: 4, 3: 2, 5: 1, 7: 1} True 101 12\n",
    ),
    "exact rationals": (
        "from sympy import Rational, nsimplify\nprint(Rational(1, 3) + Rational(1, 6), nsimplify(0.75))",
        "1/2 3/4\n",
    ),
    "simplify": (
        "from sympy import *\nx = symbols('x')\nprint(simplify((x**2 - 1)/(x - 1)), trigsimp(sin(x)**2 + cos(x)**2))",
        "x + 1 1\n",
    ),
    "sums": (
        "from sympy import *\nn, k = symbols('n k', integer=True)\nprint(factor(summation(k**2, (k, 1, n))))",
        "n*(n + 1)*(2*n + 1)/6\n",
    ),
    "many digits": (
        "from sympy import pi, sqrt\nprint(pi.evalf(40), sqrt(2).evalf(30))",
        "3.141592653589793238462643383279502884197 1.41421356237309504880168872421\n",
    ),
    "inequality": (
        "from sympy import *\nx = symbols('x', real=True)\nprint(solve(x**2 - 4 < 0, x))",
        "(-2 < x) & (x < 2)\n",
    ),
    "piecewise and latex": (
        "from sympy import *\nx = symbols('x')\nprint(latex(Integral(x**2, x)), Piecewise((x, x > 0), (0, True)).subs(x, -2))",
        "\\int x^{2}\\, dx 0\n",
    ),
    "probability": ("from sympy.stats import Die, P, E, density\nd = Die('D', 6)\nprint(P(d > 4), E(d))", "1/3 7/2\n"),
    "units": (
        "from sympy.physics.units import convert_to, kilometer, meter, hour, second\nprint(convert_to(36 * kilometer / hour, [meter, second]))",
        "10*meter/second\n",
    ),
    "parsed expression": ("from sympy.parsing.sympy_parser import parse_expr\nprint(parse_expr('2*x + 3*x'))", "5*x\n"),
    "mpmath": (
        "import mpmath\nmpmath.mp.dps = 25\nprint(mpmath.zeta(3), mpmath.quad(lambda x: x**2, [0, 3]))",
        "1.202056903159594285399738 9.0\n",
    ),
    "fractions": ("from fractions import Fraction\nprint(sum(Fraction(1, n) for n in range(1, 11)))", "7381/2520\n"),
    "decimals": (
        "from decimal import Decimal, getcontext\ngetcontext().prec = 50\nprint(Decimal(2).sqrt(), Decimal('0.1') + Decimal('0.2'))",
        "1.4142135623730950488016887242096980785696718753769 0.3\n",
    ),
    "dates": (
        "import datetime as d\nprint((d.date(2024, 3, 1) - d.date(2024, 2, 1)).days, d.datetime(2024, 1, 1).strftime('%A %d %B %Y'), d.datetime.strptime('05:30', '%H:%M').time())",
        "29 Monday 01 January 2024 05:30:00\n",
    ),
    "local time is UTC": (
        "import time\nprint(time.strftime('%Y-%m-%d %H:%M %Z', time.localtime(0)))",
        "1970-01-01 00:00 UTC\n",
    ),
    "calendar": ("import calendar\nprint(calendar.monthrange(2023, 2), calendar.isleap(2000))", "(2, 28) True\n"),
    "statistics": (
        "import statistics as s\nprint(s.mean([1, 2, 3, 4]), s.stdev([2, 4, 4, 4, 5, 5, 7, 9]), s.mode('aab'))",
        "2.5 2.138089935299395 a\n",
    ),
    "combinations": (
        "import itertools, math\nprint(math.comb(52, 5), len(list(itertools.permutations(range(5)))), math.gcd(84, 36), math.isqrt(10**20))",
        "2598960 120 12 10000000000\n",
    ),
    "complex numbers": ("import cmath\nprint(cmath.sqrt(-4), abs(3 + 4j), (1 + 2j) * (3 - 1j))", "2j 5.0 (5+5j)\n"),
    "Unicode": ("print('naïve Ω ≈ 日本語 🙂', 'straße'.upper(), len('e\\u0301'))", "naïve Ω ≈ 日本語 🙂 STRASSE 2\n"),
    "regular expressions": (
        "import re\nprint(re.sub(r'(\\d+)', lambda m: str(int(m[1]) * 2), 'a1 b22 c333'), re.findall(r'[A-Z]\\w+', 'Ann met Bob'))",
        "a2 b44 c666 ['Ann', 'Bob']\n",
    ),
    "dataclass": (
        "from dataclasses import dataclass, asdict\n\n@dataclass(order=True)\nclass P:\n    x: int\n    y: float = 1.5\n\nprint(P(1), asdict(P(2)), P(1) < P(2))",
        "P(x=1, y=1.5) {'x': 2, 'y': 1.5} True\n",
    ),
    "json": (
        "import json\nprint(json.dumps({'b': [1, 2.5, None], 'a': 'é'}, sort_keys=True), json.loads('{\"x\": 1e3}'))",
        '{"a": "\\u00e9", "b": [1, 2.5, null]} {\'x\': 1000.0}\n',
    ),
    "generators and closures": (
        "def fib():\n    a, b = 0, 1\n    while True:\n        yield a\n        a, b = b, a + b\n\ng = fib()\nprint([next(g) for _ in range(12)])",
        "[0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89]\n",
    ),
    "match": (
        "def f(v):\n    match v:\n        case {'kind': 'sum', 'of': [*xs]}:\n            return sum(xs)\n        case _:\n            return None\n\nprint(f({'kind': 'sum', 'of': [1, 2, 3]}), f(4))",
        "6 None\n",
    ),
    "collections": (
        "from collections import Counter, defaultdict, deque\nprint(Counter('mississippi').most_common(2), deque([1, 2, 3], maxlen=2), dict(defaultdict(int, a=1)))",
        "[('i', 4), ('s', 4)] deque([2, 3], maxlen=2) {'a': 1}\n",
    ),
    "sets in a fixed order": ("print(sorted({'b', 'a', 'c'}), {1, 2, 3})", "['a', 'b', 'c'] {1, 2, 3}\n"),
    "random with a seed": (
        "import random\nr = random.Random(42)\nprint([r.randint(1, 6) for _ in range(8)], round(r.gauss(0, 1), 6))",
        "[6, 1, 1, 6, 3, 2, 2, 2] -0.127588\n",
    ),
    "hashing": ("import hashlib\nprint(hashlib.sha256(b'abc').hexdigest()[:16])", "ba7816bf8f01cfea\n"),
    "pickle round trip": (
        "import pickle\n\nclass C:\n    def __init__(self, v):\n        self.v = v\n\nprint(pickle.loads(pickle.dumps(C([1, 2]))).v)",
        "[1, 2]\n",
    ),
    "recursion": (
        "import sys\nsys.setrecursionlimit(5000)\n\ndef depth(n):\n    return n if n == 0 else 1 + depth(n - 1)\n\nprint(depth(3000))",
        "3000\n",
    ),
    "caught exception": (
        "try:\n    [][1]\nexcept IndexError as e:\n    print('caught:', e)\nfinally:\n    print('done')",
        "caught: list index out of range\ndone\n",
    ),
    "printed to the error output": ("import sys\nprint('out')\nprint('err', file=sys.stderr)", "out\n"),
    "alarm that is handled": (
        "import signal\n\nclass Late(Exception):\n    pass\n\ndef ring(n, f):\n    raise Late\n\nsignal.signal(signal.SIGALRM, ring)\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\ntry:\n    while True:\n        pass\nexcept Late:\n    print('in time')",
        "in time\n",
    ),
    "at exit and finalizers": (
        "import atexit\n\nclass F:\n    def __del__(self):\n        print('gone')\n\nf = F()\natexit.register(print, 'bye')\nprint('end')",
        "end\nbye\ngone\n",
    ),
    "name of the main module": (
        "if __name__ == '__main__':\n    print(__name__)",
        "__main__\n",
    ),
    "empty": ("", ""),
}

FAILING: dict[str, tuple[str, str]] = {
    "an uncaught exception": (
        "def outer(x):\n    return inner(x)\n\ndef inner(x):\n    return 1 / x\n\nouter(0)\n",
        "Traceback (most recent call last):\n"
        '  File "program.py", line 7, in <module>\n    outer(0)\n'
        '  File "program.py", line 2, in outer\n    return inner(x)\n           ^^^^^^^^\n'
        '  File "program.py", line 5, in inner\n    return 1 / x\n           ~~^~~\n'
        "ZeroDivisionError: division by zero\n",
    ),
    "a chain of exceptions": (
        "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e\n",
        "Traceback (most recent call last):\n"
        "  File \"program.py\", line 2, in <module>\n    {}['a']\n    ~~^^^^^\n"
        "KeyError: 'a'\n\nThe above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        "  File \"program.py\", line 4, in <module>\n    raise ValueError('no a') from e\nValueError: no a\n",
    ),
    "an exception inside a library": (
        "import json\njson.loads('[1,')",
        "Traceback (most recent call last):\n"
        "  File \"program.py\", line 2, in <module>\n    json.loads('[1,')\n"
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 4 (char 3)\n",
    ),
    "a syntax error": (
        "x = 1\ny = = 2\n",
        '  File "program.py", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax\n',
    ),
    "an assertion": (
        "assert 1 + 1 == 3, 'sums differ'",
        "Traceback (most recent call last):\n"
        "  File \"program.py\", line 1, in <module>\n    assert 1 + 1 == 3, 'sums differ'\n           ^^^^^^^^^^\n"
        "AssertionError: sums differ\n",
    ),
    "a message as exit code": ("raise SystemExit('not solvable')", "not solvable\n"),
}
